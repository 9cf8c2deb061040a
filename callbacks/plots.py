"""Charts with axes as pure functions of tensors, beside the grids of images in `figures`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from callbacks.figures import DPI

ACTIVE, INACTIVE = "tab:blue", "silver"
BLUE, RED = (0.12, 0.47, 0.71), (0.84, 0.15, 0.16)


def kl_per_dimension(kl: Sequence[Tensor], active: Sequence[Tensor]) -> Figure:
    """The KL of each latent dimension, sorted, one panel per stochastic layer.

    Args:
        kl: KL of each dimension in nats, `(d,)` for each layer.
        active: Whether each dimension is an active unit, boolean `(d,)` for each layer.
    """
    figure = Figure((7, 2.6 * len(kl)), dpi=DPI, facecolor="white", layout="constrained")
    for layer, axes in enumerate(figure.subplots(len(kl), 1, squeeze=False, sharey=True)[:, 0]):
        order = kl[layer].argsort(descending=True).cpu()
        values, on = kl[layer].cpu()[order].numpy(), active[layer].cpu()[order].numpy()
        place = np.arange(1, len(values) + 1)
        axes.bar(place, values, color=np.where(on, ACTIVE, INACTIVE))
        counts = ((ACTIVE, f"{on.sum()} active"), (INACTIVE, f"{(~on).sum()} inactive"))
        axes.legend(handles=[Patch(color=color, label=label) for color, label in counts], frameon=False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlim=(0.4, len(values) + 0.6), ylabel="KL (nats)", xlabel="latent dimension, sorted by KL")
        axes.spines[["top", "right"]].set_visible(False)
        name = f"Layer {layer + 1}: " if len(kl) > 1 else ""
        axes.set_title(f"{name}KL of each dimension, {values.sum():.1f} nats in all", fontsize=10, loc="left")
    return figure


def confusion_matrix(counts: Tensor, of: str) -> Figure:
    """Counts `(num_classes, num_classes)`, rows true and columns predicted: blue what is right, red what is not.

    Args:
        counts: How many images of the class of the row were taken for the class of the column.
        of: What was classified, such as "test", for the title.
    """
    counts = counts.cpu().numpy()
    side, images, right = len(counts), counts.sum(), counts.trace()
    share = counts / counts.sum(1, keepdims=True).clip(min=1)
    # a few mistakes among a hundred should show: their colour grows with the root
    shade = np.where(np.eye(side, dtype=bool), 0.8 * share, 0.8 * np.sqrt(share))[..., None]
    canvas = 1 - shade * np.where(np.eye(side, dtype=bool)[..., None], 1 - np.array(BLUE), 1 - np.array(RED))
    inches = max(0.42 * side, 3.4)  # the title is about so long
    figure = Figure((inches + 0.8, inches + 1.1), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest")
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shade[row, column, 0] > 0.55 else "0.15" if count else "0.75"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=color)
    axes.set(xticks=range(side), yticks=range(side), xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    error = f"{(images - right) / images:.2%}" if images else "unknown"
    axes.set_title(f"{error} error: {images - right:,} of {images:,} {of} images", fontsize=10, loc="left")
    return figure


def error_curve(errors: dict[int, float]) -> Figure:
    """The error on validation images, a fraction, after each of the epochs that are the keys."""
    epochs, percent = list(errors), [100 * error for error in errors.values()]
    figure = Figure((7, 3), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, percent, color=ACTIVE, marker="." if len(epochs) < 50 else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set(xlabel="epoch", ylabel="error (%)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_title(f"Error on validation images: {percent[-1]:.2f}% after epoch {epochs[-1]}", fontsize=10, loc="left")
    return figure


class Panel(NamedTuple):
    """A scatter plot: its points `(N, 2)`, a title, and what its axes are."""

    points: Tensor
    title: str
    xlabel: str
    ylabel: str
    limits: tuple[float, float] | None = None  # of both axes
    ticks: bool = True  # whether numbers at the axes mean something


def label_colors(num_classes: int) -> np.ndarray:
    """A colour for each class, and at last, where label -1 finds it, that of unknown labels: `(num_classes + 1, 4)`."""
    if num_classes == 0:
        return colormaps["tab10"]([0])
    few = next((name for name, most in (("tab10", 10), ("tab20", 20)) if num_classes <= most), None)
    known = colormaps[few](range(num_classes)) if few else colormaps["gist_rainbow"](np.linspace(0, 1, num_classes))
    return np.concatenate([known, [[0.8, 0.8, 0.8, 1]]])


def scatter(panels: Sequence[Panel], y: Tensor) -> Figure:
    """Points side by side, coloured by their labels `y (N,)`, with one legend; of one colour if no label is known."""
    y = y.cpu().numpy()
    colors = label_colors(max(y, default=-1) + 1)
    size = min(max(14000 / max(1, len(y)), 7), 30)  # of a point, as an area: many have to be small
    figure = Figure((5 * len(panels) + 0.9, 5.2), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.scatter(*panel.points.cpu().numpy().T, c=colors[y], s=size, linewidths=0)
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=panel.limits, ylim=panel.limits)
        axes.set_box_aspect(1)
        if not panel.ticks:
            axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(panel.limits is not None)
        axes.set_title(panel.title, fontsize=10, loc="left")
    if max(y, default=-1) >= 0:
        dots = [
            Line2D([], [], marker="o", linestyle="", color=colors[label], label=label if label >= 0 else "unknown")
            for label in sorted(set(y.tolist()), key=lambda label: (label < 0, label))
        ]
        figure.legend(handles=dots, loc="outside right center", frameon=False, ncols=-(-len(dots) // 20))
    return figure
