"""Evaluate a trained model on test images: likelihoods, latent usage, classification, figures."""

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

import models
from cli.evaluate_options import AIS_IMAGES
from datamodules import ImageData
from evaluation import ais
from evaluation.baselines import baselines, wants_baselines
from evaluation.cache import cache_path, cached, tensor_hash, weights_hash
from evaluation.disentanglement import disentanglement, is_measured, moves
from evaluation.metrics import (
    bias_of_bf16,
    classification,
    independent_pixels,
    latent_usage,
    likelihood_summary,
    likelihoods,
    reconstruction_loss,
    save_figures,
)
from evaluation.probes import can_be_probed, probes
from evaluation.result_files import EvaluationFiles, suffix
from models.estimators.ais import Settings
from runtime.figure_files import DEFAULT_STYLE, FigureStyle
from runtime.processes import launcher_world
from runtime.run_folder import run_folder
from runtime.threads import set_for_evaluation

# Of evaluation.json, in this order; what a model does not have is null
KEYS = ("model", "data", "variant", "protocol", "seed", "quantity", "nll", "nll_se", "pixels_nll", "num_samples",
        "num_images", "precision", "bf16_bias", "bf16_bias_se", "elbo", "rate", "distortion", "ess_median",
        "k_hat_median", "k_hat_above", "ais_nll", "ais_nll_se", "ais_lowers_nll", "ais_lowers_nll_se", "ais_gap",
        "ais_gap_se", "ais_images", "ais_simulated", "ais_chains", "ais_temperatures", "ais_leapfrogs", "ais_start",
        "ais_acceptance",
        "active_units", "active_units_per_layer", "active_dimensions", "kl_per_dimension", "knn_error", "probe_error",
        "disentanglement", "moved", "test_error", "test_error_images", "confusion", "baselines", "criterion", "loss",
        "epochs", "step", "processes", "labels_hash", "images_hash", "weights_hash", "data_root", "commit", "machine",
        "seconds", "checkpoint")  # fmt: skip


class EvaluationConfig(NamedTuple):
    """What to find out of each checkpoint.

    Args:
        num_samples: K, importance samples per image.
        limit: Evaluate the likelihood on the first so many test images; none takes all, or the model's default.
        precision: Of the likelihoods, fp32 or bf16; beside bf16 its bias is measured.
        with_baselines: Fit classifiers of scikit-learn too; by default beside a classifier that was given few labels.
        figures: Names of the callbacks whose figures to draw; by default all that the model supports.
        ais: Chains of annealed importance sampling, if there are to be any.
        ais_images: Test images that they are run on, the first ones.
        with_probes: Classify posterior means, where all training labels are known.
        overwrite: Let the result take the place of a larger one in `evaluation.json`.
        style: Of the files of figures.
        threads: Of the processor; by default OMP_NUM_THREADS, or by the size of the model.
    """

    num_samples: int
    limit: int | None = None
    precision: str = "fp32"
    with_baselines: bool | None = None
    figures: Sequence[str] | None = None
    ais: Settings | None = None
    ais_images: int = AIS_IMAGES
    with_probes: bool = False
    overwrite: bool = False
    style: FigureStyle = DEFAULT_STYLE
    threads: int | None = None


