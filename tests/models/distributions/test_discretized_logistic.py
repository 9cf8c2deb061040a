"""The discretized logistic distribution against scipy, in value, gradient, mean and sampling frequencies."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, logistic
from torch.distributions import Categorical, MixtureSameFamily

from models.distributions.discretized_logistic import DiscretizedLogistic

LEVELS = torch.arange(256) / 255
MEANS = [0.0, 1e-6, 0.1, 0.5, 127.5 / 255, 0.99, 1.0]
LOG_SCALES = [-8.0, -7.0, -5.0, -3.0, -1.0, 0.0, 3.0, 8.0]


def probabilities(mean: float, scale: float) -> np.ndarray:
    """Return P(x = k / 255) as differences of the cdf below the mean, and of the survival function above it."""
    thresholds = (np.arange(255) + 0.5) / 255
    cdf = np.concatenate([[0], logistic.cdf(thresholds, mean, scale), [1]])
    survival = np.concatenate([[1], logistic.sf(thresholds, mean, scale), [0]])
    return np.where(np.arange(256) / 255 < mean, np.diff(cdf), -np.diff(survival))


def distribution(mean, log_scale, dtype):
    return DiscretizedLogistic(torch.tensor(mean, dtype=dtype), torch.tensor(log_scale, dtype=dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("log_scale", LOG_SCALES)
@pytest.mark.parametrize("mean", MEANS)
def test_log_probabilities_and_mean_against_scipy(mean, log_scale, dtype, tolerance):
    p = distribution(mean, log_scale, dtype)
    exact = probabilities(p.loc.item(), np.exp(log_scale))
    found = p.log_prob(LEVELS.to(dtype)).double()
    assert found.exp().sum().item() == pytest.approx(1, abs=1e-6)
    normal = exact > 1e-250
    torch.testing.assert_close(found[normal], torch.tensor(np.log(exact[normal])), rtol=tolerance, atol=tolerance)
    assert p.mean.item() == pytest.approx((exact * np.arange(256) / 255).sum(), abs=1e-5)


def test_gradients_in_float32_are_those_in_float64():
    logits = torch.tensor([-1e4, -20.0, -3.0, 0.0, 0.7, 5.0, 1e4])[:, None, None]
    log_scale = torch.tensor([-8.0, -4.0, -1.0, 8.0])[:, None]
    gradients = []
    for dtype in (torch.float32, torch.float64):
        parameters = [part.to(dtype).requires_grad_() for part in (logits, log_scale)]
        log_p = DiscretizedLogistic(parameters[0].sigmoid(), parameters[1]).log_prob(LEVELS.to(dtype))
        assert log_p.isfinite().all()
        gradients.append([part.float() for part in torch.autograd.grad(log_p.sum(), parameters)])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("components", [None, 3])
def test_sampling_frequencies_are_the_probabilities(components):
    torch.manual_seed(0)
    if components is None:
        p = distribution(0.02, -4.0, torch.float32)
    else:
        parts = DiscretizedLogistic(torch.tensor([0.1, 0.5, 0.98]), torch.tensor([-4.0, -3.0, -4.0]))
        p = MixtureSameFamily(Categorical(logits=torch.tensor([0.0, 1.0, -1.0])), parts)
    x = p.sample((100_000,))
    assert set(x.tolist()) <= set(LEVELS.tolist())
    expected = p.log_prob(LEVELS).double().exp().numpy() * len(x)
    observed = (x * 255).round().long().bincount(minlength=256).numpy()
    common = expected > 20
    rest = [counts[~common].sum() for counts in (observed, expected)]
    found = [np.append(counts[common], more) for counts, more in zip((observed, expected), rest, strict=True)]
    assert chisquare(found[0], found[1] * found[0].sum() / found[1].sum()).pvalue > 1e-3
    assert x.mean().item() == pytest.approx(p.mean.item(), abs=4 * x.std().item() / len(x) ** 0.5)


def test_a_uniform_number_of_0_gives_a_level(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape, **options))
    assert distribution(0.5, -3.0, torch.float32).sample().item() == 0


def test_expanding_repeats_the_parameters():
    p = distribution(0.3, -2.0, torch.float32)
    assert p.expand((4, 2)).log_prob(torch.tensor(0.2)).shape == (4, 2)
    assert (p.expand((4, 2)).mean == p.mean).all()
