"""models/estimators/parzen.py: a Gaussian kernel density around samples."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from models.estimators import parzen
from models.estimators.parzen import SCALES, choose_parzen_scale, parzen_log_px


def naive(x, samples, scale):
    """Loop over images and samples."""
    values = []
    for image in x.double().flatten(1):
        terms = [Independent(Normal(sample, scale), 1).log_prob(image) for sample in samples.double().flatten(1)]
        values.append(torch.stack(terms).logsumexp(0) - math.log(len(terms)))
    return torch.stack(values)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.rand(7, 1, 3, 3), torch.rand(11, 1, 3, 3)


def test_it_is_the_naive_computation(pair, monkeypatch):
    x, samples = pair
    expected = torch.stack([naive(x, samples, scale) for scale in (0.05, 0.4)])
    torch.testing.assert_close(parzen_log_px(x, samples, (0.05, 0.4)), expected)
    monkeypatch.setattr(parzen, "IMAGES_PER_PASS", 3)
    monkeypatch.setattr(parzen, "SAMPLES_PER_PASS", 4)
    torch.testing.assert_close(parzen_log_px(x, samples, (0.05, 0.4)), expected)


def test_many_samples_of_a_gaussian_give_its_density_widened_by_the_window():
    torch.manual_seed(0)
    samples, x, scale = torch.randn(200_000, 2), torch.randn(50, 2).clamp(-2, 2), 0.3
    exact = Independent(Normal(torch.zeros(2).double(), (1 + scale**2) ** 0.5), 1).log_prob(x.double())
    torch.testing.assert_close(parzen_log_px(x, samples, [scale])[0], exact, atol=0.05, rtol=0)


def test_the_width_is_the_best_of_the_grid(pair):
    x, samples = pair
    means = [naive(x, samples, scale).mean() for scale in SCALES]
    assert choose_parzen_scale(x, samples) == SCALES[max(range(len(SCALES)), key=lambda index: means[index])]


def test_the_grid_covers_usual_widths():
    assert SCALES[0] == 0.02
    assert SCALES[-1] == pytest.approx(1)
    assert list(SCALES) == sorted(SCALES)


def test_distances_are_precise_enough_where_an_image_is_a_sample():
    torch.manual_seed(0)
    x = torch.rand(20, 28 * 28)
    exact = -math.log(20) - 28 * 28 * (math.log(2 * math.pi) / 2 + math.log(0.02))
    torch.testing.assert_close(
        parzen_log_px(x, x, [0.02])[0], torch.full((20,), exact, dtype=torch.float64), atol=1e-6, rtol=0
    )