def evaluate_checkpoint(
    checkpoint: dict,
    path: Path,
    data: ImageData,
    wanted: EvaluationConfig,
    device: str = "cpu",
    files: EvaluationFiles | None = None,
) -> dict:
    """Evaluates the contents of a checkpoint on the test images of `data` and writes the results into its run folder.

    The processes of a distributed run share the work of the likelihoods; the first alone does the rest, and the others
    get nothing. Files that cannot be written cost a warning.

    Args:
        checkpoint: As `models.read_checkpoint(path)` gives it.
        path: Where it lies: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        wanted: What to find out.
        device: Where to compute.
        files: What writes; it knows afterwards what could not be written.
    """
    files = EvaluationFiles() if files is None else files
    model = models.from_checkpoint(checkpoint, path).to(device)
    test = data.images("test", device=device)
    set_for_evaluation(wanted.threads, model, *test, launcher_world()[0])
    weights = weights_hash(checkpoint)
    result = dict.fromkeys(KEYS) | provenance(checkpoint, path, data) | {"weights_hash": weights}
    has_likelihoods = model.can("log_weights")
    measured = measured_likelihoods(model, test, data, checkpoint, path, wanted, files) if has_likelihoods else {}
    if rank_zero_only.rank != 0:
        return {}
    result |= measured or reconstruction_loss(model, *test) | {"images_hash": tensor_hash(test[0])}
    if model.can("classify"):
        result |= classification(model, *test)
    train_labels = data.train.y
    if wanted.with_probes and can_be_probed(model, train_labels):
        result |= probes(model, data.images("train", device=device), test)
    if is_measured(model, data):
        result |= {"disentanglement": disentanglement(model, data, device), "moved": str(moves(data))}
    draw_figures(model, data, result, wanted, path, files)
    if wants_baselines(type(model), train_labels, wanted.with_baselines):
        result["baselines"] = baselines(model, data.images("train", device=device), test)
    if any(result[key] is not None for key in ("test_error", "knn_error")) or result["baselines"]:
        result["test_error_images"] = int((test[1] >= 0).sum())
    result = {key: to_json(value) for key, value in result.items()}
    files.save(path, result, weights, wanted.overwrite)
    return result


def draw_figures(
    model: models.Model, data: ImageData, result: dict, wanted: EvaluationConfig, path: Path, files: EvaluationFiles
) -> None:
    """Draws the figures of a checkpoint; one that fails costs a warning."""
    folder = run_folder(path) / "figures"
    failed = save_figures(model, data, result, wanted.figures, folder, suffix(path), wanted.style)
    for name, error in failed.items():
        if isinstance(error, OSError):
            with files.attempt(path):
                raise error
        else:
            said = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: the figure {name} of {path} could not be drawn: {said}", file=sys.stderr)


def provenance(checkpoint: dict, path: Path, data: ImageData) -> dict:
    """Where a checkpoint comes from."""
    return {
        "model": checkpoint["model"],
        **{key: value for part in ("run", "made") for key, value in checkpoint.get(part, {}).items() if key in KEYS},
        "variant": data.variant,
        "data_root": data.hparams.get("root"),
        "epochs": checkpoint["epoch"] + 1,
        "step": checkpoint["global_step"],
        "checkpoint": str(path),
    }


def measured_likelihoods(
    model: models.Model,
    test: tuple[Tensor, Tensor],
    data: ImageData,
    checkpoint: dict,
    path: Path,
    wanted: EvaluationConfig,
    files: EvaluationFiles,
) -> dict:
    """The results of importance sampling and of AIS; per-image values that stand from an earlier start are taken."""
    K = wanted.num_samples
    x, y = (part[: wanted.limit or model.default_limit] for part in test)
    images = tensor_hash(x, *model.condition_args(y))

    def kept(what: str, options: dict, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        file, older = cache_path(path, what, options), cache_path(path, what)
        return cached(file, checkpoint, options, compute, older, files.attempt(path))

    options = {"K": K, "images": images, "precision": wanted.precision}
    values = kept("likelihoods", options, lambda: likelihoods(model, x, y, K, wanted.precision))
    found = {"num_samples": K, "precision": wanted.precision, "quantity": model.quantity, "images_hash": images}
    found["pixels_nll"] = independent_pixels(model, data, x)
    if wanted.precision == "bf16":
        found |= bias_of_bf16(model, x, y, K, values["log_px"])
    if wanted.ais is not None:
        n, pilot = wanted.ais_images, data.images("val", ais.PILOT_IMAGES, model.device)
        x, y = x[:n], y[:n]
        options = {
            **wanted.ais._asdict(),
            "images": tensor_hash(x, *model.condition_args(y)),
            "pilot": tensor_hash(*pilot),
        }
        chains = kept("ais", options, lambda: ais.run_ais(model, x, y, pilot, wanted.ais))
        found |= ais.ais_summary(chains, values["log_px"], wanted.ais)
    files.log_px[str(path)] = values["log_px"]
    if rank_zero_only.rank == 0 and model.can("latent_statistics"):
        found |= latent_usage(model, *test)
    return found | likelihood_summary(values)


def to_json(value):
    """A value as JSON has it: numpy's numbers as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: to_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
