"""Test log-likelihoods and errors from checkpoints: `python evaluate.py RUN/checkpoints/best.ckpt [...]`.

A checkpoint knows its model, data and protocol. Each run folder gets an `evaluation.json` and `log_px.npy`, the
per-image values in test order, and figures; all runs together are printed as a table, with means over runs that differ
in their seeds alone.
"""

import gc
import json
import math
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    gc.disable()  # imports make half a million objects that stay: to search them for garbage takes half a second

import numpy as np
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

import annealing
import models
import report
from callbacks.baselines import baselines, wants_baselines
from callbacks.disentanglement import disentanglement, is_measured, moves
from callbacks.evaluations import mirror
from callbacks.probes import can_be_probed, probes
from callbacks.replace import replacing
from callbacks.wandb_environment import mode as wandb_mode
from compare import compare
from datamodules import ImageData
from differences import beside
from evaluation_options import AIS_IMAGES, build_evaluation_parser
from keeping import digest, once, per_image
from launch import hasten, join, leave, quieten, speaker
from means import as_text, over_seeds
from measures import bias_of_bf16, classification, draw, likelihoods, reconstruction, summary, units
from models.ais import Settings
from opening import check, open_checkpoint, pick_device
from options import explain
from tables import run_folder, tables

__all__ = ["evaluate", "main", "open_checkpoint"]

