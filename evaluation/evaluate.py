"""Evaluate one checkpoint on test images: likelihoods, latent usage, classification, figures."""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

import models
from cli.evaluate_options import AIS_IMAGES
from datamodules import GREY_PROTOCOLS, ImageData
from evaluation import ais
from evaluation.baselines import baselines, wants_baselines
from evaluation.cache import cache_path, cached, tensor_hash, weights_hash
from evaluation.density import (
    PARZEN_IMAGES,
    PARZEN_SAMPLES,
    SCALE_IMAGES,
    choose_px_scale,
    parzen,
    parzen_summary,
    px_scale,
)
from evaluation.disentanglement import disentanglement, is_measured, moves
from evaluation.metrics import (
    bias_of_bf16,
    bits_per_dimension,
    classification,
    compiled_log_weights,
    independent_pixels,
    latent_usage,
    likelihood_summary,
    likelihoods,
    mean_loss,
    mode_collapse,
    save_figures,
)
from evaluation.probes import can_be_probed, probes
from evaluation.result_files import EvaluationFiles, suffix
from evaluation.schema import KEYS, Evaluation, to_json
from evaluation.two_sample import data_classifier, number_of_images, two_sample
from models.estimators.ais import Settings
from models.implicit import ImplicitModel
from runtime.collectives import from_rank0
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
        two_sample: Measure how well samples can be told from test images.
        with_probes: Classify posterior means, if all training labels are known.
        overwrite: Let the result replace a larger one in `evaluation.json`.
        style: Format and resolution of the figures.
        threads: CPU threads; by default OMP_NUM_THREADS, or chosen by the size of the model.
        compile: Compile the log weights of importance sampling.
    """

    num_samples: int
    limit: int | None = None
    precision: str = "fp32"
    with_baselines: bool | None = None
    figures: Sequence[str] | None = None
    ais: Settings | None = None
    ais_images: int = AIS_IMAGES
    two_sample: bool = False
    with_probes: bool = False
    overwrite: bool = False
    style: FigureStyle = DEFAULT_STYLE
    threads: int | None = None
    compile: bool = False


class ValueCache(NamedTuple):
    """Cache of the values computed from one checkpoint.

    Args:
        checkpoint: As `models.read_checkpoint` returns it.
        path: Its path.
        files: Handles errors of writing.
    """

    checkpoint: dict
    path: Path
    files: EvaluationFiles

    def __call__(self, what: str, options: dict, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return the values in the cache, or compute and cache them. All ranks must call it."""
        file, older = cache_path(self.path, what, options), cache_path(self.path, what)
        return cached(file, self.checkpoint, options, compute, older, self.files.attempt(self.path))


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
    result = Evaluation(**provenance(checkpoint, path, data), **prior_and_posterior(model), weights_hash=weights)
    load = ValueCache(checkpoint, path, files)
    if model.can("log_weights"):
        measured = measured_likelihoods(model, test, data, load, config)
    else:
        measured = measured_without_weights(model, test, data, load, config)
    if config.two_sample and model.can("sample"):
        measured |= measured_two_sample(model, data, load, device)
    if global_rank() != 0:
        return None
    if model.can("duplicates"):
        measured |= mode_collapse(model, test[0])
    if model.can("classify"):
        measured |= classification(model, *data.images("test", device=device, grey=model.classifies_grey))
        from_grey = model.classifies_grey or data.protocol in GREY_PROTOCOLS
        measured["label_pixels"] = "grey" if from_grey else "binarized"
    train_labels = data.train.y
    if config.with_probes and can_be_probed(model, train_labels):
        measured |= probes(model, data.images("train", device=device), test)
    if is_measured(model, data):
        measured |= {"disentanglement": disentanglement(model, data, device), "moved": str(moves(data))}
    result = replace(result, **measured)
    draw_figures(model, data, result, config, path, files)
    if wants_baselines(type(model), train_labels, config.with_baselines):
        train, tested = (data.images(split, device=device, grey=model.classifies_grey) for split in ("train", "test"))
        result.baselines = baselines(model, train, tested)
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
        "images_read_as": data.images_read_as or None,
        "data_root": data.hparams.get("root"),
        "epochs": checkpoint["epoch"] + 1,
        "step": checkpoint["global_step"],
        "checkpoint": str(path),
    }


def prior_and_posterior(model: models.Model) -> dict[str, Any]:
    """Return the fields `prior` and `posterior` of `Evaluation`; none for a model without these options."""
    return {name: model.hparams[name] for name in ("prior", "posterior") if model.hparams.get(name)}


def likelihood_options(model: models.Model, x: Tensor, y: Tensor, K: int, precision: str) -> dict[str, Any]:
    """Return the options that cached likelihoods of the images `x` with labels `y` depend on."""
    return {"K": K, "images": tensor_hash(x, *model.condition_args(y)), "precision": precision}


