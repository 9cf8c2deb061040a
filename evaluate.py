"""Test log-likelihoods and errors from checkpoints: `python evaluate.py RUN/checkpoints/best.ckpt [...]`.

A checkpoint knows its model, data and protocol. Each run folder gets an `evaluation.json` and `log_px.npy`, the
per-image values in test order, and figures; all runs together are printed as a table, with means over runs that differ
in their seeds alone. The table is printed whatever becomes of the files.
"""

import gc
import math
import sys
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    gc.disable()  # imports make half a million objects that stay: to search them for garbage takes half a second

import numpy as np
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, distributed

import annealing
import models
import report
from callbacks.baselines import baselines, wants_baselines
from callbacks.disentanglement import disentanglement, is_measured, moves
from callbacks.evaluations import mirror
from callbacks.probes import can_be_probed, probes
from callbacks.record import DEFAULT_STYLE, FigureStyle
from callbacks.wandb_environment import mode as wandb_mode
from compare import compare
from datamodules import ImageData
from differences import beside
from evaluation_files import EvaluationFiles, suffix
from evaluation_options import AIS_IMAGES, build_evaluation_parser
from keeping import digest, once, per_image, weights_hash
from launch import hasten, join, launched, leave, quieten, speaker
from layout import terminal
from means import as_text, over_seeds
from measures import bias_of_bf16, classification, draw, independent_pixels, likelihoods, reconstruction, summary, units
from models.ais import Settings
from opening import check, open_checkpoint, pick_device
from options import expand_paths, explain
from streams import prepare_streams
from tables import run_folder, tables
from threads import check_threads, set_for_evaluation

__all__ = ["evaluate", "main", "open_checkpoint"]

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


class Wanted(NamedTuple):
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


