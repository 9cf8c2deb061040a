"""What evaluate.py needs before it begins: checkpoints, their data, a device; all that can be wrong is said now."""

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import torch
from jsonargparse import Namespace

import models
from callbacks import for_model
from callbacks.base import FigureCallback
from cli.evaluate_options import check_ais
from cli.train_options import check_numbers
from datamodules import DATAMODULES, ImageData
from datamodules.labels import list_names
from evaluation.baselines import can_have_baselines
from evaluation.result_files import try_writing
from evaluation.side_by_side import check_same_images
from models.checkpoints import find, require
from models.estimators.ais import annealing_path
from runtime.figure_files import FigureStyle, check_style


def expand(patterns: Sequence[str]) -> list[str]:
    """Paths of checkpoints, with patterns such as runs/*/checkpoints/best.ckpt expanded, in order, each file once.

    What is a file or a folder is no pattern, whatever its name. A run folder stands for its best.ckpt. Files are told
    apart by where they lie, not by how their paths are written.

    Raises:
        ValueError: A pattern that matches nothing, or a folder in which no checkpoint is the obvious one.
    """
    found = []
    for given in patterns:
        pattern = os.path.expanduser(given)
        is_pattern = any(mark in pattern for mark in "*?[") and not Path(pattern).exists()
        paths = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]
        if not paths:
            raise ValueError(
                f"No checkpoint matches {pattern}: give the path of a .ckpt file, or a pattern such as "
                "'runs/**/best.ckpt' for all below a folder."
            )
        found += [str(find(path)) for path in paths]
    first = {Path(path).resolve(): path for path in reversed(found)}
    return [path for path in dict.fromkeys(found) if first[Path(path).resolve()] == path]


def open_checkpoint(path: str, overrides: dict) -> tuple[dict, ImageData]:
    """The contents of a checkpoint and its data module, not set up yet, where `overrides` replace remembered options.

    Raises:
        ValueError: No checkpoint, an option that its data does not have, or another protocol than it was trained on.
    """
    checkpoint = models.read_checkpoint(path)
    require(checkpoint, path)
    models.from_checkpoint(checkpoint, path)  # refuses one of another version before the work begins
    name, protocol = checkpoint["run"]["data"], checkpoint["run"]["protocol"]
    options = checkpoint["datamodule_hyper_parameters"]
    if name not in DATAMODULES:
        raise ValueError(f"{path} was trained on {name}, which is none of the data sets {', '.join(DATAMODULES)}.")
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


def data_key(data: ImageData) -> str:
    """What data modules have in common that read the same files in the same way, however the path is written."""
    options = dict(data.hparams)
    if options.get("root"):
        options["root"] = Path(options["root"]).expanduser().resolve()
    return f"{type(data).__name__} {options}"


def load_data(opened: list[tuple[dict, ImageData]]) -> list[tuple[dict, ImageData]]:
    """Reads the data of all checkpoints, once for those that share it: a missing file is known before the work."""
    ready: dict[str, ImageData] = {}
    for checkpoint, data in opened:
        data = ready.setdefault(data_key(data), data)
        data.prepare_data()
        data.setup()
        options = checkpoint["hyper_parameters"]
        expected = tuple(options["image_shape"])
        if data.image_shape != expected:
            raise ValueError(f"{checkpoint['model']} takes images {expected}, and the data have {data.image_shape}.")
        if (classes := options.get("num_classes", data.num_classes)) != data.num_classes:
            raise ValueError(f"{checkpoint['model']} knows {classes} classes, and the data have {data.num_classes}.")
        names = checkpoint.get(type(data).__name__, {}).get("class_names")  # not there in older checkpoints
        if "num_classes" in options and names and names != data.class_names:
            raise ValueError(
                f"{checkpoint['model']} knows classes {list_names(names)}, and the data have classes "
                f"{list_names(data.class_names)}."
            )
    return [(checkpoint, ready[data_key(data)]) for checkpoint, data in opened]


def check_figures(model: models.Model, names: Sequence[str] | None) -> None:
    """ValueError where the model cannot draw one of these figures, or a name is that of no figure."""
    for callback in for_model(model, names) if names else ():
        if not isinstance(callback, FigureCallback):
            raise ValueError(f"{callback.name} draws nothing from a checkpoint: leave it out of --figures.")


def check_folder(args: Namespace, option: str) -> None:
    """ValueError where the folder of an option is a file, or no file can be made in it; `~` is expanded.

    It is made when its files are written: nothing is left of it if the evaluation is refused.
    """
    if not args[option]:
        return
    folder = Path(args[option]).expanduser()
    args[option] = str(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--{option} {folder} is a file: name a folder.")
    try:
        try_writing(folder)
    except OSError as error:
        raise ValueError(
            f"--{option} {folder} cannot be written to ({error.strerror}): name another folder."
        ) from error


def open_and_validate(args: Namespace) -> list[tuple[dict, ImageData]]:
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
    if "root" in overrides:
        overrides["root"] = os.path.expanduser(overrides["root"])
    opened = [open_checkpoint(path, overrides) for path in args.checkpoints]
    kinds = [models.MODELS[checkpoint["model"]] for checkpoint, _ in opened]
    if args.baselines and not any(map(can_have_baselines, kinds)):
        raise ValueError("--baselines needs the checkpoint of a VAE, an M2 or an M1M2: leave it out.")
    if args.precision != "fp32" and not any(kind.can("log_weights") for kind in kinds):
        raise ValueError("--precision is that of likelihoods, which an AE does not have: leave it out.")
    ready = load_data(opened)
    for checkpoint, data in ready:
        model = models.from_checkpoint(checkpoint)
        check_figures(model, args.figures)
        if args.ais and model.can("ais_log_px"):  # the others are evaluated without
            x, y = data.images("test", 2)
            annealing_path(model, x, *(model.condition_args(y) or (None,)), args.ais_start)
    if args.ais and not any(kind.can("ais_log_px") for kind in kinds):
        raise ValueError("--ais needs a density of x given its latents, which an AE does not have: leave it out.")
    if args.side_by_side:
        check_same_images(ready, args.side_by_side)
    for option in ("report", "side_by_side"):
        check_folder(args, option)
    return ready
