"""Open and validate the inputs of an evaluation: checkpoints, their data, the device, output folders."""

import os
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import torch
from jsonargparse import Namespace

import models
from callbacks import ActiveUnits, for_model
from callbacks.base import FigureCallback
from cli.evaluate_options import check_ais
from cli.train_options import check_numbers
from datamodules import DATAMODULES, ImageData
from datamodules.labels import list_names
from evaluation.baselines import can_have_baselines
from evaluation.metrics import labels_or_none
from evaluation.result_files import try_writing
from evaluation.side_by_side import check_same_images
from evaluation.two_sample import number_of_images
from models.checkpoints import find, require
from models.estimators.ais import annealing_path
from runtime.figure_files import FigureStyle, check_style


def expand(patterns: Sequence[str]) -> list[str]:
    """Expand patterns such as runs/*/checkpoints/best.ckpt to paths of checkpoints, in order and each file once.

    An existing file or folder is never a pattern. A run folder stands for its best.ckpt. Two paths to the same file
    count as one. A W&B artifact is downloaded.

    Raises:
        ValueError: A pattern matches nothing, or the checkpoint of a folder is ambiguous.
    """
    expanded = []
    for given in patterns:
        pattern = os.path.expanduser(given)
        is_pattern = any(mark in pattern for mark in "*?[") and not Path(pattern).exists()
        paths = sorted(glob(pattern, recursive=True)) if is_pattern else [pattern]
        if not paths:
            raise ValueError(
                f"No checkpoint matches {pattern}: give the path of a .ckpt file, or a pattern such as "
                "'runs/**/best.ckpt' for all below a folder."
            )
        expanded += [str(find(path)) for path in paths]
    first = {Path(path).resolve(): path for path in reversed(expanded)}
    return [path for path in dict.fromkeys(expanded) if first[Path(path).resolve()] == path]


def open_checkpoint(path: str, overrides: dict) -> tuple[dict, ImageData]:
    """Return the content of a checkpoint and its data module, which is not set up yet.

    Args:
        path: Path of the checkpoint.
        overrides: Options of the data that replace those in the checkpoint.

    Raises:
        ValueError: The file is no checkpoint, the data has no such option, or the protocol is not that of training.
    """
    checkpoint = models.read_checkpoint(path)
    require(checkpoint, path)
    models.from_checkpoint(checkpoint, path)  # raises early for a checkpoint of an incompatible version
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
    """Return the device called `name`; `auto` is a GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device {name} here: use --device auto or cpu.") from error
    return name


def data_key(data: ImageData) -> str:
    """Return a key that is equal for data modules that read the same files with the same options."""
    options = {name: value for name, value in data.hparams.items() if name != "cache"}
    if options.get("root"):
        options["root"] = Path(options["root"]).expanduser().resolve()
    return f"{type(data).__name__} {options}"


def load_data(opened: list[tuple[dict, ImageData]]) -> list[tuple[dict, ImageData]]:
    """Load the data of all checkpoints, once for those that share it, and check that it fits the models.

    Images of users that have changed since training cost a warning: test images may have been training images then,
    since the split depends on all images.

    Raises:
        ValueError: Images or classes are not those of training.
    """
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
        stored = checkpoint.get(type(data).__name__, {})
        images = stored.get("images_hash")  # only of data sets that users change
        if images and images != data.images_hash:
            data.note(
                f"warning: the images in {data.hparams.get('root')} are not those that {checkpoint['model']} was "
                "trained on: test images may be among its training images."
            )
        names = stored.get("class_names")  # older checkpoints have none
        if "num_classes" in options and names and names != data.class_names:
            raise ValueError(
                f"{checkpoint['model']} knows classes {list_names(names)}, and the data have classes "
                f"{list_names(data.class_names or ())}."
            )
    return [(checkpoint, ready[data_key(data)]) for checkpoint, data in opened]


def check_figures(model: models.Model, names: Sequence[str] | None) -> None:
    """Raise ValueError if the model does not support one of these figures, or a name is not that of a figure."""
    for callback in for_model(model, names) if names else ():
        if not isinstance(callback, FigureCallback | ActiveUnits):
            raise ValueError(f"{callback.name} draws nothing from a checkpoint: leave it out of --figures.")


def check_folder(args: Namespace, option: str) -> None:
    """Expand `~` in the folder of an option. Raise ValueError if it is a file or cannot be written to.

    The folder is only created when its files are written, so that a refused evaluation leaves nothing behind.
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
    """Return the checkpoints that the options name, each with its data, after checking all options.

    Raises:
        ValueError: An option, a checkpoint or its data is not valid. Nothing has been computed or written.
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
        raise ValueError("--baselines needs the checkpoint of a VAE or of a model that classifies: leave it out.")
    if args.precision != "fp32" and not any(kind.can("log_weights") for kind in kinds):
        raise ValueError("--precision needs a model with an importance-sampled likelihood: leave it out.")
    ready = load_data(opened)
    for checkpoint, data in ready:
        model = models.from_checkpoint(checkpoint)
        check_figures(model, args.figures)
        if args.ais and model.can("ais_log_px"):  # the others are evaluated without
            x, y = data.images("test", 2)
            annealing_path(model, x, labels_or_none(model, y), args.ais_start)
    if args.ais and not any(kind.can("ais_log_px") for kind in kinds):
        raise ValueError("--ais needs a density of x given its latents, which an AE does not have: leave it out.")
    if args.two_sample and not any(kind.can("sample") for kind in kinds):
        raise ValueError("--two_sample needs a model that samples, which an AE does not: leave it out.")
    if args.two_sample and any(number_of_images(data) < 2 for _, data in ready):
        raise ValueError("--two_sample needs at least 2 test images and 2 validation images: leave it out.")
    if args.side_by_side:
        check_same_images(ready, args.side_by_side)
    for option in ("report", "side_by_side"):
        check_folder(args, option)
    return ready
