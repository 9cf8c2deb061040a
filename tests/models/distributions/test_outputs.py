import math

import pytest
import torch

from models.distributions import bernoulli_image, diagonal_normal, normal_image, soft_clip


def test_soft_clip_is_the_identity_near_zero_and_within_its_limit():
    near = torch.linspace(-0.1, 0.1, 11)
    torch.testing.assert_close(soft_clip(near, 7.0), near, rtol=1e-3, atol=1e-6)
    far = torch.tensor([-math.inf, -1e30, -100.0, 100.0, 1e30, math.inf])
    torch.testing.assert_close(soft_clip(far, 7.0), 7.0 * far.sign())
    grid = soft_clip(torch.linspace(-20, 20, 101), 7.0)
    assert (grid.diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_outputs_become_single_precision_densities(dtype):
    half = torch.randn(2, 4).to(dtype)
    assert diagonal_normal(half).rsample().dtype == torch.float32
    assert bernoulli_image(half.view(2, 1, 2, 2)).log_prob(torch.ones(2, 1, 2, 2)).dtype == torch.float32
    assert normal_image(half.view(2, 1, 2, 2), torch.tensor(0.0)).mean.dtype == torch.float32
