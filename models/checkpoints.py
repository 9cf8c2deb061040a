"""Checkpoints as dictionaries of numbers and text. Reading one runs no code from it."""

import zipfile
from pathlib import Path

import torch


def read(path: str | Path) -> dict:
    """The contents of a checkpoint file.

    Raises:
        ValueError: There is no such file, it is damaged, or it holds more than numbers and text.
    """
    path = Path(path)
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
    return checkpoint
