import math

import pytest
import torch
from torch.distributions import Normal

from models.distributions import LATENT_LIMIT, SCALE_LIMIT, diagonal_normal, normal_image, standard_normal


def log_normal(x, mu, sigma):
    return -0.5 * ((x - mu) / sigma) ** 2 - sigma.log() - 0.5 * math.log(2 * math.pi)


def test_diagonal_normal_reads_mu_then_log_sigma():
    parameters, z = torch.randn(5, 6), torch.randn(4, 5, 3)
    q = diagonal_normal(parameters)
    assert (q.batch_shape, q.event_shape) == ((5,), (3,))
    mu, raw = parameters[:, :3], parameters[:, 3:]
    sigma = (LATENT_LIMIT * (raw / LATENT_LIMIT).tanh()).exp()
    torch.testing.assert_close(q.log_prob(z), log_normal(z, mu, sigma).sum(-1))
    assert diagonal_normal(torch.zeros(1, 2)).stddev.item() == 1  # a network that outputs 0 means N(0, 1)


def test_standard_normal():
    z = torch.randn(4, 5, 3)
    p = standard_normal(3, like=z)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    torch.testing.assert_close(p.log_prob(z), (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1))


@pytest.mark.parametrize("raw", [-0.5, 0.0, 0.3])
def test_normal_image(raw):
    logits, x = torch.randn(4, 5, 2, 3, 3), torch.rand(5, 2, 3, 3)
    p = normal_image(logits, torch.tensor(raw))
    assert (p.batch_shape, p.event_shape) == ((4, 5), (2, 3, 3))
    expected = log_normal(x, logits.sigmoid(), p.base_dist.scale).sum((-1, -2, -3))
    torch.testing.assert_close(p.log_prob(x), expected)
    assert p.base_dist.scale.unique().item() == pytest.approx(math.exp(raw), rel=0.01)


def test_a_learned_scale_cannot_collapse_or_explode():
    logits, x = torch.randn(1, 1, 2, 2), torch.rand(1, 1, 2, 2)
    for raw, scale in ((-1e9, 1 / 256), (1e9, 256)):
        log_scale = torch.tensor(raw, requires_grad=True)
        p = normal_image(logits, log_scale)
        torch.testing.assert_close(p.base_dist.scale.unique(), torch.tensor([float(scale)]))
        p.log_prob(x).sum().backward()
        assert log_scale.grad.isfinite()
    assert math.exp(SCALE_LIMIT) == pytest.approx(256)


def test_argument_validation_is_disabled():
    Normal(torch.tensor(0.0), torch.tensor(-1.0))  # raises if validation is enabled
