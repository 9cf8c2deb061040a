"""Checkpoints as dictionaries of numbers and text. Reading one runs no code from it."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

# What Lightning and train.py write, if at all
PARTS = {"state_dict": dict, "hyper_parameters": dict, "datamodule_hyper_parameters": dict, "run": dict, "made": dict,
         "training": dict, "epoch": int, "global_step": int, "optimizer_states": list, "lr_schedulers": list,
         "loops": dict, "callbacks": dict}  # fmt: skip
# What `run` and `made` hold; the keys that older checkpoints lack may be missing
OF_PARTS = {
    "run": {"data": str, "protocol": str, "seed": int, "labels_hash": (str, type(None)), "processes": int},
    "made": {"commit": list, "machine": list, "seconds": (int, float)},
}
WEIGHTS = ("hyper_parameters", "state_dict")  # without which there is no model
RECORD = (*WEIGHTS, "run", "datamodule_hyper_parameters", "epoch", "global_step")  # where the weights come from
OF_RUN = ("data", "protocol", "seed")
BEST, LAST = "best.ckpt", "last.ckpt"


def find(path: str | Path) -> Path:
    """Return the checkpoint file that a path means: of a run folder its best.ckpt.

    A folder without best.ckpt, of a run without validation, stands for its last.ckpt, or for the only .ckpt file in it;
    a warning says so.

    Args:
        path: A checkpoint, a run folder, or the folder `checkpoints` of a run.

    Raises:
        ValueError: There is no such file or folder, or no checkpoint is the obvious one.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    folders = [folder for folder in (path / "checkpoints", path) if folder.is_dir()]
    for folder in folders:
        if (folder / BEST).is_file():
            return folder / BEST
    for folder in folders:
        there = sorted(file for file in folder.glob("*.ckpt") if file.is_file())
        found = folder / LAST if (folder / LAST) in there else there[0] if len(there) == 1 else None
        if found:
            warnings.warn(f"{path} has no {BEST}: {found} is taken.", stacklevel=2)
            return found
        if there:
            names = ", ".join(file.name for file in there)
            raise ValueError(f"{path} holds several checkpoints and no {BEST}: name one of {names}.")
    if next(path.glob(f"*/**/{BEST}"), None):
        raise ValueError(
            f"{path} is no run folder, but runs lie below it: give one of them, or to evaluate.py the pattern "
            f"'{path}/**/{BEST}' for all of them."
        )
    raise ValueError(f"There is no checkpoint in {path}: give a .ckpt file, or a run folder that holds one.")


def read(path: str | Path) -> dict:
    """The contents of a checkpoint file, or of the checkpoint that `find` finds in a folder.

    Raises:
        ValueError: There is no such file, it is damaged, or it holds more than numbers and text.
    """
    path = find(Path(path).expanduser())
    if not path.is_file():
        raise ValueError(
            f"There is no checkpoint {path}: give the path of a .ckpt file, such as RUN_FOLDER/checkpoints/best.ckpt, "
            "or a run folder."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not notice a flipped bit
                raise zipfile.BadZipFile
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises many kinds; each means that the file is none of ours
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than numbers and text."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is no checkpoint of this project.")
    check_types(checkpoint, path)
    return checkpoint


def check_types(checkpoint: dict, path: Path) -> None:
    """ValueError where a part of a checkpoint is there, but is no such thing as train.py writes."""
    for key, kind in PARTS.items():
        if not isinstance(checkpoint.get(key, kind()), kind):
            raise ValueError(f"{path} is no checkpoint of this project: its {key} is no {kind.__name__}.")
    for part, kinds in OF_PARTS.items():
        for key, kind in kinds.items():
            if key in checkpoint.get(part, {}) and not isinstance(checkpoint[part][key], kind):
                raise ValueError(f"{path} is damaged: {part}.{key} cannot be {checkpoint[part][key]!r}.")


def require(checkpoint: dict, path: str | Path, keys: Sequence[str] = RECORD) -> None:
    """Refuse a checkpoint that lacks something, rather than go on with a default in its place.

    Raises:
        ValueError: It lacks one of `keys`, or what a run is known by.
    """
    missing = [key for key in keys if key not in checkpoint]
    if "run" in keys and "run" in checkpoint:
        missing += [f"run.{key}" for key in OF_RUN if key not in checkpoint["run"]]
    # a data module always has options of its own
    if "datamodule_hyper_parameters" in keys and checkpoint.get("datamodule_hyper_parameters") == {}:
        missing.append("the options in datamodule_hyper_parameters")
    if missing:
        raise ValueError(
            f"{path} is no complete checkpoint of this project: it lacks {', '.join(missing)}. Take another one, such "
            "as last.ckpt of the same run, or train again."
        )


def check_image_shape(options: dict) -> None:
    """ValueError where the shape of images in the options of a model is none: it lacks, or is no (C, H, W)."""
    if "image_shape" not in options:
        raise ValueError("its hyper_parameters lack image_shape")
    shape = options["image_shape"]
    is_shape = isinstance(shape, list | tuple) and len(shape) == 3
    if not is_shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"its image_shape is {shape}, and should be channels, height and width")


def check_weights(state: dict, expected: dict) -> None:
    """Compare the weights of a checkpoint with those of its model.

    Args:
        state: Tensors by their names, from a checkpoint.
        expected: `state_dict()` of a new model with the options of the checkpoint.

    Raises:
        ValueError: Names, shapes or kinds of numbers differ, or a weight is not a finite number.
    """

    def names(keys: Sequence[str]) -> str:
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    if missing := [key for key in expected if key not in state]:
        raise ValueError(f"its weights lack {names(missing)}")
    if more := [str(key) for key in state if key not in expected]:
        raise ValueError(f"its weights have {names(more)}, which this model does not have")
    for key, value in expected.items():
        if not isinstance(state[key], torch.Tensor):
            raise ValueError(f"its weight {key} is no tensor")
        if state[key].shape != value.shape:
            raise ValueError(f"its weight {key} has the shape {tuple(state[key].shape)}, not {tuple(value.shape)}")
        # a run in --trainer.precision 64-true has float64 weights, which become the model's float32
        trained_in_double = state[key].dtype == torch.float64 and value.dtype == torch.float32
        if state[key].dtype != value.dtype and not trained_in_double:
            raise ValueError(f"its weight {key} is of {state[key].dtype}, not {value.dtype}")
    if damaged := [key for key in expected if expected[key].is_floating_point() and expected[key].isfinite().all()
                   and not state[key].isfinite().all()]:  # fmt: skip
        raise ValueError(f"its weights are not finite (NaN or infinite) in {names(damaged)}")
