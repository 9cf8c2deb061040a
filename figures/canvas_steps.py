"""The canvas of a sequential model after its steps, with its attention windows, as pure functions of tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from figures.animation import Animation, durations
from figures.grids import CELL, PER_ROW, Box, GridFigure, image_grid

MAX_STEPS = 16  # columns; of more steps, evenly spaced ones are shown
SMALL_CELL = 56  # approximate pixels of the longer side of an image if there are more than ten columns
ROWS = 5  # images of each kind in the figure; the animation has all of them
WRITE, READ = "#e8432e", "#3f90da"  # red and blue
MAX_LINE = 0.07  # maximum width of a line relative to the side of the image


class Canvases(NamedTuple):
    """The canvas of n images after each of T steps.

    A window is (centre x, centre y, side length, standard deviation of the filters), in pixels; the centre of the upper
    left pixel is (0, 0).

    Args:
        name: What the images are, for the labels of the rows.
        canvas: Mean images in [0, 1], `(T, n, C, H, W)`.
        write: Window that each step writes to, `(T, n, 4)`; None without attention.
        read: Window that each step reads from, `(T, n, 4)`; None without attention, or if nothing is read.
        x: Images that are read and reconstructed, `(n, C, H, W)`; None if there are none.
    """

    name: str
    canvas: Tensor
    write: Tensor | None = None
    read: Tensor | None = None
    x: Tensor | None = None

    def boxes(self, step: int, image: int) -> list[Box]:
        """Return the windows of a step on the canvas of an image."""
        side = max(self.canvas.shape[-2:])
        boxes = [] if self.read is None else [window_box(self.read[step, image], side, READ)]
        if self.write is not None:
            # dashed, so that the window that is read stays visible where both have the same edges
            boxes.append(window_box(self.write[step, image], side, WRITE)._replace(is_dashed=self.read is not None))
        return boxes


def window_box(window: Tensor, side: int, color: str) -> Box:
    """Return the box of a window `(4,)`.

    Its line is half as wide as the standard deviation, so that the canvas stays visible; at most 0.07 of `side`.
    """
    x, y, length, deviation = window.float().tolist()
    low, high = 0.5 - length / 2, 0.5 + length / 2  # 0.5: from the corner of a pixel to its centre
    return Box(x + low, y + low, x + high, y + high, min(deviation / 2, MAX_LINE * side), color)


def legend(groups: Sequence[Canvases]) -> str:
    """Return what the boxes mean, for a title; empty without boxes."""
    colors = {"red: write window": "write", "blue: read window": "read"}
    found = [text for text, name in colors.items() if any(getattr(group, name) is not None for group in groups)]
    return ", ".join([*found, "width of lines: half the standard deviation of filters"]) if found else ""


def shown_steps(steps: int) -> list[int]:
    """Return the steps, from 0, that the figure shows: all, or evenly spaced ones with the first and the last."""
    return torch.linspace(0, steps - 1, min(steps, MAX_STEPS), dtype=torch.float64).round().int().tolist()


def canvas_steps(groups: Sequence[Canvases], title: str = "") -> GridFigure:
    """Return a row per image and a column per step; rows of reconstructions end with the image.

    Args:
        groups: Kinds of images, such as generated ones and reconstructions; the first five of each are shown.
        title: Title of the figure. The meaning of the boxes is added to it.
    """
    steps = shown_steps(len(groups[0].canvas))
    rows: list[Tensor] = []
    labels, boxes, breaks = [], [], []
    for group in groups:
        breaks.append(len(rows))
        for image in range(min(ROWS, group.canvas.shape[1])):
            canvas = group.canvas[steps, image]
            rows.append(canvas if group.x is None else torch.cat([canvas, group.x[None, image].to(canvas)]))
            labels.append("" if image else group.name)
            boxes.append([group.boxes(step, image) for step in steps])
    columns = [f"{step + 1}" for step in steps]
    has_input = any(group.x is not None for group in groups)
    return image_grid(
        rows,
        row_labels=labels,
        column_labels=[*columns, *(["input"] if has_input else [])],
        title="\n".join(filter(None, [title, legend(groups)])),
        row_breaks=breaks[1:],
        column_breaks=(len(steps),) if has_input else (),
        cell=CELL if len(columns) <= PER_ROW else SMALL_CELL,
        boxes=boxes,
    )


def canvas_frame(groups: Sequence[Canvases], step: int, title: str = "") -> GridFigure:
    """Return the canvases of all images after one step, counted from 0: a row per kind, and one of the inputs."""
    rows: list[Tensor] = []
    labels, boxes, breaks = [], [], []
    for group in groups:
        breaks.append(len(rows))
        rows.append(group.canvas[step])
        labels.append(group.name)
        boxes.append([group.boxes(step, image) for image in range(group.canvas.shape[1])])
        if group.x is not None:
            rows.append(group.x)
            labels.append("input")
            boxes.append([])
    text = "\n".join(filter(None, [title, f"Step {step + 1} of {len(groups[0].canvas)}", legend(groups)]))
    return image_grid(rows, row_labels=labels, title=text, row_breaks=breaks[1:], boxes=boxes)


def canvas_animation(groups: Sequence[Canvases], title: str = "") -> Animation:
    """Return an animation of the canvases with a frame per step; arguments as for `canvas_steps`."""
    return Animation(lambda step: canvas_frame(groups, step, title), durations(len(groups[0].canvas)))
