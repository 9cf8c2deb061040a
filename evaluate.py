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

if __name__ == "__main__":
    gc.disable()  # imports make half a million objects that stay: to search them for garbage takes half a second

import numpy as np
import torch
from jsonargparse import Namespace
from pytorch_lightning.utilities import rank_zero_only

import models
from callbacks import for_model
from callbacks.baselines import baselines, can_have_baselines, wants_baselines
from callbacks.disentanglement import disentanglement, is_measured, moves
from callbacks.replace import replacing
from callbacks.schedule import Drawing
from compare import check_alike, compare
from datamodules import DATAMODULES, ImageData
from launch import hasten, join, quieten, speaker
from measures import bias_of_bf16, classification, draw, likelihoods, reconstruction, summary, units
from options import build_evaluation_parser, check_numbers, explain
from tables import means, run_folder, tables

# Of evaluation.json, in this order; what a model does not have is null
KEYS = ("model", "data", "variant", "protocol", "seed", "quantity", "nll", "nll_se", "num_samples", "num_images",
        "precision", "bf16_bias", "bf16_bias_se", "elbo", "rate", "distortion", "ess_median", "active_units",
        "active_units_per_layer", "disentanglement", "moved", "test_error", "test_error_images", "confusion",
        "baselines", "criterion", "loss", "epochs", "step", "processes", "labels_hash", "data_root",
        "checkpoint")  # fmt: skip


def evaluate(
    checkpoint: dict,
    path: Path,
    data: ImageData,
    num_samples: int,
    limit: int | None = None,
    device: str = "cpu",
    with_baselines: bool | None = None,
    figures: Sequence[str] | None = None,
    precision: str = "fp32",
) -> dict:
    """Evaluates the contents of a checkpoint on the test images of `data` and writes the results into its run folder.

    The processes of a distributed run share the work of the likelihoods; the first alone does the rest, and the others
    get nothing.

    Args:
        checkpoint: As `models.read_checkpoint(path)` gives it.
        path: Where it lies: in the folder `checkpoints` of its run folder, or in the run folder itself.
        data: Set up, with the protocol that the model was trained on.
        num_samples: K, importance samples per image.
        limit: Evaluate the likelihood on the first so many test images; none takes all, or the model's default.
        device: Where to compute.
        with_baselines: Fit classifiers of scikit-learn too; by default beside a classifier that was given few labels.
        figures: Names of the callbacks whose figures to draw; by default all that the model supports.
        precision: Of the likelihoods, fp32 or bf16; beside bf16 its bias is measured.
    """
    model = models.from_checkpoint(checkpoint).to(device)
    x, y = data.images("test", device=device)
    folder = run_folder(path)
    about = {
        "model": checkpoint["model"],
        **checkpoint["run"],
        "variant": data.variant,
        "data_root": data.hparams.get("root"),
        "epochs": checkpoint["epoch"] + 1,
        "step": checkpoint["global_step"],
        "checkpoint": str(path),
    }
    result = dict.fromkeys(KEYS) | about
    some = [part[: limit or model.default_limit] for part in (x, y)]
    values = likelihoods(model, *some, num_samples, precision) if hasattr(model, "log_weights") else {}
    bias = bias_of_bf16(model, *some, num_samples, values["log_px"]) if values and precision == "bf16" else {}
    if rank_zero_only.rank != 0:
        return {}
    if values:
        result |= {"num_samples": num_samples, "precision": precision, "quantity": model.quantity}
        result |= summary(values) | bias
        if hasattr(model, "latent_statistics"):
            result |= units(model, x, y)
        with replacing(folder / "log_px.npy") as file:
            np.save(file, values["log_px"])
    else:
        result |= reconstruction(model, x, y)
    if hasattr(model, "classify"):
        result |= classification(model, x, y)
    if is_measured(model, data):
        result |= {"disentanglement": disentanglement(model, data, device), "moved": str(moves(data))}
    draw(model, data, result, figures, folder / "figures")
    if wants_baselines(type(model), data.train.y, with_baselines):
        result["baselines"] = baselines(model, data.images("train", device=device), (x, y))
    if result["test_error"] is not None or result["baselines"]:
        result["test_error_images"] = int((y >= 0).sum())
    result = {key: plain(value) for key, value in result.items()}
    with replacing(folder / "evaluation.json") as file:
        file.write(json.dumps(result, indent=2, allow_nan=False).encode())
    return result


