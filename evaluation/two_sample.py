"""Two-sample measures: how well samples of a model can be told from test images.

Samples and test images have the same kind of pixels. For binary protocols a sample is x ~ p(x|z), binary like the test
images: a mean image is grey, and any test would tell it from them. For grey images a sample is the mean of p(x|z), as
generators without pixel noise draw it; for models with a likelihood the same is measured with their pixel noise too.
"""

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

import models
from datamodules import GREY_PROTOCOLS
from evaluation.digit_features import DigitClassifier, Features, from_arrays, predicted_classes, to_arrays
from evaluation.digit_features import train_classifier as train_on
from models.mmd import gaussian_kernel, squared_distances, widths_for

MAX_IMAGES = 5000  # samples, and test images
ROWS_PER_PASS = 500
KERNEL_SUBSETS = 50  # of the kernel distance
KERNEL_SUBSET_SIZE = 1000
SAMPLES_PER_PASS = 500
TIE = 1e-9  # squared distances that differ by less are equal; rounding in float64 stays below it
MEASURES = ("mmd2", "nn_error", "nn_error_real", "nn_error_samples", "frechet", "kernel", "kernel_sd")


def number_of_images(data) -> int:
    """Return the number of samples: as many as there are test images and validation images, at most `MAX_IMAGES`."""
    return min(MAX_IMAGES, len(data.test.y), len(data.val.y))