def measured_likelihoods(
    model: models.Model,
    test: tuple[Tensor, Tensor],
    data: ImageData,
    load: ValueCache,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Return the fields of `Evaluation` from importance sampling and AIS. Per-image values are cached."""
    K = config.num_samples
    x, y = (part[: config.limit or model.default_limit] for part in test)
    options = likelihood_options(model, x, y, K, config.precision)
    images = options["images"]
    if config.compile:
        options["compile"] = True  # last digits differ

    def compute() -> dict[str, np.ndarray]:
        with compiled_log_weights(model) if config.compile else nullcontext():
            return likelihoods(model, x, y, K, config.precision)

    values = load("likelihoods", options, compute)
    fields = {"num_samples": K, "precision": config.precision, "quantity": model.quantity, "images_hash": images}
    fields |= {"pixels_nll": independent_pixels(model, data, x), "px_scale": px_scale(model)}
    if config.precision == "bf16":
        fields |= bias_of_bf16(model, x, y, K, values["log_px"])
    fields |= measured_ais(model, (x, y), data, load, config, values["log_px"])
    load.files.log_px[str(load.path)] = values["log_px"]
    if global_rank() == 0 and model.can("latent_statistics"):
        fields |= latent_usage(model, *test)
    summary = likelihood_summary(values)
    fields |= bits_per_dimension(summary["nll"], summary["nll_se"], data)
    return fields | summary


def measured_without_weights(
    model: models.Model,
    test: tuple[Tensor, Tensor],
    data: ImageData,
    load: ValueCache,
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Return the fields of `Evaluation` of a model without importance weights: its loss, and for a generator AIS.

    With AIS the result is of log p(x) of the first `limit` test images, as that of a VAE on these images; the loss is
    in any case of all test images.
    """
    fields: dict[str, Any] = {"images_hash": tensor_hash(test[0])}
    if global_rank() == 0:
        fields |= mean_loss(model, *test)
    if not isinstance(model, ImplicitModel):
        return fields
    if config.ais is not None:
        x, y = (part[: config.limit or model.default_limit] for part in test)
        x_val = data.images("val", SCALE_IMAGES, model.device)[0]
        options = {"images": tensor_hash(x_val)}
        chosen = load("px_scale", options, lambda: from_rank0(lambda: choose_px_scale(model, x_val)))
        model.observation_scale = chosen["px_scale"].item()
        fields |= {"quantity": "log p(x)", "num_images": len(x), "images_hash": tensor_hash(x)}
        fields["px_scale"] = model.observation_scale
        fields |= measured_ais(model, (x, y), data, load, config)
    return fields


def measured_ais(
    model: models.Model,
    images: tuple[Tensor, Tensor],
    data: ImageData,
    load: ValueCache,
    config: EvaluationConfig,
    log_px: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the fields of `Evaluation` from AIS and, on grey images, the Parzen window estimate, if AIS is wanted.

    Args:
        model: A model with `ais_prior` and `ais_log_px`.
        images: The test images to evaluate, with labels.
        data: The data module, set up.
        load: Cache of per-image values.
        config: What to measure.
        log_px: Importance-sampled log p(x) of the images, if the model has importance weights.
    """
    settings = config.ais
    if settings is None:
        return {}
    pilot = data.images("val", ais.PILOT_IMAGES, model.device)
    x, y = (part[: config.ais_images] for part in images)
    options = {
        **settings._asdict(),
        "images": tensor_hash(x, *model.condition_args(y)),
        "pilot": tensor_hash(*pilot),
    }
    if isinstance(model, ImplicitModel):
        options["px_scale"] = model.observation_scale
    chains = load("ais", options, lambda: ais.run_ais(model, x, y, pilot, settings))
    fields = ais.ais_summary(chains, log_px, settings)
    if data.protocol == "grey" and model.can("sample") and not model.is_conditional:
        x_val = data.images("val", PARZEN_IMAGES, model.device)[0]
        hashes: dict[str, Any] = {
            "images": tensor_hash(images[0]),
            "val": tensor_hash(x_val),
            "samples": PARZEN_SAMPLES,
        }
        window = load("parzen", hashes, lambda: from_rank0(lambda: parzen(model, images[0], x_val)))
        fields |= parzen_summary(window)
    return fields


def measured_two_sample(model: models.Model, data: ImageData, load: ValueCache, device: str) -> dict[str, Any]:
    """Return the fields of `Evaluation` from two-sample measures. They and the classifier are cached."""
    options: dict[str, Any] = {
        "images": data.images_hash,
        "labels": tensor_hash(data.train.y),
        "protocol": data.protocol,
    }
    classifier = data_classifier(
        data, lambda train: cached_for_data(load, "classifier", options, lambda: from_rank0(train))
    )
    options = {**options, "samples": number_of_images(data)}
    values = load("two_sample", options, lambda: from_rank0(lambda: two_sample_arrays(model, data, classifier, device)))
    return {name: array.tolist() for name, array in values.items()}


def two_sample_arrays(model, data, classifier, device) -> dict[str, np.ndarray]:
    """Return the result of `two_sample` as arrays, for the cache."""
    return {name: np.array(value) for name, value in two_sample(model, data, classifier, device).items()}


def cached_for_data(
    load: ValueCache, what: str, options: dict, compute: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return values that depend on the data alone, cached in the run folder whatever the weights of the model."""
    of_no_model = {"model": what, "hyper_parameters": {}, "state_dict": {}}
    return cached(
        cache_path(load.path, what, options), of_no_model, options, compute, None, load.files.attempt(load.path)
    )
