"""The continuous Bernoulli distribution against numerical integration, closed forms and float64."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest

from models.distributions.continuous_bernoulli import AccurateContinuousBernoulli, log_normaliser, logits_of, mean_of

LOGITS = [-1e4, -300.0, -20.0, -3.0, -1.0, -0.5, -1e-2, -1e-8, 0.0, 1e-4, 0.3, 1.0, 2.0, 17.0, 100.0, 1e4]


def exact_log_normaliser(logit: float) -> float:
    """Return log(|l| / (1 - e^-|l|)) + log(1 + e^-|l|)."""
    size = abs(logit)
    return math.log(size / -math.expm1(-size)) + math.log1p(math.exp(-size)) if size else math.log(2)


@pytest.mark.parametrize("logit", LOGITS)
def test_the_normaliser_and_its_gradient_in_float32(logit):
    results = []
    for dtype in (torch.float32, torch.float64):
        l = torch.tensor(logit, dtype=dtype, requires_grad=True)  # noqa: E741
        results.append((log_normaliser(l), *torch.autograd.grad(log_normaliser(l), l)))
    (value, gradient), (value64, gradient64) = results
    assert value64.item() == pytest.approx(exact_log_normaliser(logit), abs=1e-8)
    assert value.item() == pytest.approx(exact_log_normaliser(logit), abs=1e-6)
    assert gradient.item() == pytest.approx(gradient64.item(), abs=1e-6)
    # the derivative of log C is the mean of the density minus, as its normaliser, sigmoid(l)
    l64 = torch.tensor(logit, dtype=torch.float64)
    assert gradient64.item() == pytest.approx((l64.sigmoid() - mean_of(l64)).item(), abs=1e-7)


@pytest.mark.parametrize("logit", [-30.0, -1.0, -1e-3, 0.0, 0.2, 5.0, 30.0])
def test_density_and_mean_by_numerical_integration(logit):
    p = AccurateContinuousBernoulli(logits=torch.tensor(logit))

    def density(x):
        return p.log_prob(torch.tensor(x, dtype=torch.float32)).exp().item()

    assert quad(density, 0, 1, limit=200)[0] == pytest.approx(1, abs=1e-5)
    assert quad(lambda x: x * density(x), 0, 1, limit=200)[0] == pytest.approx(p.mean.item(), abs=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_large_logits_have_finite_values_and_gradients(logit):
    for x in (0.0, 0.5, 1.0):
        logits = torch.tensor(logit, requires_grad=True)
        log_p = AccurateContinuousBernoulli(logits=logits).log_prob(torch.tensor(x))
        exact = math.log(abs(logit)) + logit * x - max(logit, 0)
        assert log_p.item() == pytest.approx(exact, rel=1e-5)
        assert torch.autograd.grad(log_p, logits)[0].isfinite()


@pytest.mark.parametrize("logit", [-1e4, -5.0, 0.0, 1e-9, 3.0, 1e4])
def test_samples(logit):
    torch.manual_seed(0)
    x = AccurateContinuousBernoulli(logits=torch.tensor(logit)).sample((20_000,)).double().numpy()
    assert x.min() >= 0
    assert x.max() <= 1
    size = max(abs(logit), 1e-6)
    distance = 1 - x if logit > 0 else x
    assert kstest(distance, lambda t: np.expm1(-size * t) / np.expm1(-size)).pvalue > 1e-3


def test_logits_of_a_mean():
    mean = torch.tensor([0.01, 0.3, 0.5, 0.7, 0.99])
    torch.testing.assert_close(mean_of(logits_of(mean)), mean, rtol=1e-4, atol=1e-6)
    assert logits_of(torch.tensor(0.0)).item() == pytest.approx(-512, rel=1e-3)


def test_moments_that_are_not_overridden_are_not_available():
    with pytest.raises(NotImplementedError):
        AccurateContinuousBernoulli(logits=torch.zeros(2)).variance  # noqa: B018