def random_images(data, split: str, n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return n images of a split, drawn without replacement and in the same way at each call, `(n, C, H, W)`.

    The first images would not do: data sets store images in the order of their writers, who differ from each other.
    """
    x, _ = data.images(split)
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    return x[chosen].to(device)


def has_labels(data) -> bool:
    """Return whether all training images of a data module have labels, of at least two classes."""
    return data.num_classes > 1 and bool((data.train.y >= 0).all()) and len(data.train.y.unique()) > 1


# Samples


def draw(model: models.Model, n: int, labels: Tensor, with_noise: bool, seed: int = 0) -> Tensor:
    """Return n samples of a model, `(n, C, H, W)`.

    Args:
        model: A model with `sample`.
        n: Number of samples.
        labels: Labels to draw from for conditional models, such as those of the training images.
        with_noise: Draw pixels from p(x|z), by `ais_simulate` if the model has it, else as Bernoulli pixels. Without,
            samples are mean images.
        seed: Seed of all noise.
    """
    with models.evaluating(model, seed):
        y = labels[torch.randint(len(labels), (n,))].to(model.device)
        parts = [sample_part(model, part, with_noise) for part in y.split(SAMPLES_PER_PASS)]
    return torch.cat(parts).float()


def sample_part(model: Any, y: Tensor, with_noise: bool) -> Tensor:
    """Return one sample per label in `y (B,)`; models that are not conditional ignore the labels."""
    n = len(y)
    if not with_noise:
        return model.sample(n, *model.condition_args(y))
    if model.can("ais_simulate"):
        return model.ais_simulate(model.ais_prior().sample((n,)), *model.condition_args(y))
    return model.sample(n, *model.condition_args(y)).bernoulli()


# Measures on pixels


def kernel_mean(x: Tensor, y: Tensor, widths: list[float], without_pairs: bool = False) -> float:
    """Return the mean of the kernel over all pairs of rows of `x (N, D)` and `y (M, D)`.

    Args:
        x: Images.
        y: Other images.
        widths: Kernel widths, in squared units of pixels.
        without_pairs: x and y are the same images; pairs of an image with itself are left out.
    """
    total = 0.0
    for rows in x.split(ROWS_PER_PASS):
        total += gaussian_kernel(squared_distances(rows, y), widths).sum(dtype=torch.float64).item()
    if without_pairs:  # of which each contributes k(x, x) = the number of widths
        return (total - len(x) * len(widths)) / (len(x) * (len(x) - 1))
    return total / (len(x) * len(y))


def unbiased_mmd2(x: Tensor, y: Tensor, widths: list[float]) -> float:
    """Return the unbiased estimate of MMD^2 (Gretton et al. 2012) between images `(N, ...)` and `(M, ...)`.

    It is that of `models.mmd.mmd2`, in parts that fit into memory. It can be negative, and is 0 in the mean if both
    sets have the same distribution.
    """
    x, y = x.flatten(1), y.flatten(1)
    within = kernel_mean(x, x, widths, without_pairs=True) + kernel_mean(y, y, widths, without_pairs=True)
    return within - 2 * kernel_mean(x, y, widths)


def nearest(x: Tensor, y: Tensor, same: bool) -> Tensor:
    """Return the squared distance of each row of `x (N, D)` to the nearest row of `y (M, D)`, `(N,)`.

    Args:
        x: Images.
        y: Images.
        same: x and y are the same images; an image is not its own neighbour.
    """
    found = []
    for start in range(0, len(x), ROWS_PER_PASS):
        squared = squared_distances(x[start : start + ROWS_PER_PASS], y)
        if same:
            rows = torch.arange(len(squared), device=x.device)
            squared[rows, start + rows] = torch.inf
        found.append(squared.min(1).values)
    return torch.cat(found)


def nearest_neighbour_errors(real: Tensor, samples: Tensor) -> dict[str, float]:
    """Return the error of a leave-one-out 1-nearest-neighbour classifier of real images and samples.

    0.5 means that it cannot tell them apart, 0 that it always can (Lopez-Paz & Oquab 2017). The errors on each kind are
    given too, because their mean can mislead: if samples are blurred, or collapsed to a few images, the nearest
    neighbour of every image is a sample, and the mean is 0.5. A tie counts as half an error.

    Args:
        real: Real images `(N, ...)`.
        samples: As many samples `(N, ...)`.
    """
    real, samples = real.flatten(1).double(), samples.flatten(1).double()
    to_real, to_samples = nearest(real, real, same=True), nearest(real, samples, same=False)
    from_samples, among_samples = nearest(samples, real, same=False), nearest(samples, samples, same=True)
    error_real, error_samples = errors(to_real, to_samples), errors(among_samples, from_samples)
    return {
        "nn_error": (error_real + error_samples) / 2,
        "nn_error_real": error_real,
        "nn_error_samples": error_samples,
    }


def errors(own: Tensor, other: Tensor) -> float:
    """Return the share of images whose nearest image of the other set is nearer than that of their own set.

    A tie, up to rounding, counts as half: binary images often have several neighbours at the same distance.
    """
    is_tie = (other - own).abs() < TIE
    return torch.where(is_tie, 0.5, (other < own).double()).mean().item()


# Measures on features


def feature_distances(features: Features, real: Tensor, samples: Tensor, seed: int = 0) -> dict[str, float]:
    """Return Fréchet distance (Heusel et al. 2017) and kernel distance (Bińkowski et al. 2018) in features.

    Args:
        features: The feature extractor.
        real: Real images `(N, C, H, W)`.
        samples: As many samples.
        seed: Seed of the subsets of the kernel distance.
    """
    subset_size = min(KERNEL_SUBSET_SIZE, len(real))
    subsets = KERNEL_SUBSETS if subset_size < len(real) else 1
    # Only rank 0 computes: a metric that waited for the other ranks would wait forever.
    options: dict[str, Any] = {"feature": features, "sync_on_compute": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the metric keeps all features in memory
        kernel = KernelInceptionDistance(subsets=subsets, subset_size=subset_size, **options)
    frechet = FrechetInceptionDistance(**options)
    with models.evaluating(features, seed):
        for metric in (frechet, kernel):
            metric = metric.to(real.device)
            metric.update(real, real=True)
            metric.update(samples, real=False)
        mean, sd = kernel.compute()
        kernel_sd = sd.item() if subsets > 1 else math.nan  # one subset has no standard deviation
        return {"frechet": frechet.compute().item(), "kernel": mean.item(), "kernel_sd": kernel_sd}


# All measures


class Comparison:
    """Compares samples with a fixed set of real images.

    Args:
        real: Test images `(N, C, H, W)`.
        widths: Kernel widths of the MMD, in squared units of pixels.
        classifier: For distances in features; None leaves them out.
    """

    def __init__(self, real: Tensor, widths: list[float], classifier: DigitClassifier | None):
        self.real, self.widths, self.classifier = real, widths, classifier

    def measure(self, samples: Tensor) -> dict[str, float]:
        """Return all measures of as many samples, or other real images, by the names in `MEASURES`."""
        found = {"mmd2": unbiased_mmd2(self.real, samples, self.widths)}
        found |= nearest_neighbour_errors(self.real, samples)
        if self.classifier is not None:
            found |= feature_distances(Features(self.classifier), self.real, samples)
        return found


def two_sample(
    model: models.Model, data, classifier: DigitClassifier | None, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Return fields of `Evaluation`: the two-sample measures of a model, with and without pixel noise.

    The same measures of validation images against the test images are the reference: what a perfect model gets.

    Args:
        model: A model with `sample`.
        data: Its data module, set up.
        classifier: From `data_classifier`, if the training images have labels.
        device: Device of the model.
    """
    n, is_grey = number_of_images(data), data.protocol in GREY_PROTOCOLS
    real, held_out = (random_images(data, split, n, device) for split in ("test", "val"))
    labels = data.train.y[data.train.y >= 0]
    labels = labels if len(labels) else torch.zeros(1, dtype=torch.int64)
    train = random_images(data, "train", MAX_IMAGES, device)
    comparison = Comparison(real, widths_for(train).tolist(), None if classifier is None else classifier.to(device))
    samples = draw(model, n, labels, with_noise=not is_grey)
    found: dict[str, Any] = {"two_sample_images": n}
    measured = {"": comparison.measure(samples), "reference_": comparison.measure(held_out)}
    if is_grey and model.pixel_likelihood is not None:
        measured["noisy_"] = comparison.measure(draw(model, n, labels, with_noise=True))
    for kind, values in measured.items():
        found |= {f"two_sample_{kind}{name}": value for name, value in values.items()}
    if classifier is not None:
        classes = predicted_classes(classifier, samples).bincount(minlength=data.num_classes)
        found["two_sample_classes"] = (classes.double() / n).tolist()
        x, y = data.images("test", device=device)
        if (known := y >= 0).any():
            wrong = predicted_classes(classifier, x[known]) != y[known]
            found["two_sample_classifier_error"] = wrong.double().mean().item()
    return found


# The classifier


def train_classifier(data) -> dict[str, np.ndarray]:
    """Return the weights of a classifier of the training images, for the cache."""
    x, y = data.images("train")
    return to_arrays(train_on(x, y, data.num_classes))


def data_classifier(data, load: Callable[[Callable], dict[str, np.ndarray]]) -> DigitClassifier | None:
    """Return the classifier whose features Fréchet and kernel distances use; None without labelled training images.

    Args:
        data: The data module, set up.
        load: Takes a function that trains the classifier, and returns its weights or those in a cache.
    """
    if not has_labels(data):
        return None
    arrays = load(lambda: classifier_in_memory(data))
    return from_arrays(arrays, data.image_shape, data.num_classes)


@cache
def classifier_in_memory(data) -> dict[str, np.ndarray]:
    """Return `train_classifier(data)`, trained once per process for all models of the same data."""
    return train_classifier(data)
