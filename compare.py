"""Models of several checkpoints beside each other, for `evaluate.py --side_by_side`."""

from pathlib import Path

import torch

import models
from callbacks import side_by_side
from callbacks.record import DEFAULT_STYLE, FigureStyle, save_figure
from datamodules import ImageData
from tables import run_folder, run_name


def check_alike(opened: list[tuple[dict, ImageData]], folder: str) -> None:
    """ValueError where models cannot stand side by side: on other images, with codes that need a label, in a file."""
    if len(opened) < 2:
        raise ValueError("--side_by_side needs two checkpoints or more.")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ValueError(f"--side_by_side {folder} is a file: name a folder.")
    first = opened[0][1]
    for checkpoint, data in opened:
        if not torch.equal(data.test.x, first.test.x):
            raise ValueError(
                f"--side_by_side needs models of the same test images: {type(data).__name__} {data.variant}, protocol "
                f"{data.protocol}, are others than {type(first).__name__} {first.variant}, protocol {first.protocol}."
            )
        side_by_side.check(models.MODELS[checkpoint["model"]])


def compare(
    paths: list[str],
    opened: list[tuple[dict, ImageData]],
    folder: Path,
    device: str,
    style: FigureStyle = DEFAULT_STYLE,
) -> None:
    """Draws the models of several checkpoints beside each other, on the same test images, into `folder`."""
    short = [run_folder(Path(path)).name for path in paths]
    names = short if len(set(short)) == len(short) else [run_name({"checkpoint": path}) for path in paths]
    several = {
        f"{name} ({checkpoint['model']})": models.from_checkpoint(checkpoint).to(device)
        for name, (checkpoint, _) in zip(names, opened, strict=True)
    }
    for name, figure in side_by_side.draw(several, opened[0][1], device).items():
        save_figure(figure, folder / f"{name}.{style.format}", style.dpi)
    print(f"Figures side by side: {folder}")
