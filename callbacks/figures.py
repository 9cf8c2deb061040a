"""Grids of images as pure functions of tensors. No pyplot: a figure belongs to whoever asked for it and to no global
state."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

DPI = 100
CELL = 72  # the longer side of an image in a grid has about so many pixels
GAP, BREAK = 2, 14  # pixels between images, and where a row or column is set apart
CHARACTER, LINE, MARGIN = 8, 18, 8  # pixels: the widest that a letter of a label gets, a line of text, the border
SMALL = {"fontsize": 7.5}
PER_ROW = 10
TOUCHING = 26  # the longer side of an image in a large grid without gaps has about so many pixels
SHADES = 16  # of grey or of each colour in such a grid: its file is a third as large


def pixels(image: Tensor, scale: int) -> np.ndarray:
    """An image `(C, H, W)` as RGB `(H * scale, W * scale, 3)`: grey is repeated, a fourth channel left out."""
    image = image.detach().float().cpu()
    rgb = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    enlarged = rgb.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return enlarged.permute(1, 2, 0).clamp(0, 1).numpy()


def starts(count: int, size: int, breaks: Collection[int] = (), gap: int = GAP) -> list[int]:
    """Where each of `count` cells of `size` pixels begins, and at last where they all end."""
    begins = [i * (size + gap) + sum(0 < b <= i for b in breaks) * (BREAK - gap) for i in range(count)]
    return [*begins, begins[-1] + size]


def image_grid(
    images: Tensor | Sequence[Tensor],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str | Mapping[int, str] = "",
    row_breaks: Collection[int] = (),
    column_breaks: Collection[int] = (),
    captions: Sequence[Sequence[str]] = (),
    gap: int = GAP,
    cell: int = CELL,
) -> Figure:
    """Images in rows, each pixel a square of whole screen pixels; grey and colour run from 0 to 1 whatever the image.

    Args:
        images: Rows of images in [0, 1]: `(rows, columns, C, H, W)`, or a list of `(columns, C, H, W)`.
        row_labels: Text to the left of each row.
        column_labels: Text above each column.
        title: Text above the grid, or above the columns that are the keys.
        row_breaks: Rows with a wider gap above them.
        column_breaks: Columns with a wider gap to their left.
        captions: Rows of text, for below each image.
        gap: Pixels between images.
        cell: About how many pixels the longer side of an image gets.
    """
    height, width = images[0].shape[-2:]
    scale = max(1, round(cell / max(height, width)))
    height, width = height * scale, width * scale
    tops = starts(len(images), height + LINE * bool(captions), row_breaks, gap)
    lefts = starts(max(len(row) for row in images), width, column_breaks, gap)
    canvas = np.ones((tops[-1], lefts[-1], 3), dtype=np.float32)
    for top, row in zip(tops, images, strict=False):
        for left, image in zip(lefts, row, strict=False):
            canvas[top : top + height, left : left + width] = pixels(image, scale)

    left_margin = MARGIN + CHARACTER * max(map(len, row_labels), default=0)
    header = LINE * (bool(column_labels) + bool(title))
    axes = canvas_axes(canvas, left=left_margin, top=MARGIN + header)
    text = {"fontsize": 9, "color": "0.15"}
    for top, label in zip(tops, row_labels, strict=False):
        axes.text(-6, top + height / 2, label, ha="right", va="center", **text)
    for left, label in zip(lefts, column_labels, strict=False):
        axes.text(left + width / 2, -4, label, ha="center", va="baseline", **text)
    for top, row in zip(tops, captions, strict=False):
        for left, label in zip(lefts, row, strict=False):
            axes.text(left + width / 2, top + height + LINE / 2, label, ha="center", va="center", **text | SMALL)
    for column, words in ({0: title} if isinstance(title, str) else title).items():
        axes.text(lefts[column], -4 - LINE * bool(column_labels), words, va="baseline", **text)
    return axes.figure


def canvas_axes(canvas: np.ndarray, left: int, top: int) -> Axes:
    """Axes in pixel coordinates that show `canvas (height, width, 3)` pixel by pixel, in a figure just large enough."""
    height, width = canvas.shape[:2]
    full_width, full_height = left + width + MARGIN, top + height + MARGIN
    # a hundredth of a pixel more: the size in inches times dpi is rounded down
    figure = Figure(((full_width + 0.01) / DPI, (full_height + 0.01) / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((left / full_width, MARGIN / full_height, width / full_width, height / full_height))
    axes.imshow(canvas, interpolation="nearest", extent=(0, width, height, 0))
    axes.set_axis_off()
    return axes


def reconstructions(x: Tensor, x_hat: Tensor) -> Figure:
    """Images `(B, C, H, W)` above their reconstructions, ten pairs side by side."""
    pairs = zip(x.split(PER_ROW), x_hat.split(PER_ROW), strict=True)
    rows = [row for pair in pairs for row in pair]
    labels = ["input", "reconstruction"] * (len(rows) // 2)
    return image_grid(rows, row_labels=labels, row_breaks=range(2, len(rows), 2))


def canonical(x: Tensor, x_hat: Tensor, without: Tensor) -> Figure:
    """Images `(B, C, H, W)` above their reconstructions and those without the transform, ten side by side."""
    triples = zip(x.split(PER_ROW), x_hat.split(PER_ROW), without.split(PER_ROW), strict=True)
    rows = [row for triple in triples for row in triple]
    labels = ["input", "reconstruction", "canonical"] * (len(rows) // 3)
    return image_grid(rows, row_labels=labels, row_breaks=range(3, len(rows), 3))


def samples(images: Tensor) -> Figure:
    """Images `(n, C, H, W)` in a square, or nearly."""
    return image_grid(images.split(math.ceil(math.sqrt(len(images)))))


def interpolations(images: Tensor, x0: Tensor, x1: Tensor, title: str = "") -> Figure:
    """A row per pair: the image of `x0 (B, C, H, W)`, the steps `images (n, B, C, H, W)`, the image of `x1`."""
    n = len(images)
    rows = torch.cat([x0[None], images, x1[None]]).transpose(0, 1)  # (B, n + 2, C, H, W)
    labels = ["from", *(f"{i / max(1, n - 1):.2f}" for i in range(n)), "to"]
    return image_grid(rows, column_labels=labels, column_breaks=(1, n + 1), title=title)


def analogies(x: Tensor, images: Tensor) -> Figure:
    """A row per image: the original of `x (B, C, H, W)`, and every label in its style: `(B, num_classes, C, H, W)`."""
    labels = ["original", *map(str, range(images.shape[1]))]
    return image_grid(torch.cat([x[:, None], images], 1), column_labels=labels, column_breaks=(1,))


def class_samples(images: Tensor) -> Figure:
    """A row per draw of z, a column per label: `(n, num_classes, C, H, W)`."""
    return image_grid(images, column_labels=[str(label) for label in range(images.shape[1])])


def plane(images: Tensor, z1: Tensor, z2: Tensor, title: str) -> Figure:
    """Images that touch each other, z1 to the right and z2 upwards: `images (n, m, C, H, W)`, from the lowest row, have
    `z2 (n,)` and `z1 (m,)`, of which every third is written. What is drawn in small images reaches their edges: these
    are enlarged, and a hair's breadth apart."""
    right, up = ([f"{value:z.1f}" if i % 3 == 1 else "" for i, value in enumerate(z.tolist())] for z in (z1, z2))
    images = images.flip(0).mul(SHADES - 1).round().div(SHADES - 1)
    gap = int(max(images.shape[-2:]) < TOUCHING / 2)
    return image_grid(images, up[::-1], right, title, gap=gap, cell=TOUCHING)


def traversals(x: Tensor, images: Tensor, names: Sequence[str], values: Sequence[str], title: str) -> Figure:
    """The image `x (C, H, W)`, and a row for each latent dimension with a column for each of its values: `images
    (dimensions, values, C, H, W)`."""
    first = torch.ones_like(images[:, :1])  # white, but for the image in the corner
    first[0, 0] = x
    rows = torch.cat([first, images], 1)
    return image_grid(rows, row_labels=names, column_labels=["input", *values], column_breaks=(1,), title={1: title})


def attributes(x: Tensor, images: Tensor, weights: Sequence[float], title: str) -> Figure:
    """A row per image: the original of `x (B, C, H, W)`, and `images (len(weights), B, C, H, W)`."""
    rows = torch.cat([x[None], images]).transpose(0, 1)  # (B, 1 + len(weights), C, H, W)
    labels = ["original", *(f"{weight:.2f}" for weight in weights)]
    return image_grid(rows, column_labels=labels, column_breaks=(1,), title={1: title})
