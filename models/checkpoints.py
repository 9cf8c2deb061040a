"""Checkpoints as dictionaries of numbers and text. Reading one runs no code from it."""

import zipfile
from pathlib import Path

import torch

# What Lightning and train.py write, if at all
PARTS = {"state_dict": dict, "hyper_parameters": dict, "datamodule_hyper_parameters": dict, "run": dict, "made": dict,
         "training": dict, "epoch": int, "global_step": int, "optimizer_states": list, "lr_schedulers": list,
         "loops": dict, "callbacks": dict}  # fmt: skip


def read(path: str | Path) -> dict:
    """The contents of a checkpoint file.

    Raises:
        ValueError: There is no such file, it is damaged, or it holds more than numbers and text.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"There is no checkpoint {path}: give the path of a .ckpt file, such as RUN_FOLDER/checkpoints/best.ckpt."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not notice a flipped bit
                raise zipfile.BadZipFile
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; each means that the file is none of ours
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than numbers and text."
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{path} is no checkpoint of this project.")
    for key, kind in PARTS.items():
        if not isinstance(checkpoint.get(key, kind()), kind):
            raise ValueError(f"{path} is no checkpoint of this project: its {key} is no {kind.__name__}.")
    return checkpoint
