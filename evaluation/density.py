"""Densities of models on grey images: the scale of a generator's p(x|z), and the Parzen window estimate."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import models
from evaluation.metrics import standard_error
from models.estimators.observation_scale import VARIANCES, log_px_of_scales, number_of_moves
from models.estimators.parzen import SCALES, choose_parzen_scale, parzen_log_px

SCALE_IMAGES = 20  # validation images that the scale of p(x|z) is chosen on
PARZEN_SAMPLES = 10_000
PARZEN_IMAGES = 1000  # validation images that the width of the Parzen window is chosen on
SAMPLES_PER_PASS = 500


def px_scale(model: models.Model) -> float | None:
    """Return sigma of p(x|z) of a model with Gaussian pixels; None for other models."""
    likelihood = model.pixel_likelihood
    return None if likelihood is None else likelihood.sigma


def choose_px_scale(model: models.Model, x: Tensor) -> dict[str, np.ndarray]:
    """Choose sigma of a generator's p(x|z) = N(x; g(z), sigma^2 I) on validation images, as in Wu et al. (2017).

    Args:
        model: An `ImplicitModel`.
        x: Validation images `(N, C, H, W)`.

    Returns:
        `variances`, the grid of sigma^2; `log_px`, the mean estimate of log p(x) for each (nats per image); and
        `px_scale`, the sigma with the highest one.
    """
    with tqdm(total=number_of_moves(), unit="temperature", desc="sigma of p(x|z)", disable=None, leave=False) as bar:
        log_px = log_px_of_scales(model, x, VARIANCES, moved=bar.update).mean(1).numpy()
    variances = np.array(VARIANCES)
    return {"variances": variances, "log_px": log_px, "px_scale": np.sqrt(variances[log_px.argmax()])}


def parzen(model: models.Model, x: Tensor, x_val: Tensor) -> dict[str, np.ndarray]:
    """Return the Parzen window estimate of log p(x) of test images, around samples of a model.

    The samples are mean images: the window is the noise. Its width is chosen on validation images.

    Args:
        model: A model with `sample`.
        x: Test images `(N, C, H, W)`.
        x_val: Validation images.

    Returns:
        `parzen_log_px` (nats) per test image `(N,)`, and `parzen_scale`, the width.
    """
    samples = mean_samples(model, PARZEN_SAMPLES)
    scale = choose_parzen_scale(x_val, samples, SCALES)
    return {"parzen_log_px": parzen_log_px(x, samples, [scale])[0].cpu().numpy(), "parzen_scale": np.array(scale)}


def mean_samples(model: models.Model, n: int, seed: int = 0) -> Tensor:
    """Return n samples of a model without pixel noise, `(n, C, H, W)`."""
    with models.evaluating(model, seed):
        sizes = [min(SAMPLES_PER_PASS, n - start) for start in range(0, n, SAMPLES_PER_PASS)]
        return torch.cat([model.sample(size) for size in sizes])


def parzen_summary(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return fields of `Evaluation` from the values of `parzen`."""
    values = found["parzen_log_px"]
    return {
        "parzen_nll": -values.mean(),
        "parzen_nll_se": standard_error(values),
        "parzen_scale": found["parzen_scale"].item(),
        "parzen_samples": PARZEN_SAMPLES,
    }
