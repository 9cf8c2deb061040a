"""Measure a model on test images: likelihoods, active units, classification, figures."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error
from tqdm import tqdm

import models
from callbacks import ActiveUnits, ConfusionMatrix, for_model
from callbacks.active_units import MIN_IMAGES, active_of_layers
from callbacks.base import FigureCallback
from callbacks.confusion_matrix import class_probabilities, confusion
from callbacks.titles import class_names, subject
from evaluation.schema import Evaluation
from figures import charts
from figures.animation import Drawing
from models.estimators.importance import importance
from models.estimators.pareto import pareto_k
from models.estimators.passes import MAX_DECODER_ROWS, samples_per_pass
from runtime.collectives import map_across_ranks
from runtime.figure_files import DEFAULT_STYLE, FigureStyle, file_suffix, save_figure
from runtime.processes import global_rank

IMAGES_PER_PASS = 50
DUPLICATE_IMAGES = 500  # test images, and as many samples, that are compared in pairs
MAX_RELIABLE_K_HAT = 0.7  # above this Pareto k-hat, an importance-sampled likelihood is unreliable
CALIBRATION_BINS = 15
BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1
LOG2_LEVELS = {"levels": 0, "grey": 8}  # bits per dimension that are added to those of an NLL
BF16_IMAGES = 100  # images whose likelihood is computed in both precisions


def labels_or_none(model: models.Model, y: Tensor) -> Tensor | None:
    """Return the labels `y` if the model is conditional, else None."""
    labels = model.condition_args(y)
    return labels[0] if labels else None


def likelihoods(model: models.Model, x: Tensor, y: Tensor, K: int, precision: str = "fp32") -> dict[str, np.ndarray]:
    """Return per-image `log_px`, `ess` and `k_hat` with K importance samples, `rate` and `distortion`, each `(N,)`.

    `log_px`, `rate` and `distortion` are in nats. With several layers of latents `rate_of_layers`, `(N, L)`, is the
    rate of each of them.
    """
    parts, chunk = -(-len(x) // IMAGES_PER_PASS), samples_per_pass(model, x, labels_or_none(model, y), IMAGES_PER_PASS)
    # the same number on a GPU, where K samples would cost as much as log p(x)
    samples = min(K, max(1, MAX_DECODER_ROWS // IMAGES_PER_PASS // model.decoder_cost))
    hidden = None if global_rank() == 0 else True  # None hides the bar unless there is a terminal

    def compute(part: int) -> dict[str, Tensor]:
        start = part * IMAGES_PER_PASS
        images, labels = x[start : start + IMAGES_PER_PASS], y[start : start + IMAGES_PER_PASS]
        estimate = importance(model, images, K, chunk, labels_or_none(model, labels), seed=start, precision=precision)
        values = {"log_px": estimate.log_px, "ess": estimate.ess, "k_hat": pareto_k(estimate.largest, K)}
        if model.can("rate_distortion"):
            with models.evaluating(model, seed=start):
                values["rate"], values["distortion"] = model.rate_distortion(
                    images, samples, *model.condition_args(labels)
                )
        if model.can("rate_of_layers") and len(model.latent_sizes) > 1:
            with models.evaluating(model, seed=start):  # the noise of the rate
                values["rate_of_layers"] = model.rate_of_layers(images, samples, *model.condition_args(labels))
        bar.update(start + len(images) - bar.n)
        return values

    with tqdm(total=len(x), unit="image", desc=f"log p(x), K={K}", disable=hidden, leave=False) as bar:
        return {name: values.double().numpy() for name, values in map_across_ranks(compute, parts).items()}


@contextmanager
def compiled_log_weights(model: models.Model) -> Iterator[None]:
    """Compile `model.log_weights` within the context. The noise is that of the method that is not compiled."""
    model.log_weights = torch.compile(model.log_weights, options={"fallback_random": True})
    try:
        yield
    finally:
        del model.log_weights  # of the instance; that of the class remains


def bias_of_bf16(model: models.Model, x: Tensor, y: Tensor, K: int, log_px: np.ndarray) -> dict[str, Any]:
    """Return by how much bf16 raises the NLL of the first images, with the same noise.

    Args:
        model: A model with `log_weights`.
        x: All images.
        y: Their labels.
        K: Importance samples, as for `log_px`.
        log_px: Per-image log p(x) from `likelihoods` in bf16.

    Returns:
        Fields of `Evaluation`.
    """
    exact = likelihoods(model, x[:BF16_IMAGES], y[:BF16_IMAGES], K)["log_px"]
    raised = exact - log_px[:BF16_IMAGES]
    return {"bf16_bias": raised.mean(), "bf16_bias_se": standard_error(raised)}


def standard_error(values: np.ndarray) -> float | None:
    """Return the standard error of the mean of one number per image; None for a single image."""
    return values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None


def likelihood_summary(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return fields of `Evaluation`: means over images of the per-image values from `likelihoods`, in nats."""
    log_px = values["log_px"]
    result = {
        "num_images": len(log_px),
        "nll": -log_px.mean(),
        "nll_se": standard_error(log_px),
        "ess_median": np.median(values["ess"]),
        "k_hat_median": np.median(values["k_hat"]),
        "k_hat_above": np.where(np.isnan(values["k_hat"]), np.nan, values["k_hat"] > MAX_RELIABLE_K_HAT).mean(),
    }
    if "rate" in values:
        rate, distortion = values["rate"].mean(), values["distortion"].mean()
        # Not the mean log weight: M2 marginalizes the label in its weights, which gives another, tighter bound.
        result |= {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    if "rate_of_layers" in values:
        result["kl_per_layer"] = values["rate_of_layers"].mean(0).tolist()
    return result


def bits_per_dimension(nll: float, se: float | None, data) -> dict[str, float | None]:
    """Return the fields of `Evaluation` with an NLL in bits per dimension; none for binarized images.

    The log of a density of dequantised pixels in [0, 1) is, up to log 256 per dimension, a lower bound on the log
    probability of their grey levels (Theis et al. 2016, eq. 3).

    Args:
        nll: Mean NLL in nats per image.
        se: Its standard error, or None.
        data: The data module, set up.
    """
    if data.protocol not in LOG2_LEVELS:
        return {}
    nats = math.prod(data.image_shape) * math.log(2)
    bits = nll / nats + LOG2_LEVELS[data.protocol]
    return {"bits_per_dim": bits, "bits_per_dim_se": None if se is None else se / nats}


def independent_pixels(model: models.Model, data, x: Tensor) -> float | None:
    """Return the NLL of a model without latents: independent pixels, each at its mean over the training images.

    It uses the likelihood of `model`; a learned scale is fitted to training images.

    Args:
        model: A model on any device.
        data: Its data module, set up.
        x: Test images `(N, C, H, W)`.

    Returns:
        Nats per image; None for a model without a pixel likelihood.
    """
    likelihood = model.pixel_likelihood
    if likelihood is None:
        return None
    mean = data.train_mean().to(x.device).clamp(0.001, 0.999)
    with torch.no_grad():
        density = likelihood.without_latents(mean, data.images("train", 2000, x.device)[0])
        return -torch.cat([density.log_prob(part) for part in x.split(500)]).double().mean().item()


def latent_usage(model: models.Model, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return active units over the images `x`, in total and per layer, and the mean KL of each latent dimension.

    Returns:
        Fields of `Evaluation`; none for fewer than `MIN_IMAGES` images, whose variance is too noisy.
    """
    if len(x) < MIN_IMAGES:
        return {}
    pairs = zip(x.split(500), y.split(500), strict=True)
    with models.evaluating(model):
        parts = [model.latent_statistics(part, *model.condition_args(labels)) for part, labels in pairs]
    layers = [[torch.cat(values) for values in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]
    with models.evaluating(model):
        active = [layer.tolist() for layer in active_of_layers(model, [means for means, _ in layers])]
    per_layer = [sum(layer) for layer in active]
    kl = [kl.double().mean(0).tolist() for _, kl in layers]
    fields = {"active_units": sum(per_layer), "active_units_per_layer": per_layer}
    return fields | {"active_dimensions": active, "kl_per_dimension": kl}


def mean_loss(model: models.Model, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return fields of `Evaluation` for a model without a likelihood: its mean loss and the name of the loss."""
    if isinstance(model, models.ImplicitModel):
        # Each batch is compared with samples, and must be a random sample of the data: stored images are in the order
        # of their writers, which differ from each other.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
        x, y = x[order], y[order.to(y.device)]
    with models.evaluating(model):
        losses = [model.validation_metrics(*part)["loss"] for part in zip(x.split(500), y.split(500), strict=True)]
    loss = torch.cat(losses).double().mean().item()
    return {"loss": loss, "criterion": model.criterion, "num_images": len(x)}


def mode_collapse(model: models.Model, x: Tensor) -> dict[str, Any]:
    """Return the share of pairs of samples that are nearly identical; no field for too few test images."""
    if len(x) < MIN_IMAGES:
        return {}
    with models.evaluating(model):
        return {"duplicates": model.duplicates(x[:DUPLICATE_IMAGES])}


def classification(model: models.Model, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return fields of `Evaluation`: error, calibration and confusion matrix over the labelled test images."""
    with models.evaluating(model):
        qy = class_probabilities(model, x)
    counts = confusion(qy, y)
    if not counts.sum():
        return {}
    right, images = counts.trace().item(), counts.sum().item()
    return {
        "test_error": (images - right) / images,
        "calibration_error": calibration_error(qy, y),
        "confusion": counts.tolist(),
    }


def calibration_error(qy: Tensor, y: Tensor) -> float:
    """Return the expected calibration error of the predicted classes (Guo et al. 2017, eq. 3), a fraction.

    It is the sum over bins of the confidence of the share of images in a bin times the absolute difference of their
    mean confidence and their accuracy. Images with unknown label, -1, are left out. It is nan if a probability is not
    finite.

    Args:
        qy: Class probabilities `(N, num_classes)`.
        y: Labels `(N,)`.
    """
    if not qy.isfinite().all():
        return math.nan
    # torchmetrics counts a confidence of exactly 1 in a bin of its own, and takes rows with values above 1 for logits.
    qy = qy.float().clamp(max=BELOW_ONE)
    return multiclass_calibration_error(qy, y, qy.shape[1], CALIBRATION_BINS, norm="l1", ignore_index=-1).item()


def save_figures(
    model: models.Model,
    data,
    result: Evaluation,
    names: Sequence[str] | None,
    folder: Path,
    suffix: str = "",
    style: FigureStyle = DEFAULT_STYLE,
) -> dict[str, Exception]:
    """Draw figures of test images into `folder`.

    Args:
        model: A model on any device.
        data: Its data module, set up.
        result: The evaluation so far; some figures show its numbers.
        names: Callbacks whose figures to draw, by default all that the model supports. Callbacks without a figure are
            skipped.
        folder: Folder of the files `<name>_test.png`.
        suffix: Appended to the file names for checkpoints other than the best one.
        style: Format and resolution of the files.

    Returns:
        The error of each callback that failed, by its name. A failed figure must not prevent results from being saved.
    """
    failed = {}
    for callback in for_model(model, names):
        try:
            for name, figure in figures(callback, model, data, result).items():
                save_figure(figure, folder / f"{name}_test{suffix}.{file_suffix(figure, style)}", style.dpi)
        except Exception as error:
            failed[callback.name] = error
    return failed


def figures(callback, model: models.Model, data, result: Evaluation) -> Mapping[str, Drawing]:
    """Return the figures of one callback by name; none for a callback that draws nothing from a checkpoint."""
    if isinstance(callback, ActiveUnits) and result.kl_per_dimension and result.active_dimensions:
        kl = [torch.tensor(layer) for layer in result.kl_per_dimension]
        active = [torch.tensor(layer) for layer in result.active_dimensions]
        return {"kl_per_dimension": charts.kl_per_dimension(kl, active, subject(model, data), model.latent_part)}
    if isinstance(callback, ConfusionMatrix) and result.confusion:
        counts = torch.tensor(result.confusion)
        classes = class_names(data, len(counts))
        return {"confusion_matrix": charts.confusion_matrix(counts, "test", classes, subject(model, data))}
    if isinstance(callback, FigureCallback) and not isinstance(callback, ConfusionMatrix):
        with models.evaluating(model, callback.seed):
            return callback.draw(model, data)
    return {}
