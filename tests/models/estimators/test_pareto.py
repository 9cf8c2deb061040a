import math

import pytest
import torch
from exact_models import LinearGaussian
from torch.distributions import Independent, Normal

from models.estimators import pareto
from models.estimators.importance import importance
from models.estimators.pareto import fit_tails, pareto_k, tail_size


def tail(log_w):
    """Return the largest of log weights `(K, B)`, as in `Estimate.largest`."""
    return log_w.topk(tail_size(len(log_w)) + 1, dim=0).values.T


@pytest.mark.parametrize("k", [0.2, 0.5, 0.7, 1.0, 1.5])
def test_k_hat_is_the_shape_of_a_pareto_tail(k):
    """U^-k has a Pareto tail of shape k; the prior of the estimate shrinks it slightly towards 1/2."""
    u = torch.rand(20_000, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = pareto_k(tail(-k * u.log() - 700), 20_000)
    assert found.dtype == torch.float64
    assert found.mean().item() == pytest.approx(k, abs=0.05)
    assert found.std() < 0.15


def test_k_hat_of_the_largest_weights_is_that_of_all():
    from arviz_stats.base import array_stats

    log_w = torch.randn(3000, 4, dtype=torch.float64) * 3
    expected = array_stats.psislw(-log_w.T.numpy())[1]
    torch.testing.assert_close(pareto_k(tail(log_w), 3000), torch.tensor(expected))
    assert tail_size(3000) == 164


def test_k_hat_of_light_tails_equal_weights_and_few_samples():
    assert (pareto_k(tail(torch.rand(5000, 3, dtype=torch.float64)), 5000) < 0.3).all()
    assert torch.equal(pareto_k(tail(torch.zeros(5000, 2)), 5000), torch.zeros(2, dtype=torch.float64))
    assert pareto_k(tail(torch.randn(24, 2)), 24).isnan().all()
    assert pareto_k(tail(torch.randn(25, 2)), 25).isfinite().all()


@pytest.mark.parametrize("K", [25, 225, 226, 1000, 5000])
def test_k_hat_of_all_images_at_once_is_that_of_arviz(K):
    """As on a GPU."""
    noise = torch.randn(K, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(K))
    log_w = noise * torch.tensor([0.1, 1, 3, 10, 30, 0]) - 700
    torch.testing.assert_close(fit_tails(tail(log_w)), pareto_k(tail(log_w), K), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("fit", ["arviz", "at once"])
@pytest.mark.parametrize("scale", [100.0, 300.0, 800.0, 1e5])
def test_k_hat_of_weights_that_round_to_0_is_above_any_limit(fit, scale, monkeypatch):
    """Relative to the largest weight all others round to 0, and a fit would find a light tail or none."""
    if fit == "at once":
        monkeypatch.setattr(pareto, "fit_tails_by_arviz", lambda largest, K: fit_tails(largest))
    log_w = scale * torch.randn(1000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = pareto_k(tail(log_w), 1000)
    assert (found > 10).all()
    assert (found == math.inf).all() or scale < 500


def test_k_hat_is_low_for_the_exact_and_high_for_a_narrow_posterior():
    x = torch.randn(10, 1, 2, 2)
    exact = importance(LinearGaussian(exact=True), x, 2000).largest
    assert (pareto_k(exact, 2000) < 0.7).all()
    narrow = LinearGaussian(exact=False)
    narrow.posterior = lambda x, y=None: Independent(Normal(narrow.true_posterior(x).mean, 0.1 * torch.ones(2)), 1)
    assert (pareto_k(importance(narrow, x, 2000).largest, 2000) > 0.7).all()
