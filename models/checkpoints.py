"""Find, read and validate checkpoints: dictionaries of tensors, numbers and text, loaded with `weights_only=True`."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from remote import wandb_artifacts

# Types of the entries that Lightning and train.py write; each may be missing
ENTRY_TYPES: dict[str, type] = {
    "state_dict": dict,
    "current_model_state": dict,  # of a run with --ema: the weights that training continues with
    "averaging_state": dict,
    "hyper_parameters": dict,
    "datamodule_hyper_parameters": dict,
    "run": dict,
    "made": dict,
    "training": dict,
    "epoch": int,
    "global_step": int,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
}
# Types of the values in the entries `run` and `made`; older checkpoints lack some of them
VALUE_TYPES: dict[str, dict[str, Any]] = {
    "run": {"data": str, "protocol": str, "seed": int, "labels_hash": (str, type(None)), "processes": int},
    "made": {"commit": list, "machine": list, "seconds": (int, float)},
}
WEIGHTS = ("hyper_parameters", "state_dict")  # entries that a model is built from
RECORD = (*WEIGHTS, "run", "datamodule_hyper_parameters", "epoch", "global_step")  # and that an evaluation reports
REQUIRED_OF_RUN = ("data", "protocol", "seed")
BEST, LAST = "best.ckpt", "last.ckpt"


def find(path: str | Path) -> Path:
    """Return the checkpoint file for a path: the path itself if it is a file, and best.ckpt of a run folder.

    For a folder without best.ckpt (a run without validation), returns last.ckpt or the only .ckpt file, with a warning.
    A W&B artifact is downloaded.

    Args:
        path: A checkpoint, a run folder, the folder `checkpoints` of a run, or wandb:ENTITY/PROJECT/ARTIFACT:ALIAS.

    Raises:
        ValueError: The folder has no checkpoint, or several without a best.ckpt or last.ckpt; or an artifact cannot be
            downloaded.
    """
    if wandb_artifacts.is_reference(path):
        path = wandb_artifacts.download(str(path))
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    folders = [folder for folder in (path / "checkpoints", path) if folder.is_dir()]
    for folder in folders:
        if (folder / BEST).is_file():
            return folder / BEST
    for folder in folders:
        files = sorted(file for file in folder.glob("*.ckpt") if file.is_file())
        if folder / LAST in files:
            checkpoint = folder / LAST
        elif len(files) == 1:
            checkpoint = files[0]
        elif files:
            names = ", ".join(file.name for file in files)
            raise ValueError(f"{path} has several checkpoints and no {BEST}: choose one of {names}.")
        else:
            continue
        warnings.warn(f"{path} has no {BEST}: using {checkpoint}.", stacklevel=2)
        return checkpoint
    if next(path.glob(f"*/**/{BEST}"), None):
        raise ValueError(
            f"{path} is not a run folder, but contains run folders: give one of them, or give evaluate.py the pattern "
            f"'{path}/**/{BEST}' for all of them."
        )
    raise ValueError(f"There is no checkpoint in {path}: give a .ckpt file, or a run folder with a checkpoint.")


def read(path: str | Path) -> dict:
    """Return the contents of a checkpoint file, or of the checkpoint that `find` returns for a folder.

    Raises:
        ValueError: The file does not exist, is damaged, or contains more than tensors, numbers and text.
    """
    path = find(path)
    if not path.is_file():
        raise ValueError(
            f"There is no checkpoint {path}: give the path of a .ckpt file, such as RUN_FOLDER/checkpoints/best.ckpt, "
            "or a run folder."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not verify the checksums
                raise zipfile.BadZipFile
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # torch raises many types; each means that the file is not a valid checkpoint
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, or contains more than numbers and text."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is not a checkpoint of this project.")
    check_types(checkpoint, path)
    return checkpoint


def check_types(checkpoint: dict, path: Path) -> None:
    """Raise ValueError if an entry of a checkpoint does not have the type that train.py writes."""
    for key, expected in ENTRY_TYPES.items():
        if key in checkpoint and not isinstance(checkpoint[key], expected):
            raise ValueError(f"{path} is not a checkpoint of this project: its {key} is not a {expected.__name__}.")
    for entry, types in VALUE_TYPES.items():
        for key, expected in types.items():
            if key in checkpoint.get(entry, {}) and not isinstance(checkpoint[entry][key], expected):
                raise ValueError(f"{path} is damaged: {entry}.{key} cannot be {checkpoint[entry][key]!r}.")


def require(checkpoint: dict, path: str | Path, keys: Sequence[str] = RECORD) -> None:
    """Raise ValueError if a checkpoint lacks a required entry. Missing entries are never replaced by defaults.

    Args:
        checkpoint: The contents of a checkpoint.
        path: Its path, for messages.
        keys: Required entries.
    """
    missing = [key for key in keys if key not in checkpoint]
    if "run" in keys and "run" in checkpoint:
        missing += [f"run.{key}" for key in REQUIRED_OF_RUN if key not in checkpoint["run"]]
    # Every data module has options, so an empty dictionary means that they were lost.
    if "datamodule_hyper_parameters" in keys and checkpoint.get("datamodule_hyper_parameters") == {}:
        missing.append("the options in datamodule_hyper_parameters")
    if missing:
        raise ValueError(
            f"{path} is not a complete checkpoint of this project: it lacks {', '.join(missing)}. Use another one, "
            "such as last.ckpt of the same run, or train again."
        )


def check_image_shape(options: dict) -> None:
    """Raise ValueError unless the options of a model have an `image_shape` (C, H, W) of positive integers."""
    if "image_shape" not in options:
        raise ValueError("its hyper_parameters lack image_shape")
    shape = options["image_shape"]
    is_shape = isinstance(shape, list | tuple) and len(shape) == 3
    if not is_shape or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"its image_shape is {shape} instead of channels, height and width")


def check_weights(state: dict, expected: dict) -> None:
    """Raise ValueError unless the weights of a checkpoint fit its model and are finite.

    Args:
        state: The `state_dict` of a checkpoint.
        expected: The `state_dict()` of a new model with the options of the checkpoint.

    Raises:
        ValueError: Names, shapes or dtypes differ, or a weight is not finite.
    """

    def names(keys: Sequence[str]) -> str:
        return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

    if missing := [key for key in expected if key not in state]:
        raise ValueError(f"its weights lack {names(missing)}")
    if more := [str(key) for key in state if key not in expected]:
        raise ValueError(f"its weights include {names(more)}, which this model does not have")
    for key, value in expected.items():
        if not isinstance(state[key], torch.Tensor):
            raise ValueError(f"its weight {key} is not a tensor")
        if state[key].shape != value.shape:
            raise ValueError(f"its weight {key} has the shape {tuple(state[key].shape)}, not {tuple(value.shape)}")
        # Weights trained with --trainer.precision 64-true are float64 and are converted to the model's float32.
        is_trained_in_double = state[key].dtype == torch.float64 and value.dtype == torch.float32
        if state[key].dtype != value.dtype and not is_trained_in_double:
            raise ValueError(f"its weight {key} has the type {state[key].dtype}, not {value.dtype}")
    damaged = [
        key
        for key, value in expected.items()
        if value.is_floating_point() and value.isfinite().all() and not state[key].isfinite().all()
    ]
    if damaged:
        raise ValueError(f"its weights are not finite (NaN or infinite) in {names(damaged)}")
