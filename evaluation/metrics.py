"""What evaluate.py finds out of a model with test images: likelihoods, active units, classification, figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor
from torch.distributions import Independent, Normal
from tqdm import tqdm

import models
from callbacks import ActiveUnits, ConfusionMatrix, for_model
from callbacks.active_units import MIN_IMAGES, is_active
from callbacks.base import FigureCallback
from callbacks.confusion_matrix import confusion
from callbacks.titles import class_names, subject
from figures import charts
from models.estimators.importance import MAX_DECODER_ROWS, importance, pareto_k
from runtime.collectives import map_across_ranks
from runtime.figure_files import DEFAULT_STYLE, FigureStyle, save_figure

IMAGES_PER_PASS = 50  # per pass
TRUSTED = 0.7  # Pareto k-hat up to which an importance-sampled likelihood is to be trusted
BF16_IMAGES = 100  # images whose likelihood is computed in both precisions


def likelihoods(model: models.Model, x: Tensor, y: Tensor, K: int, precision: str = "fp32") -> dict[str, np.ndarray]:
    """Per-image `log_px`, `ess` and `k_hat` with K importance samples, and `rate` and `distortion`, each `(N,)`."""
    parts, chunk = -(-len(x) // IMAGES_PER_PASS), max(1, MAX_DECODER_ROWS // IMAGES_PER_PASS // model.decoder_cost)
    hidden = None if rank_zero_only.rank == 0 else True  # None: where there is no terminal

    def compute(part: int) -> dict[str, Tensor]:
        start = part * IMAGES_PER_PASS
        images, labels = x[start : start + IMAGES_PER_PASS], model.condition_args(y[start : start + IMAGES_PER_PASS])
        estimate = importance(model, images, K, chunk, *labels, seed=start, precision=precision)
        values = {"log_px": estimate.log_px, "ess": estimate.ess, "k_hat": pareto_k(estimate.largest, K)}
        if model.can("rate_distortion"):
            with models.evaluating(model, seed=start):
                values["rate"], values["distortion"] = model.rate_distortion(images, min(K, chunk), *labels)
        bar.update(start + len(images) - bar.n)
        return values

    with tqdm(total=len(x), unit="image", desc=f"log p(x), K={K}", disable=hidden, leave=False) as bar:
        return {name: values.double().numpy() for name, values in map_across_ranks(compute, parts).items()}


def bias_of_bf16(model: models.Model, x: Tensor, y: Tensor, K: int, log_px: np.ndarray) -> dict:
    """By how much bf16 raises the NLL: mean and standard error over the first images, on the same noise.

    Args:
        model: Anything with `log_weights`.
        x: All images.
        y: Their labels.
        K: Importance samples, as for `log_px`.
        log_px: What `likelihoods` has found in bf16.
    """
    exact = likelihoods(model, x[:BF16_IMAGES], y[:BF16_IMAGES], K)["log_px"]
    raised = exact - log_px[:BF16_IMAGES]
    return {"bf16_bias": raised.mean(), "bf16_bias_se": standard_error(raised)}


def standard_error(values: np.ndarray) -> float | None:
    """Of the mean of one number per image; none of a single one."""
    return values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None


def likelihood_summary(values: dict[str, np.ndarray]) -> dict:
    """The numbers of `evaluation.json` from per-image values: means over images, in nats."""
    log_px = values["log_px"]
    result = {
        "num_images": len(log_px),
        "nll": -log_px.mean(),
        "nll_se": standard_error(log_px),
        "ess_median": np.median(values["ess"]),
        "k_hat_median": np.median(values["k_hat"]),
        "k_hat_above": np.where(np.isnan(values["k_hat"]), np.nan, values["k_hat"] > TRUSTED).mean(),
    }
    if "rate" in values:
        rate, distortion = values["rate"].mean(), values["distortion"].mean()
        # not the mean log weight: M2 sums the labels out of its weights, which is a bound of another kind
        result |= {"rate": rate, "distortion": distortion, "elbo": -rate - distortion}
    return result


def independent_pixels(model: models.Model, data, x: Tensor) -> float | None:
    """The NLL in nats of a model without latents: each pixel on its own, at its mean over training images.

    It has the likelihood of the model, a Gaussian one whose scale is learned with the scale that fits training images.
    None for a model without pixels of its own kind.

    Args:
        model: On whatever device.
        data: Its data module, set up.
        x: Test images `(N, C, H, W)`.
    """
    likelihood = model.pixel_likelihood
    if likelihood is None:
        return None
    mean = data.train_mean().to(x.device).clamp(0.001, 0.999)
    if likelihood.has_learned_scale:
        train = data.images("train", 2000, x.device)[0]
        density = Independent(Normal(mean, (train - mean).square().mean().sqrt().clamp(min=1e-3)), 3)
    else:
        density = likelihood(mean.logit())
    with torch.no_grad():
        return -torch.cat([density.log_prob(part) for part in x.split(500)]).double().mean().item()


def latent_usage(model: models.Model, x: Tensor, y: Tensor) -> dict:
    """Active units over the images `x`, in all and in each layer, and which they are; the mean KL of each dimension.

    Nothing of fewer than `MIN_IMAGES`, whose variance says little.
    """
    if len(x) < MIN_IMAGES:
        return {}
    parts = zip(x.split(500), y.split(500), strict=True)
    with models.evaluating(model):
        parts = [model.latent_statistics(part, *model.condition_args(labels)) for part, labels in parts]
    layers = [[torch.cat(values) for values in zip(*layer, strict=True)] for layer in zip(*parts, strict=True)]
    active = [is_active(means).tolist() for means, _ in layers]
    per_layer = [sum(layer) for layer in active]
    kl = [kl.double().mean(0).tolist() for _, kl in layers]
    found = {"active_units": sum(per_layer), "active_units_per_layer": per_layer}
    return found | {"active_dimensions": active, "kl_per_dimension": kl}


def reconstruction_loss(model: models.Model, x: Tensor, y: Tensor) -> dict:
    """The mean loss of a model without a likelihood, and what it is."""
    with models.evaluating(model):
        losses = [model.validation_metrics(*part)["loss"] for part in zip(x.split(500), y.split(500), strict=True)]
    loss = torch.cat(losses).double().mean().item()
    return {"loss": loss, "criterion": model.criterion, "num_images": len(x)}


def classification(model: models.Model, x: Tensor, y: Tensor) -> dict:
    """Error and confusion matrix of all test images whose label is known."""
    with models.evaluating(model):
        counts = confusion(model, x, y)
    if not counts.sum():
        return {}
    right, images = counts.trace().item(), counts.sum().item()
    return {"test_error": (images - right) / images, "confusion": counts.tolist()}


def save_figures(
    model: models.Model,
    data,
    result: dict,
    names: Sequence[str] | None,
    folder: Path,
    suffix: str = "",
    style: FigureStyle = DEFAULT_STYLE,
) -> dict[str, Exception]:
    """Draws figures of test images into `folder`: those called `names`, by default all that the model supports.

    Args:
        model: On whatever device.
        data: Its data module, set up.
        result: What `classification` has found, among others.
        names: Of callbacks; those that draw nothing are left aside.
        folder: For `<name>_test.png`.
        suffix: Of the names of the files, where they are not those of the run's best checkpoint.
        style: Format and resolution of the files.

    Returns:
        Why figures are missing, by the names of callbacks: no figure is worth the numbers that are still to be written.
    """
    failed = {}
    for callback in for_model(model, names):
        try:
            for name, figure in figures(callback, model, data, result).items():
                save_figure(figure, folder / f"{name}_test{suffix}.{style.format}", style.dpi)
        except Exception as error:
            failed[callback.name] = error
    return failed


def figures(callback, model: models.Model, data, result: dict) -> dict[str, Figure]:
    """The figures of one callback by their names; none of a callback that draws nothing from a checkpoint."""
    if isinstance(callback, ActiveUnits) and result["kl_per_dimension"]:
        kl, active = (
            [torch.tensor(layer) for layer in result[key]] for key in ("kl_per_dimension", "active_dimensions")
        )
        return {"kl_per_dimension": charts.kl_per_dimension(kl, active, subject(model, data))}
    if isinstance(callback, ConfusionMatrix) and result["confusion"]:
        counts = torch.tensor(result["confusion"])
        classes = class_names(data, len(counts))
        return {"confusion_matrix": charts.confusion_matrix(counts, "test", classes, subject(model, data))}
    if isinstance(callback, FigureCallback) and not isinstance(callback, ConfusionMatrix):
        with models.evaluating(model, callback.seed):
            return callback.draw(model, data)
    return {}
