"""Grids of images as pure functions of tensors. Figures are created without pyplot, so there is no global state."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn.functional import interpolate

from figures.text import printable, width, wrapped

DPI = 100  # default resolution; all lengths in pixels below are at this resolution
CELL = 72  # approximate pixels of the longer side of an image in a grid
LARGEST = 128  # maximum pixels of the longer side; larger images are reduced
GAP, BREAK = 2, 14  # pixels between images, and at a break between groups of rows or columns
CHARACTER, LINE, MARGIN = 8, 18, 8  # pixels: maximum width of a character, height of a line of text, margin
SMALL_LINE = 12  # pixels between lines of small text
INDENT = 6  # pixels between a label and its row
MIN_OUTLINE = 1  # pixels: minimum width of the line of a box
DASHES = (0, (2, 2))  # of the line of a dashed box, in widths of the line
TITLE, LABEL, SMALL = 10, 9, 7.5  # font sizes in points
COLORS = {TITLE: "0", LABEL: "0.15", SMALL: "0.15"}
MAX_LABEL_LENGTH = 24  # characters of a row label
MIN_TITLE_WIDTH = 420  # pixels that a title may always take, however narrow the grid is
PER_ROW = 10  # images per row
MAX_CLASSES = 20  # maximum number of classes in figures with a column per class
PLANE_CELL = 26  # approximate pixels of the longer side of an image in the latent plane
PLANE_LARGEST = 40  # maximum pixels of the longer side of an image in the latent plane
SHADES = 16  # levels per channel in the latent plane, which reduces the file size to a third


class GridFigure(Figure):
    """A figure of images. `at_dpi(n)` lays it out again, so that image pixels are whole numbers of dots at n dpi."""

    at_dpi: Callable[[int], "GridFigure"]


class Box(NamedTuple):
    """A rectangle to draw on an image. Lengths are in pixels of the image; (0, 0) is its upper left corner.

    Args:
        left: Position of the left edge; outside of the image it is drawn at its border, as are the other edges.
        top: Position of the upper edge.
        right: Position of the right edge.
        bottom: Position of the lower edge.
        line: Width of the line.
        color: Colour of the line.
        is_dashed: Whether the line is dashed, so that a box below it with the same edges stays visible.
    """

    left: float
    top: float
    right: float
    bottom: float
    line: float
    color: str
    is_dashed: bool = False


def reduced(images: Tensor, largest: int) -> Tensor:
    """Return images `(..., C, H, W)` reduced to sides of at most `largest` pixels by area averaging."""
    height, width = images.shape[-2:]
    factor = math.ceil(max(height, width) / largest)
    if factor == 1:
        return images
    size = math.ceil(height / factor), math.ceil(width / factor)
    return interpolate(images.flatten(0, -4).float(), size, mode="area").unflatten(0, images.shape[:-3])


def pixels(image: Tensor, scale: int) -> np.ndarray:
    """Return an image `(C, H, W)` as RGB `(H * scale, W * scale, 3)`.

    One or two channels are shown in grey, by their mean; a fourth channel is ignored.
    """
    image = image.detach().float().cpu()
    rgb = image[:3] if len(image) >= 3 else image.mean(0, keepdim=True).expand(3, -1, -1)
    enlarged = rgb.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return enlarged.permute(1, 2, 0).nan_to_num(0).clamp(0, 1).numpy()


def cell_offsets(count: int, size: int, breaks: Collection[int] = (), gap: int = GAP, wide: int = BREAK) -> list[int]:
    """Return the offsets of `count` cells of `size` pixels, followed by the end of the last cell."""
    offsets = [i * (size + gap) + sum(0 < b <= i for b in breaks) * (wide - gap) for i in range(count)]
    return [*offsets, offsets[-1] + size]


def to_points(length: float, dpi: int) -> float:
    """Convert pixels at a resolution to points."""
    return 72 * length / dpi


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
    largest: int = LARGEST,
    boxes: Sequence[Sequence[Sequence[Box]]] = (),
    dpi: int = DPI,
) -> GridFigure:
    """Return a grid of images; image pixels are squares of whole screen pixels, colours run from 0 to 1.

    Args:
        images: Rows of images in [0, 1]: `(rows, columns, C, H, W)`, or a list of `(columns, C, H, W)`.
        row_labels: Text to the left of each row.
        column_labels: Text above each column, in up to three lines.
        title: Text above the grid, or a mapping from columns to the text above them.
        row_breaks: Rows with a wider gap above them.
        column_breaks: Columns with a wider gap to their left.
        captions: Rows of text below the images.
        gap: Pixels between images.
        cell: Approximate pixels of the longer side of an image.
        largest: Maximum pixels of the longer side; larger images are reduced.
        boxes: Rows of lists of rectangles, those of each image.
        dpi: Dots per inch. Lengths in pixels, such as `gap`, refer to 100 dpi.
    """
    layout_again = partial(
        image_grid,
        images,
        row_labels,
        column_labels,
        title,
        row_breaks,
        column_breaks,
        captions,
        gap,
        cell,
        largest,
        boxes,
    )
    image_height, image_width = images[0].shape[-2:]

    def px(length: float) -> int:
        return round(length * dpi / DPI)

    images = [reduced(row, max(1, px(largest))) for row in images]
    height, width_ = images[0].shape[-2:]
    scale = max(1, round(cell * dpi / DPI / max(height, width_)))
    height, width_ = height * scale, width_ * scale
    line, wide, gap = px(LINE), px(BREAK), px(gap) if gap != 1 else max(1, px(1))
    tops = cell_offsets(len(images), height + line * bool(captions), row_breaks, gap, wide)
    lefts = cell_offsets(max(len(row) for row in images), width_, column_breaks, gap, wide)
    canvas = np.ones((tops[-1], lefts[-1], 3), dtype=np.float32)
    for top, row in zip(tops, images, strict=False):
        for left, image in zip(lefts, row, strict=False):
            canvas[top : top + height, left : left + width_] = pixels(image, scale)

    row_labels = [
        text if len(text) <= MAX_LABEL_LENGTH else f"{text[: MAX_LABEL_LENGTH - 1]}…"
        for text in map(printable, row_labels)
    ]
    column_labels, size = fit_column_labels(column_labels, to_points(width_ + gap, dpi) - 2)
    column_lines = max((label.count("\n") + 1 for label in column_labels if label), default=0)
    titles = wrapped_titles({0: title} if isinstance(title, str) else title, lefts, dpi)
    title_lines = max((text.count("\n") + 1 for text in titles.values() if text), default=0)
    # labels of one line and of several lines have different line heights
    above_columns = line * column_lines if size == LABEL else px(SMALL_LINE * column_lines + 4)
    longest = max(map(len, row_labels), default=0)
    left_margin = px(MARGIN) + px(CHARACTER * longest + INDENT * bool(longest))
    title_ends = [
        lefts[column] + width(part, TITLE) * dpi / 72 for column, text in titles.items() for part in text.split("\n")
    ]
    axes = canvas_axes(
        canvas,
        left=left_margin,
        top=px(MARGIN) + above_columns + line * title_lines,
        margin=px(MARGIN),
        dpi=dpi,
        min_width=math.ceil(max(title_ends, default=0)),
    )
    figure: Any = axes.figure  # a GridFigure
    figure.at_dpi = layout_again

    def write(x: float, y: float, text: str, size: float, **style) -> None:
        axes.text(x, y, text, fontsize=size, color=COLORS.get(size, "0.15"), parse_math=False, **style)

    for top, label in zip(tops, row_labels, strict=False):
        write(-px(INDENT), top + height / 2, label, LABEL, ha="right", va="center")
    for left, label in zip(lefts, column_labels, strict=False):
        for above, part in enumerate(reversed(label.split("\n"))):  # all on the same baselines
            write(left + width_ / 2, -px(4 + SMALL_LINE * above), part, size, ha="center", va="baseline")
    for top, texts in zip(tops, captions, strict=False):
        for left, label in zip(lefts, texts, strict=False):
            write(left + width_ / 2, top + height + line / 2, label, SMALL, ha="center", va="center")
    for column, text in titles.items():
        write(lefts[column], -px(4) - above_columns, text, TITLE, va="bottom")
    for top, row_boxes in zip(tops, boxes, strict=False):
        for left, of_image in zip(lefts, row_boxes, strict=False):
            for box in of_image:
                draw_box(axes, box, (left, top), (width_ / image_width, height / image_height), (width_, height), dpi)
    return figure


def draw_box(
    axes: Axes, box: Box, corner: tuple[int, int], scale: tuple[float, float], size: tuple[int, int], dpi: int
) -> None:
    """Draw a rectangle on an image of a grid, with its whole line within the image; nothing if it is not finite.

    Args:
        axes: The axes of the grid, in pixels.
        box: The rectangle.
        corner: Position of the upper left corner of the image (x, y).
        scale: Pixels of the grid per pixel of the image along x and y.
        size: Width and height of the image in the grid.
        dpi: Dots per inch.
    """
    if not np.isfinite(box[:5]).all():
        return
    line = max(box.line * scale[0], MIN_OUTLINE * dpi / DPI)
    edges = []
    for low, high, start, factor, length in zip(box[:2], box[2:4], corner, scale, size, strict=True):
        ends = np.clip([low * factor, high * factor], line / 2, length - line / 2)
        edges.append((start + ends[0], ends[1] - ends[0]))
    (x, width_), (y, height) = edges
    style: dict[str, Any] = {"fill": False, "edgecolor": box.color, "linewidth": to_points(line, dpi)}
    if box.is_dashed:
        style["linestyle"] = DASHES
    # add_patch would compute limits of the axes for each box
    axes.add_artist(Rectangle((x, y), width_, height, joinstyle="miter", **style))


def fit_column_labels(labels: Sequence[str], room: float) -> tuple[list[str], float]:
    """Return column labels and their font size: one line if all labels fit, else up to three lines of small text.

    Args:
        labels: Text of the labels.
        room: Maximum width of a line in points.
    """
    labels = [printable(label) for label in labels]
    if all(width(label, LABEL) <= room for label in labels):
        return labels, LABEL
    return [wrapped(label, room, SMALL, lines=3) for label in labels], SMALL


def wrapped_titles(titles: Mapping[int, str], lefts: Sequence[int], dpi: int) -> dict[int, str]:
    """Return titles wrapped to two lines, so that none reaches the next; existing line breaks are kept.

    Args:
        titles: Text by column.
        lefts: Offsets of the columns, and the end of the last one, in pixels.
        dpi: Dots per inch.
    """
    columns, wrapped_text = sorted(titles), {}
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        if after is None:
            room = max(lefts[-1] - lefts[column], MIN_TITLE_WIDTH * dpi / DPI)
        else:
            room = lefts[after] - lefts[column]
        parts = [printable(part) for part in titles[column].split("\n")]
        wrapped_text[column] = "\n".join(wrapped(part, to_points(room, dpi), TITLE, lines=2) for part in parts)
    return wrapped_text


def canvas_axes(
    canvas: np.ndarray, left: int, top: int, margin: int = MARGIN, dpi: int = DPI, min_width: int = 0
) -> Axes:
    """Return axes in pixel coordinates that show `canvas (height, width, 3)` pixel by pixel.

    The figure is just large enough for the canvas and for text of `min_width` pixels.
    """
    height, width = canvas.shape[:2]
    full_width, full_height = left + max(width, min_width) + margin, top + height + margin
    # 0.01 pixels more, because matplotlib rounds inches times dpi down
    size = (full_width + 0.01) / dpi, (full_height + 0.01) / dpi
    figure = GridFigure(size, dpi=dpi, facecolor="white")
    axes = figure.add_axes((left / full_width, margin / full_height, width / full_width, height / full_height))
    # "none" stores the pixels in PDF and SVG files unchanged; for PNG it equals "nearest"
    axes.imshow(canvas, interpolation="none", extent=(0, width, height, 0))
    axes.set_axis_off()
    return axes


def reconstructions(x: Tensor, x_hat: Tensor, title: str = "") -> Figure:
    """Return images `(B, C, H, W)` above their reconstructions, ten pairs per row."""
    pairs = zip(x.split(PER_ROW), x_hat.split(PER_ROW), strict=True)
    rows = [row for pair in pairs for row in pair]
    labels = ["input", "reconstruction"] * (len(rows) // 2)
    return image_grid(rows, row_labels=labels, row_breaks=range(2, len(rows), 2), title=title)


def canonical(x: Tensor, x_hat: Tensor, without: Tensor, title: str = "") -> Figure:
    """Return images `(B, C, H, W)` above their reconstructions with and without the transform, ten per row."""
    triples = zip(x.split(PER_ROW), x_hat.split(PER_ROW), without.split(PER_ROW), strict=True)
    rows = [row for triple in triples for row in triple]
    labels = ["input", "reconstruction", "canonical"] * (len(rows) // 3)
    return image_grid(rows, row_labels=labels, row_breaks=range(3, len(rows), 3), title=title)


def samples(images: Tensor, title: str = "") -> Figure:
    """Return images `(n, C, H, W)` in an approximately square grid."""
    return image_grid(images.split(math.ceil(math.sqrt(len(images)))), title=title)


def captioned(images: Tensor, captions: Sequence[str], title: str = "") -> Figure:
    """Return images `(n, C, H, W)` in reading order, ten per row, with a caption below each."""
    rows = [captions[start : start + PER_ROW] for start in range(0, len(captions), PER_ROW)]
    return image_grid(images.split(PER_ROW), captions=rows, title=title)


def nearest_neighbours(x: Tensor, neighbours: Tensor, title: str = "") -> Figure:
    """Return samples `(n, C, H, W)` above their nearest training images `(n, k, C, H, W)`, nearest first."""
    labels = ["sample", *("nearest" if i == 1 else f"{i}. nearest" for i in range(1, neighbours.shape[1] + 1))]
    rows = torch.cat([x[None], neighbours.transpose(0, 1)])
    return image_grid(rows, row_labels=labels, row_breaks=(1,), title=title)


def interpolations(images: Tensor, x0: Tensor, x1: Tensor, title: str = "") -> Figure:
    """Return a row per pair: the image of `x0 (B, C, H, W)`, the steps `images (n, B, C, H, W)`, the image of `x1`."""
    n = len(images)
    rows = torch.cat([x0[None], images, x1[None]]).transpose(0, 1)  # (B, n + 2, C, H, W)
    labels = ["from", *(f"{i / max(1, n - 1):.2f}" for i in range(n)), "to"]
    return image_grid(rows, column_labels=labels, column_breaks=(1, n + 1), title=title)


def sample_interpolations(images: Tensor, title: str = "") -> Figure:
    """Return a row per pair of samples, with the steps `images (n, B, C, H, W)` between them, both included."""
    labels = [f"{i / max(1, len(images) - 1):.2f}" for i in range(len(images))]
    return image_grid(images.transpose(0, 1), column_labels=labels, title=title)


def default_names(count: int) -> list[str]:
    """Return the numbers of `count` classes as their names."""
    return [str(label) for label in range(count)]


def analogies(
    x: Tensor, images: Tensor, classes: Sequence[str] | None = None, title: str = "", row_labels: Sequence[str] = ()
) -> Figure:
    """Return a row per image: the original, and every class in its style.

    Args:
        x: Originals `(B, C, H, W)`.
        images: Every class in the style of each original, `(B, num_classes, C, H, W)`.
        classes: Names of the classes; by default 0, 1, ...
        title: Title of the figure.
        row_labels: Names of the classes of the originals, if known.
    """
    labels = ["original", *(classes or default_names(images.shape[1]))]
    rows = torch.cat([x[:, None], images], 1)
    return image_grid(rows, row_labels=row_labels, column_labels=labels, column_breaks=(1,), title=title)


def class_samples(images: Tensor, classes: Sequence[str] | None = None, title: str = "") -> Figure:
    """Return a row per sample of z and a column per class, from images `(n, num_classes, C, H, W)`."""
    return image_grid(images, column_labels=classes or default_names(images.shape[1]), title=title)


def plane(images: Tensor, z1: Tensor, z2: Tensor, title: str) -> Figure:
    """Return the decoded latent plane as a grid without gaps, with z1 to the right and z2 upwards.

    Small images are enlarged and separated by one pixel, because their content reaches the edges.

    Args:
        images: Decoded images `(n, m, C, H, W)`, from the lowest row up.
        z1: Values along the columns `(m,)`, of which every third is labelled.
        z2: Values along the rows `(n,)`, of which every third is labelled.
        title: Title of the figure.
    """
    right, up = ([f"{value:z.1f}" if i % 3 == 1 else "" for i, value in enumerate(z.tolist())] for z in (z1, z2))
    images = images.flip(0).mul(SHADES - 1).round().div(SHADES - 1)
    gap = int(max(images.shape[-2:]) < PLANE_CELL / 2)
    return image_grid(images, up[::-1], right, title, gap=gap, cell=PLANE_CELL, largest=PLANE_LARGEST)


def traversals(x: Tensor, images: Tensor, names: Sequence[str], values: Sequence[str], title: str) -> Figure:
    """Return the image `x (C, H, W)` and a row per latent dimension with a column per value.

    Args:
        x: The image whose code is changed.
        images: Decoded images `(dimensions, values, C, H, W)`.
        names: Names of the dimensions.
        values: Labels of the values.
        title: Title of the figure.
    """
    first = torch.ones_like(images[:, :1])  # white except for the image in the corner
    first[0, 0] = x
    rows = torch.cat([first, images], 1)
    return image_grid(rows, row_labels=names, column_labels=["input", *values], column_breaks=(1,), title=title)


def attributes(
    x: Tensor, images: Tensor, weights: Sequence[float], title: str, row_labels: Sequence[str] = ()
) -> Figure:
    """Return a row per image: the original, and the decoded images for each weight of the attribute vector.

    Args:
        x: Originals `(B, C, H, W)`.
        images: Decoded images `(len(weights), B, C, H, W)`.
        weights: Weights of the attribute vector.
        title: Title of the figure.
        row_labels: Names of the classes of the originals.
    """
    rows = torch.cat([x[None], images]).transpose(0, 1)  # (B, 1 + len(weights), C, H, W)
    labels = ["original", *(f"{weight:.2f}" for weight in weights)]
    return image_grid(rows, row_labels=row_labels, column_labels=labels, column_breaks=(1,), title=title)
