"""Charts with axes as pure functions of tensors, beside the grids of images in `figures`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
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


# Likelihoods of a run as they are drawn: what they are, colour, marker and its size
LIKELIHOODS = {
    "nll": ("importance-sampled", ACTIVE, "o", 5),
    "ais_nll": ("by AIS, a bound too", "tab:orange", "D", 5),
    "paper_nll": ("paper", "0.2", "|", 13),
}


def comparison(results: Sequence[dict], title: str) -> Figure:
    """Likelihoods of several runs, beside those of papers and of AIS; and what they pay and get: rate and distortion.

    Args:
        results: Each with a `label` and its `nll`; `nll_se`, `paper_nll`, `ais_nll`, `ais_nll_se`, `rate` and
            `distortion` may be None or missing. `num_samples` is K.
        title: Of the figure.
    """
    figure = Figure((11, 1.5 + 0.3 * max(len(results), 8)), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)  # inches
    left, right = figure.subplots(1, 2)
    places = np.arange(len(results))[::-1]
    for name, (label, color, marker, size) in LIKELIHOODS.items():
        there = [(result, place) for result, place in zip(results, places, strict=True) if result.get(name) is not None]
        if there:
            values, errors = zip(*((result[name], result.get(f"{name}_se") or 0) for result, _ in there), strict=True)
            style = {"fmt": marker, "color": color, "label": label, "markersize": size, "linewidth": 1}
            left.errorbar(values, [place for _, place in there], xerr=errors, **style)
    numbers = [f"{number}" for number in range(1, len(results) + 1)] if len(results) > 1 else [""]
    names = [f"{shortened(result['label'])}  {number}" for result, number in zip(results, numbers, strict=True)]
    left.set(yticks=places, yticklabels=names, ylim=(-0.6, len(results) - 0.4))
    samples = ", ".join(map(str, sorted({result["num_samples"] for result in results})))
    left.set_xlabel(f"NLL (nats per image) ± standard error, K = {samples}")
    if len(left.containers) > 1:
        figure.legend(handles=left.containers, frameon=False, loc="outside lower left", ncols=3, fontsize=9)
    rate_distortion(right, results, numbers)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def shortened(name: str, most: int = 32) -> str:
    """A name of at most so many letters: of a longer one, its beginning and its end."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def rate_distortion(axes: Axes, results: Sequence[dict], numbers: Sequence[str]) -> None:
    """Points of models in the plane of rate and distortion, over lines of equal ELBO (Alemi et al. 2018).

    Args:
        axes: To draw in.
        results: As for `comparison`; those without a rate are left out.
        numbers: What is written beside their points; those of points that lie on each other, once.
    """
    axes.set(xlabel="rate: KL(q(z|x) || p(z)), nats", ylabel="distortion: -E[log p(x|z)], nats")
    there = [(result["rate"], result["distortion"], number) for result, number in zip(results, numbers, strict=True)
             if result.get("rate") is not None]  # fmt: skip
    if not there:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no rate is known", ha="center", transform=axes.transAxes)
        return
    points = np.array([point[:2] for point in there])  # (N, 2)
    low, high = points.min(0), points.max(0)
    pad = np.maximum(0.12 * (high - low), 0.5)
    low, high = low - pad, high + pad
    low[0] = max(low[0], -0.02 * high[0])  # no rate is negative, and a point at 0 is to be seen whole
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.plot(*points.T, "o", color=ACTIVE, markersize=5)
    within = (points - low) / (high - low)
    for group in clusters(within):
        words = ", ".join(there[i][2] for i in group)
        to_left = within[group, 0].min() > 0.6  # where there is room for many numbers
        place = (min if to_left else max)(points[group], key=lambda point: point[0])
        style = {"xytext": (-5, 4), "ha": "right"} if to_left else {"xytext": (5, 4)}
        axes.annotate(words, place, textcoords="offset points", fontsize=9, **style)
    equal_elbo(axes, low, high, within)
    axes.set_title("grey: equal ELBO", fontsize=9, loc="left", color="0.4")


def clusters(points: np.ndarray, near: tuple[float, float] = (0.05, 0.06)) -> list[list[int]]:
    """Which of the points `(N, 2)` are nearer to another of their group than `near`, across and upwards."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        touched = [group for group in groups if (abs(points[group] - point) < near).all(1).any()]
        groups = [group for group in groups if group not in touched]
        groups.append(sorted([i, *(j for group in touched for j in group)]))
    return sorted(groups)


def equal_elbo(axes: Axes, low: np.ndarray, high: np.ndarray, points: np.ndarray) -> None:
    """Lines where rate and distortion have the same sum, each with its ELBO where it is farthest from all points.

    Args:
        axes: To draw in.
        low: Least rate and distortion.
        high: Largest ones.
        points: Where something lies already, in units of the axes: `(N, 2)`.
    """
    for total in MaxNLocator(9).tick_values(low.sum(), high.sum()):
        ends = np.array([max(low[0], total - high[1]), min(high[0], total - low[1])])  # of the rate
        if ends[0] > ends[1] or np.linalg.norm((ends[1] - ends[0]) / (high - low)) < 0.3:
            continue  # outside, or in a corner, too short for a number
        axes.plot(ends, total - ends, color="0.8", linewidth=0.8, zorder=0)
        rate = np.linspace(*ends, 21)[4:-4]
        along = (np.stack([rate, total - rate], 1) - low) / (high - low)
        free = np.linalg.norm(along[:, None] - points, axis=-1).min(1)
        at = rate[free.clip(max=0.15).argmax()]
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        style = {"fontsize": 7, "color": "0.5", "ha": "center", "va": "center", "bbox": box, "zorder": 0.5}
        axes.text(at, total - at, f"{-total:g}", rotation=-45, transform_rotates_text=True, **style)
