"""models/estimators/observation_scale.py: log p(x) of a generator for a grid of scales."""

import pytest
import torch
from exact_models import LinearGenerator

from evaluation.density import choose_px_scale
from models.estimators.observation_scale import VARIANCES, log_px_of_scales, precisions


@pytest.fixture
def model():
    return LinearGenerator()


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.25])
def test_estimates_are_those_of_the_exact_log_likelihood(model, scale):
    x = model.images(20, scale)
    found = log_px_of_scales(model, x)
    exact = torch.stack([model.log_p(x, variance**0.5) for variance in VARIANCES])
    assert found.shape == (len(VARIANCES), 20)
    assert found.dtype == torch.float64
    # Two chains of each image: in expectation a lower bound, which is tighter for larger scales.
    errors = (found - exact).mean(1)
    assert errors.abs().max() < 0.6
    assert errors[exact.mean(1).argmax() :].abs().max() < 0.25


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.15, 0.3])
def test_the_chosen_scale_is_the_best_of_the_grid_by_the_exact_log_likelihood(model, scale):
    x = model.images(20, scale)
    exact = torch.stack([model.log_p(x, variance**0.5).mean() for variance in VARIANCES])
    found = choose_px_scale(model, x)
    assert found["px_scale"] ** 2 == pytest.approx(VARIANCES[int(exact.argmax())])
    assert found["variances"].tolist() == list(VARIANCES)
    assert found["log_px"].shape == (len(VARIANCES),)


def test_the_mean_weight_is_unbiased(model):
    """The mean of exp(log weight) over runs is p(x), also for scales in the middle of the chains."""
    x = model.images(1, 0.1).expand(400, -1, -1, -1)
    found = log_px_of_scales(model, x)
    for index in (0, len(VARIANCES) // 2, len(VARIANCES) - 1):
        ratio = (found[index] - model.log_p(x, VARIANCES[index] ** 0.5)).exp()
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / 20


def test_the_same_bits_twice_and_the_scale_of_the_model_is_left_as_it_was(model):
    x, state = model.images(3, 0.1), torch.get_rng_state()
    first = log_px_of_scales(model, x)
    assert torch.equal(first, log_px_of_scales(model, x))
    assert (first != log_px_of_scales(model, x, seed=1)).any()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.observation_scale == type(model).observation_scale


def test_the_temperatures_rise_and_hold_the_grid():
    path, positions = precisions((0.01, 0.02, 0.5))
    assert path[0] == 0
    assert path == sorted(set(path))
    assert [1 / path[position] for position in positions] == pytest.approx([0.01, 0.02, 0.5])
    assert positions[0] == len(path) - 1
