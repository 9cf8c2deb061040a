"""Evaluate one checkpoint on test images: likelihoods, latent usage, classification, figures."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
from evaluation.schema import KEYS, Evaluation, to_json
from models.estimators.ais import Settings
from runtime.figure_files import DEFAULT_STYLE, FigureStyle
from runtime.processes import global_rank, launcher_world
from runtime.run_folder import run_folder
from runtime.threads import set_for_evaluation


class EvaluationConfig(NamedTuple):
    """What to measure on each checkpoint.

    Args:
        num_samples: K, the importance samples per image.
        limit: Number of test images for the likelihood, the first ones; None takes all, or the model's default.
        precision: Precision of the likelihoods, fp32 or bf16. For bf16 its bias is measured too.
        with_baselines: Fit scikit-learn classifiers for comparison. By default only for a classifier that was trained
            with few labels.
        figures: Names of the callbacks whose figures to draw; by default all that the model supports.
        ais: Settings of annealed importance sampling; None leaves it out.
        ais_images: Number of test images for AIS, the first ones.
        with_probes: Classify posterior means, if all training labels are known.
        overwrite: Let the result replace a larger one in `evaluation.json`.
        style: Format and resolution of the figures.
        threads: CPU threads; by default OMP_NUM_THREADS, or chosen by the size of the model.
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
    config: EvaluationConfig,
    device: str = "cpu",
    files: EvaluationFiles | None = None,
) -> Evaluation | None:
    """Evaluate a checkpoint on the test images of `data` and write the results into its run folder.

    All ranks of a distributed run share the work of the likelihoods; rank 0 does the rest. A file that cannot be
    written costs a warning.

    Args:
        checkpoint: As `models.read_checkpoint(path)` returns it.
        path: Path of the checkpoint: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        config: What to measure.
        device: Device to compute on.
        files: Writes the results; afterwards it holds the errors of files that could not be written.

    Returns:
        The evaluation on rank 0, None on other ranks.
    """
    files = EvaluationFiles() if files is None else files
    model = models.from_checkpoint(checkpoint, path).to(device)
    test = data.images("test", device=device)
    set_for_evaluation(config.threads, model, *test, launcher_world()[0])
    weights = weights_hash(checkpoint)
    result = Evaluation(**provenance(checkpoint, path, data), weights_hash=weights)
    has_likelihoods = model.can("log_weights")
    measured = measured_likelihoods(model, test, data, checkpoint, path, config, files) if has_likelihoods else {}
    if global_rank() != 0:
        return None
    measured = measured or reconstruction_loss(model, *test) | {"images_hash": tensor_hash(test[0])}
    if model.can("classify"):
        measured |= classification(model, *test)
    train_labels = data.train.y
    if config.with_probes and can_be_probed(model, train_labels):
        measured |= probes(model, data.images("train", device=device), test)
    if is_measured(model, data):
        measured |= {"disentanglement": disentanglement(model, data, device), "moved": str(moves(data))}
    result = replace(result, **measured)
    draw_figures(model, data, result, config, path, files)
    if wants_baselines(type(model), train_labels, config.with_baselines):
        result.baselines = baselines(model, data.images("train", device=device), test)
    if result.test_error is not None or result.knn_error is not None or result.baselines:
        result.test_error_images = int((test[1] >= 0).sum())
    result = Evaluation.from_dict(to_json(result.to_dict()))
    files.save(path, result, weights, config.overwrite)
    return result


def draw_figures(
    model: models.Model,
    data: ImageData,
    result: Evaluation,
    config: EvaluationConfig,
    path: Path,
    files: EvaluationFiles,
) -> None:
    """Draw the figures of a checkpoint. A figure that fails costs a warning."""
    folder = run_folder(path) / "figures"
    failed = save_figures(model, data, result, config.figures, folder, suffix(path), config.style)
    for name, error in failed.items():
        if isinstance(error, OSError):
            with files.attempt(path):
                raise error
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: the figure {name} of {path} could not be drawn: {reason}", file=sys.stderr)


def provenance(checkpoint: dict, path: Path, data: ImageData) -> dict[str, Any]:
    """Return the fields of `Evaluation` that say where a checkpoint comes from."""
    recorded = checkpoint.get("run", {}) | checkpoint.get("made", {})
    return {key: value for key, value in recorded.items() if key in KEYS} | {
        "model": checkpoint["model"],
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
    config: EvaluationConfig,
    files: EvaluationFiles,
) -> dict[str, Any]:
    """Return the fields of `Evaluation` from importance sampling and AIS. Per-image values are cached."""
    K = config.num_samples
    x, y = (part[: config.limit or model.default_limit] for part in test)
    images = tensor_hash(x, *model.condition_args(y))

    def compute_or_load(
        what: str, options: dict, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        file, older = cache_path(path, what, options), cache_path(path, what)
        return cached(file, checkpoint, options, compute, older, files.attempt(path))

    options = {"K": K, "images": images, "precision": config.precision}
    values = compute_or_load("likelihoods", options, lambda: likelihoods(model, x, y, K, config.precision))
    fields = {"num_samples": K, "precision": config.precision, "quantity": model.quantity, "images_hash": images}
    fields["pixels_nll"] = independent_pixels(model, data, x)
    if config.precision == "bf16":
        fields |= bias_of_bf16(model, x, y, K, values["log_px"])
    settings = config.ais
    if settings is not None:
        n, pilot = config.ais_images, data.images("val", ais.PILOT_IMAGES, model.device)
        x, y = x[:n], y[:n]
        options = {
            **settings._asdict(),
            "images": tensor_hash(x, *model.condition_args(y)),
            "pilot": tensor_hash(*pilot),
        }
        chains = compute_or_load("ais", options, lambda: ais.run_ais(model, x, y, pilot, settings))
        fields |= ais.ais_summary(chains, values["log_px"], settings)
    files.log_px[str(path)] = values["log_px"]
    if global_rank() == 0 and model.can("latent_statistics"):
        fields |= latent_usage(model, *test)
    return fields | likelihood_summary(values)
