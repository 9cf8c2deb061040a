"""What evaluate.py needs before it begins: checkpoints, their data, a device; all that can be wrong is said now."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path

import torch
from jsonargparse import Namespace

import models
from callbacks import for_model
from callbacks.baselines import can_have_baselines
from callbacks.record import FigureStyle, check_style
from callbacks.schedule import Drawing
from compare import check_alike
from datamodules import DATAMODULES, ImageData
from evaluation_options import check_ais
from models.ais import path_of
from options import check_numbers


def expand(patterns: Sequence[str]) -> list[str]:
    """Paths, with patterns such as runs/*/checkpoints/best.ckpt expanded, in order, each once.

    What is a file is no pattern, whatever its name.

    Raises:
        ValueError: A pattern that matches nothing.
    """
    found = []
    for pattern in patterns:
        is_pattern = any(mark in pattern for mark in "*?[") and not Path(pattern).is_file()
        paths = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]
        if not paths:
            raise ValueError(
                f"No checkpoint matches {pattern}: give the path of a .ckpt file, or a pattern such as "
                "'runs/**/best.ckpt' for all below a folder."
            )
        found += paths
    return list(dict.fromkeys(found))


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
    check_style(FigureStyle(args.figure_format, args.figure_dpi))
    check_ais(args)
    if args.devices < 0:
        raise ValueError(f"--devices must be a number of devices; got {args.devices}.")
    args.checkpoints = expand(args.checkpoints)
    overrides = {key: value for key, value in vars(args.data).items() if value is not None}
    opened = [open_checkpoint(path, overrides) for path in args.checkpoints]
    kinds = [models.MODELS[checkpoint["model"]] for checkpoint, _ in opened]
    if args.baselines and not any(map(can_have_baselines, kinds)):
        raise ValueError("--baselines needs the checkpoint of a VAE, an M2 or an M1M2: leave it out.")
    if args.precision != "fp32" and not any(hasattr(kind, "log_weights") for kind in kinds):
        raise ValueError("--precision is that of likelihoods, which an AE does not have: leave it out.")
    if args.report and Path(args.report).exists() and not Path(args.report).is_dir():
        raise ValueError(f"--report {args.report} is a file: name a folder.")
    ready = prepare(opened)
    for checkpoint, data in ready:
        model = models.from_checkpoint(checkpoint)
        check_figures(model, args.figures)
        if args.ais and hasattr(model, "log_px"):  # the others are evaluated without
            x, y = data.images("test", 2)
            path_of(model, x, *(model.given(y) or (None,)), args.ais_start)
    if args.ais and not any(hasattr(kind, "log_px") for kind in kinds):
        raise ValueError("--ais needs a density of x given its latents, which an AE does not have: leave it out.")
    if args.side_by_side:
        check_alike(ready, args.side_by_side)
    return ready