def plain(value):
    """A value as JSON has it: numpy's numbers as Python's, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def open_checkpoint(path: str, overrides: dict) -> tuple[dict, ImageData]:
    """The contents of a checkpoint and its data module, not set up yet, where `overrides` replace remembered options.

    Raises:
        ValueError: No checkpoint, an option that its data does not have, or another protocol than it was trained on.
    """
    checkpoint = models.read_checkpoint(path)
    models.from_checkpoint(checkpoint)  # refuses one of another version before the work begins
    if str(checkpoint.get("run", {}).get("data")) not in DATAMODULES:
        raise ValueError(f"{path} does not say what data it was trained on: train it with train.py.")
    name, protocol = checkpoint["run"]["data"], checkpoint["run"].get("protocol")
    options = checkpoint.get("datamodule_hyper_parameters", {})
    for key in overrides:
        if key not in options:
            raise ValueError(f"{name}, which {path} was trained on, has no option --data.{key}: leave it out.")
    try:
        data = DATAMODULES[name](**options | overrides)
    except TypeError as error:
        raise ValueError(f"{path} does not fit this version of {name}: {error}") from error
    if data.protocol != protocol:
        raise ValueError(
            f"{path} was trained on {protocol} images and says nothing about {data.protocol} ones: "
            f"leave --data.binarization out, or train on {data.protocol} images."
        )
    return checkpoint, data


def pick_device(name: str) -> str:
    """The device called `name`; `auto` is a GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device {name} here: use --device auto or cpu.") from error
    return name


def prepare(opened: list[tuple[dict, ImageData]]) -> list[tuple[dict, ImageData]]:
    """Reads the data of all checkpoints, once for those that share it: a missing file is known before the work."""
    ready: dict[str, ImageData] = {}
    for checkpoint, data in opened:
        data = ready.setdefault(f"{type(data).__name__} {dict(data.hparams)}", data)
        data.prepare_data()
        data.setup()
        options = checkpoint["hyper_parameters"]
        expected = tuple(options["image_shape"])
        if data.image_shape != expected:
            raise ValueError(f"{checkpoint['model']} takes images {expected}, and the data have {data.image_shape}.")
        if (classes := options.get("num_classes", data.num_classes)) != data.num_classes:
            raise ValueError(f"{checkpoint['model']} knows {classes} classes, and the data have {data.num_classes}.")
    return [(checkpoint, ready[f"{type(data).__name__} {dict(data.hparams)}"]) for checkpoint, data in opened]


def check_figures(model: models.Model, names: Sequence[str] | None) -> None:
    """ValueError where the model cannot draw one of these figures, or a name is that of no figure."""
    for callback in for_model(model, names) if names else ():
        if not isinstance(callback, Drawing):
            raise ValueError(f"{callback.name} draws nothing from a checkpoint: leave it out of --figures.")


def check(args: Namespace) -> list[tuple[dict, ImageData]]:
    """The checkpoints that the options name, each with its data, ready for all that is asked for.

    Raises:
        ValueError: Something cannot be done, and nothing has been.
    """
    check_numbers(args.num_samples, args.limit)
    if args.devices < 0:
        raise ValueError(f"--devices must be a number of devices; got {args.devices}.")
    overrides = {key: value for key, value in vars(args.data).items() if value is not None}
    opened = [open_checkpoint(path, overrides) for path in args.checkpoints]
    kinds = [models.MODELS[checkpoint["model"]] for checkpoint, _ in opened]
    if args.baselines and not any(map(can_have_baselines, kinds)):
        raise ValueError("--baselines needs the checkpoint of a VAE, an M2 or an M1M2: leave it out.")
    if args.precision != "fp32" and not any(hasattr(kind, "log_weights") for kind in kinds):
        raise ValueError("--precision is that of likelihoods, which an AE does not have: leave it out.")
    ready = prepare(opened)
    for checkpoint, _ in ready:
        check_figures(models.from_checkpoint(checkpoint), args.figures)
    if args.side_by_side:
        check_alike(ready, args.side_by_side)
    return ready


def show(args: Namespace, ready: list[tuple[dict, ImageData]], device: str) -> int:
    """Evaluates all checkpoints and prints their tables."""
    wanted = args.baselines, args.figures, args.precision
    results = [
        evaluate(checkpoint, Path(path), data, args.num_samples, args.limit, device, *wanted)
        for path, (checkpoint, data) in zip(args.checkpoints, ready, strict=True)
    ]
    if rank_zero_only.rank != 0:
        return 0
    print(tables(results))
    if args.side_by_side:
        compare(args.checkpoints, ready, Path(args.side_by_side), device)
    if over_seeds := means(results, [checkpoint for checkpoint, _ in ready]):
        print(over_seeds)
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
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    gc.freeze()  # and thawed at once they count as old, so that the first search leaves them out too;
    gc.unfreeze()  # if they stayed frozen, libraries would report them as leaks when the process ends
    gc.enable()
    sys.exit(main())