# Of evaluation.json, in this order; what a model does not have is null
KEYS = ("model", "data", "variant", "protocol", "seed", "quantity", "nll", "nll_se", "num_samples", "num_images",
        "precision", "bf16_bias", "bf16_bias_se", "elbo", "rate", "distortion", "ess_median", "k_hat_median",
        "k_hat_above", "ais_nll", "ais_nll_se", "ais_lowers_nll", "ais_lowers_nll_se", "ais_gap", "ais_gap_se",
        "ais_images", "ais_simulated", "ais_chains", "ais_temperatures", "ais_leapfrogs", "ais_start", "ais_acceptance",
        "active_units", "active_units_per_layer", "active_dimensions", "kl_per_dimension", "knn_error", "probe_error",
        "disentanglement", "moved", "test_error", "test_error_images", "confusion", "baselines", "criterion", "loss",
        "epochs", "step", "processes", "labels_hash", "images_hash", "data_root", "commit", "machine", "seconds",
        "checkpoint")  # fmt: skip


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
    """

    num_samples: int
    limit: int | None = None
    precision: str = "fp32"
    with_baselines: bool | None = None
    figures: Sequence[str] | None = None
    ais: Settings | None = None
    ais_images: int = AIS_IMAGES
    with_probes: bool = False


def evaluate(checkpoint: dict, path: Path, data: ImageData, wanted: Wanted, device: str = "cpu") -> dict:
    """Evaluates the contents of a checkpoint on the test images of `data` and writes the results into its run folder.

    The processes of a distributed run share the work of the likelihoods; the first alone does the rest, and the others
    get nothing.

    Args:
        checkpoint: As `models.read_checkpoint(path)` gives it.
        path: Where it lies: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        wanted: What to find out.
        device: Where to compute.
    """
    model = models.from_checkpoint(checkpoint).to(device)
    test = data.images("test", device=device)
    folder = run_folder(path)
    result = dict.fromkeys(KEYS) | origin(checkpoint, path, data)
    has_likelihoods = hasattr(model, "log_weights")
    measured = measured_likelihoods(model, test, data, checkpoint, path, wanted) if has_likelihoods else {}
    if rank_zero_only.rank != 0:
        return {}
    result |= measured or reconstruction(model, *test)
    if hasattr(model, "classify"):
        result |= classification(model, *test)
    train_labels = data.train.y
    if wanted.with_probes and can_be_probed(model, train_labels):
        result |= probes(model, data.images("train", device=device), test)
    if is_measured(model, data):
        result |= {"disentanglement": disentanglement(model, data, device), "moved": str(moves(data))}
    draw(model, data, result, wanted.figures, folder / "figures")
    if wants_baselines(type(model), train_labels, wanted.with_baselines):
        result["baselines"] = baselines(model, data.images("train", device=device), test)
    if any(result[key] is not None for key in ("test_error", "knn_error")) or result["baselines"]:
        result["test_error_images"] = int((test[1] >= 0).sum())
    result = {key: plain(value) for key, value in result.items()}
    with replacing(folder / "evaluation.json") as file:
        file.write(json.dumps(result, indent=2, allow_nan=False).encode())
    return result


def origin(checkpoint: dict, path: Path, data: ImageData) -> dict:
    """Where a checkpoint comes from."""
    return {
        "model": checkpoint["model"],
        **checkpoint["run"],
        **checkpoint.get("made", {}),
        "variant": data.variant,
        "data_root": data.hparams.get("root"),
        "epochs": checkpoint["epoch"] + 1,
        "step": checkpoint["global_step"],
        "checkpoint": str(path),
    }


def measured_likelihoods(
    model: models.Model, test: tuple[Tensor, Tensor], data: ImageData, checkpoint: dict, path: Path, wanted: Wanted
) -> dict:
    """The results of importance sampling and of AIS; per-image values that stand from an earlier start are taken."""
    folder, K = run_folder(path), wanted.num_samples
    x, y = (part[: wanted.limit or model.default_limit] for part in test)
    images = digest(x, *model.given(y))
    options = {"K": K, "images": images, "precision": wanted.precision}
    kept = per_image(path, "likelihoods")
    values = once(kept, checkpoint, options, lambda: likelihoods(model, x, y, K, wanted.precision))
    found = {"num_samples": K, "precision": wanted.precision, "quantity": model.quantity, "images_hash": images}
    if wanted.precision == "bf16":
        found |= bias_of_bf16(model, x, y, K, values["log_px"])
    if wanted.ais is not None:
        n, pilot = wanted.ais_images, data.images("val", annealing.PILOT_IMAGES, model.device)
        x, y = x[:n], y[:n]
        options = {**wanted.ais._asdict(), "images": digest(x, *model.given(y)), "pilot": digest(*pilot)}
        kept = per_image(path, "ais")
        chains = once(kept, checkpoint, options, lambda: annealing.annealed(model, x, y, pilot, wanted.ais))
        found |= annealing.summary(chains, values["log_px"], wanted.ais)
    if rank_zero_only.rank == 0:
        with replacing(folder / "log_px.npy") as file:
            np.save(file, values["log_px"])
        if hasattr(model, "latent_statistics"):
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
    )


def show(args: Namespace, ready: list[tuple[dict, ImageData]], device: str) -> int:
    """Evaluates all checkpoints, prints their tables, and writes the report."""
    wanted, results = wanted_by(args), []
    for number, (path, (checkpoint, data)) in enumerate(zip(args.checkpoints, ready, strict=True), 1):
        if len(ready) > 1 and rank_zero_only.rank == 0:
            print(f"{number}/{len(ready)} {path}", file=sys.stderr)
        kind = models.MODELS[checkpoint["model"]]
        able = wanted if hasattr(kind, "log_px") else wanted._replace(ais=None)
        results.append(evaluate(checkpoint, Path(path), data, able, device))
    if rank_zero_only.rank != 0:
        return 0
    checkpoints = [checkpoint for checkpoint, _ in ready]
    results, means = beside(results, checkpoints), over_seeds(results, checkpoints)
    print(tables(results))
    if args.side_by_side:
        compare(args.checkpoints, ready, Path(args.side_by_side), device)
    if means:
        print(as_text(means))
    if args.report:
        report.write(Path(args.report), results, means)
        print(f"Report: {args.report}")
    if (wandb := wandb_mode(args.wandb)) != "off":
        folders = [run_folder(Path(path)) for path in args.checkpoints]
        mirror(results, folders, Path(args.report or folders[0]), wandb == "offline")
    return 0


def main(argv: list[str] | None = None) -> int:
    hasten()
    quieten()
    try:
        args = build_evaluation_parser().parse_args(argv)
        device = pick_device(args.device)
        ready = check(args)
        device = join(device, args.devices)
    except (ValueError, OSError, ArgumentError) as error:
        known = [key for key in build_evaluation_parser().get_defaults().keys(branches=False) if key != "checkpoints"]
        print(f"{speaker()}error: {explain(error, {}, known)}", file=sys.stderr)
        return 2
    try:
        return show(args, ready, device)
    except OSError as error:
        print(f"{speaker()}error: {explain(error, {}, [])}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped. The same command goes on with the checkpoints that are left.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    gc.freeze()  # and thawed at once they count as old, so that the first search leaves them out too;
    gc.unfreeze()  # if they stayed frozen, libraries would report them as leaks when the process ends
    gc.enable()
    sys.exit(leave(main()))