def evaluate(
    checkpoint: dict,
    path: Path,
    data: ImageData,
    wanted: Wanted,
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
    set_for_evaluation(wanted.threads, model, *test, launched()[0])
    weights = weights_hash(checkpoint)
    result = dict.fromkeys(KEYS) | origin(checkpoint, path, data) | {"weights_hash": weights}
    has_likelihoods = hasattr(model, "log_weights")
    measured = measured_likelihoods(model, test, data, checkpoint, path, wanted, files) if has_likelihoods else {}
    if rank_zero_only.rank != 0:
        return {}
    result |= measured or reconstruction(model, *test) | {"images_hash": digest(test[0])}
    if hasattr(model, "classify"):
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
    result = {key: plain(value) for key, value in result.items()}
    files.save(path, result, weights, wanted.overwrite)
    return result


def draw_figures(
    model: models.Model, data: ImageData, result: dict, wanted: Wanted, path: Path, files: EvaluationFiles
) -> None:
    """Draws the figures of a checkpoint; one that fails costs a warning."""
    folder = run_folder(path) / "figures"
    failed = draw(model, data, result, wanted.figures, folder, suffix(path), wanted.style)
    for name, error in failed.items():
        if isinstance(error, OSError):
            with files.attempt(path):
                raise error
        else:
            said = " ".join(str(error).split()) or type(error).__name__
            print(f"warning: the figure {name} of {path} could not be drawn: {said}", file=sys.stderr)


def origin(checkpoint: dict, path: Path, data: ImageData) -> dict:
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
    wanted: Wanted,
    files: EvaluationFiles,
) -> dict:
    """The results of importance sampling and of AIS; per-image values that stand from an earlier start are taken."""
    K = wanted.num_samples
    x, y = (part[: wanted.limit or model.default_limit] for part in test)
    images = digest(x, *model.given(y))

    def kept(what: str, options: dict, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        file, older = per_image(path, what, options), per_image(path, what)
        return once(file, checkpoint, options, compute, older, files.attempt(path))

    options = {"K": K, "images": images, "precision": wanted.precision}
    values = kept("likelihoods", options, lambda: likelihoods(model, x, y, K, wanted.precision))
    found = {"num_samples": K, "precision": wanted.precision, "quantity": model.quantity, "images_hash": images}
    found["pixels_nll"] = independent_pixels(model, data, x)
    if wanted.precision == "bf16":
        found |= bias_of_bf16(model, x, y, K, values["log_px"])
    if wanted.ais is not None:
        n, pilot = wanted.ais_images, data.images("val", annealing.PILOT_IMAGES, model.device)
        x, y = x[:n], y[:n]
        options = {**wanted.ais._asdict(), "images": digest(x, *model.given(y)), "pilot": digest(*pilot)}
        chains = kept("ais", options, lambda: annealing.annealed(model, x, y, pilot, wanted.ais))
        found |= annealing.summary(chains, values["log_px"], wanted.ais)
    files.log_px[str(path)] = values["log_px"]
    if rank_zero_only.rank == 0 and hasattr(model, "latent_statistics"):
        found |= units(model, *test)
    return found | summary(values)


def plain(value):
    """A value as JSON has it: numpy's numbers as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def wanted_by(args: Namespace) -> Wanted:
    """What the options ask for."""
    chains = Settings(args.ais_chains, args.ais_temperatures, args.ais_leapfrogs, args.ais_start)
    return Wanted(
        args.num_samples,
        args.limit,
        args.precision,
        with_baselines=args.baselines,
        figures=args.figures,
        ais=chains if args.ais else None,
        ais_images=args.ais_images,
        with_probes=True,
        overwrite=args.overwrite,
        style=FigureStyle(args.figure_format, args.figure_dpi),
        threads=args.threads,
    )


def evaluate_all(
    args: Namespace, ready: list[tuple[dict, ImageData]], device: str, files: EvaluationFiles
) -> tuple[list[dict], list[dict], list[Exception]]:
    """The results of all checkpoints that could be evaluated, their checkpoints, and the errors of the others."""
    wanted, results, checkpoints, errors = wanted_by(args), [], [], []
    for number, (path, (checkpoint, data)) in enumerate(zip(args.checkpoints, ready, strict=True), 1):
        if len(ready) > 1 and rank_zero_only.rank == 0:
            print(f"{number}/{len(ready)} {path}", file=sys.stderr)
        kind = models.MODELS[checkpoint["model"]]
        able = wanted if hasattr(kind, "log_px") else wanted._replace(ais=None)
        try:
            results.append(evaluate(checkpoint, Path(path), data, able, device, files))
            checkpoints.append(checkpoint)
        except Exception as error:  # whatever it is, the results of the others are not lost
            if distributed.is_available() and distributed.is_initialized():
                raise  # the other processes wait for this one
            errors.append(error)
            print(f"error: {path} could not be evaluated: {explain_error(error)}", file=sys.stderr)
    return results, checkpoints, errors


def show(args: Namespace, ready: list[tuple[dict, ImageData]], device: str) -> int:
    """Evaluates all checkpoints, prints their tables, and writes the report. Returns the exit status."""
    files = EvaluationFiles()
    for path in args.checkpoints:
        files.check(Path(path))
    results, checkpoints, errors = evaluate_all(args, ready, device, files)
    if rank_zero_only.rank != 0:
        return 0
    status = 1 if errors else 0
    if results:
        screen = terminal()
        results = beside(results, checkpoints, files.log_px)
        print(tables(results, screen))
        if means := over_seeds(results, checkpoints):
            print(as_text(means, screen))
        status = max(status, write_all(args, ready, results, means, device, files))
    unforeseen = [error for error in errors if not isinstance(error, ValueError | OSError | MemoryError | RuntimeError)]
    if unforeseen:
        raise unforeseen[0]
    return status


def write_all(
    args: Namespace,
    ready: list[tuple[dict, ImageData]],
    results: list[dict],
    means: list[dict],
    device: str,
    files: EvaluationFiles,
) -> int:
    """Writes what lies outside of run folders, each whatever becomes of the others. Returns the exit status."""
    status, style = 0, FigureStyle(args.figure_format, args.figure_dpi)
    if args.side_by_side:
        status |= written(
            "side_by_side", args, lambda: compare(args.checkpoints, ready, Path(args.side_by_side), device, style)
        )
    if args.report:
        failed = written("report", args, lambda: report.write(Path(args.report), results, means, style))
        status |= failed
        if not failed:
            print(f"Report: {args.report}")
            files.unsaved.clear()  # all results are in the report
    if (wandb := wandb_mode(args.wandb)) != "off":
        paths = [Path(result["checkpoint"]) for result in results]
        folders, suffixes = [run_folder(path) for path in paths], [suffix(path) for path in paths]
        kept = [files.kept.get(result["checkpoint"], result) for result in results]
        mirror(results, folders, Path(args.report or folders[0]), wandb == "offline", kept, suffixes)
    for path, error in files.unsaved.items():
        status = 1
        print(
            f"error: the result of {path} is printed above, but not saved: {explain_error(error)} Make room or permit "
            "writing there, or save the results elsewhere by --report.",
            file=sys.stderr,
        )
    return status


def written(option: str, args: Namespace, write: Callable[[], None]) -> int:
    """Writes the files of an option, and returns 1 where that fails."""
    try:
        write()
    except OSError as error:
        print(
            f"error: {explain_error(error)} Make room or permit writing there, or choose another --{option} than "
            f"{args[option]}: what has been computed is not computed again.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:  # of a figure, such as memory: the other files are not lost
        print(f"error: --{option} {args[option]} could not be written: {explain_error(error)}", file=sys.stderr)
        return 1
    return 0


def explain_error(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'} cannot be used: {error.strerror}."
    said = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError | RuntimeError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def main(argv: list[str] | None = None) -> int:
    prepare_streams()
    hasten()
    quieten()
    try:
        args = expand_paths(build_evaluation_parser().parse_args(argv))
        check_threads(args.threads)
        device = pick_device(args.device)
        ready = check(args)
        device = join(device, args.devices)
    except (ValueError, OSError, ArgumentError) as error:
        known = [key for key in build_evaluation_parser().get_defaults().keys(branches=False) if key != "checkpoints"]
        said = explain_error(error) if isinstance(error, OSError) else explain(error, {}, known)
        print(f"{speaker()}error: {said}", file=sys.stderr)
        return 2
    try:
        return show(args, ready, device)
    except OSError as error:
        print(f"{speaker()}error: {explain_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with the checkpoints that are left.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    gc.freeze()  # and thawed at once they count as old, so that the first search leaves them out too;
    gc.unfreeze()  # if they stayed frozen, libraries would report them as leaks when the process ends
    gc.enable()
    sys.exit(leave(main()))
