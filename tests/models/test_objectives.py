import math

import pytest
import torch

from models.objectives import OBJECTIVES, elbo, ess, iwae

LOG_W = torch.randn(50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 3  # (K, B)


def test_against_the_definitions():
    w = LOG_W.exp()
    torch.testing.assert_close(elbo(LOG_W), LOG_W.sum(0) / 50)
    torch.testing.assert_close(iwae(LOG_W), (w.sum(0) / 50).log())
    torch.testing.assert_close(ess(LOG_W), w.sum(0) ** 2 / (w**2).sum(0))


@pytest.mark.parametrize("objective", [*OBJECTIVES.values(), ess])
def test_one_number_per_image(objective):
    assert objective(LOG_W).shape == (8,)


def test_all_bounds_agree_for_one_sample_and_for_equal_weights():
    for log_w in (LOG_W[:1], LOG_W[:1].expand(20, -1)):
        for bound in OBJECTIVES.values():
            torch.testing.assert_close(bound(log_w), LOG_W[0])
        torch.testing.assert_close(ess(log_w), torch.full((8,), float(len(log_w)), dtype=torch.float64))


def test_elbo_is_below_iwae():
    assert (elbo(LOG_W) < iwae(LOG_W)).all()


def test_ess_lies_between_1_and_the_number_of_samples():
    assert ((ess(LOG_W) > 1) & (ess(LOG_W) < 50)).all()
    one_dominates = torch.zeros(50, 1)
    one_dominates[7] = 60.0
    torch.testing.assert_close(ess(one_dominates), torch.ones(1))


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_weights_beyond_floating_point(shift):
    torch.testing.assert_close(iwae(LOG_W + shift), iwae(LOG_W) + shift)
    torch.testing.assert_close(ess(LOG_W + shift), ess(LOG_W))
    assert ess((LOG_W + shift).float()).isfinite().all()


def test_the_gradient_of_iwae_is_the_normalised_weight():
    log_w = LOG_W.clone().requires_grad_()
    iwae(log_w).sum().backward()
    torch.testing.assert_close(log_w.grad, LOG_W.softmax(0))


def test_a_zero_weight_counts_as_a_sample():
    log_w = torch.tensor([[0.0], [-math.inf]])
    torch.testing.assert_close(iwae(log_w), torch.tensor([math.log(0.5)]))
    torch.testing.assert_close(ess(log_w), torch.ones(1))
