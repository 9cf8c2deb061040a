"""Charts with axes as pure functions of tensors, beside the grids of images in `figures`."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import max_pool2d

from figures.grids import DPI, TITLE
from figures.text import printable, width
from figures.text import shortened as shortened_text

ACTIVE, INACTIVE = "tab:blue", "silver"
BLUE, RED = (0.12, 0.47, 0.71), (0.84, 0.15, 0.16)
MAX_BARS = 100  # dimensions that are drawn as bars of their own
MAX_LAYERS = 6  # panels of a figure
MAX_NUMBERED_CLASSES = 30  # classes of a confusion matrix with numbers
MAX_CELLS = 250  # rows of a confusion matrix that a screen can show
MAX_NAMED_CLASSES = 20  # classes in a legend
MAX_RUNS = 60  # rows of a comparison
LEGEND_WIDTH, TICK_WIDTH = 110, 90  # points that the name of a class may take
# Colours that people with colour vision deficiencies can tell apart (Petroff 2021), without its two greys and its
# lightest one: those are the colours of what is not known; black and a dark green take their place
COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#92dadd", "#a96b59", "#e76300", "#b9ac70", "#222222", "#2a7f4f")
UNKNOWN = "#d5d5d5"
MARKERS = ("o", "^")  # of the first ten classes and of the second


def set_title(axes: Axes, text: str, subject: str = "") -> None:
    """Writes a title above the left end of axes, and below it what it is about."""
    axes.set_title("\n".join(filter(None, [text, printable(subject)])), fontsize=TITLE, loc="left", parse_math=False)


def kl_per_dimension(kl: Sequence[Tensor], active: Sequence[Tensor], subject: str = "") -> Figure:
    """The KL of each latent dimension, sorted, one panel per stochastic layer.

    Args:
        kl: KL of each dimension in nats, `(d,)` for each layer.
        active: Whether each dimension is an active unit, boolean `(d,)` for each layer.
        subject: The model and its data, for the title.
    """
    layers = min(len(kl), MAX_LAYERS)
    figure = Figure((7, 2.6 * layers), dpi=DPI, facecolor="white", layout="constrained")
    for layer, axes in enumerate(figure.subplots(layers, 1, squeeze=False, sharey=True)[:, 0]):
        finite = kl[layer].nan_to_num(0, 0, 0)
        order = finite.argsort(descending=True).cpu()
        values, on = finite.cpu()[order].numpy(), active[layer].cpu()[order].numpy()
        draw_bars(axes, values, on)
        counts = ((ACTIVE, f"{on.sum()} active"), (INACTIVE, f"{(~on).sum()} inactive"))
        axes.legend(
            handles=[Patch(color=color, label=label) for color, label in counts], frameon=False, loc="upper right"
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlim=(0.4, len(values) + 0.6), ylabel="KL (nats)", xlabel="latent dimension, sorted by KL")
        axes.spines[["top", "right"]].set_visible(False)
        name = f"Layer {layer + 1}{f' of {len(kl)}' if layers < len(kl) else ''}: " if len(kl) > 1 else ""
        missing = int((~kl[layer].isfinite()).sum())
        broken = f" ({missing} not finite, drawn as 0)" if missing else ""
        about = subject if layer == 0 else ""
        set_title(axes, f"{name}KL of each dimension, {values.sum():.1f} nats in all{broken}", about)
    highest = max(float(part.nan_to_num(0, 0, 0).max()) for part in kl[:layers])
    axes.set_ylim(min(0, *(float(part.nan_to_num(0, 0, 0).min()) for part in kl[:layers]), 0), 1.05 * highest or 1)
    return figure


def draw_bars(axes: Axes, values: np.ndarray, active: np.ndarray) -> None:
    """A bar for each value `(d,)`, those that are active in blue; of many, outlines of all bars of a colour."""
    place = np.arange(1, len(values) + 1)
    if len(values) <= MAX_BARS:
        axes.bar(place, values, color=np.where(active, ACTIVE, INACTIVE))
        return
    for chosen, color in ((active, ACTIVE), (~active, INACTIVE)):
        axes.stairs(np.where(chosen, values, 0), np.append(place - 0.5, len(values) + 0.5), fill=True, color=color)


def compact_count(count: int) -> str:
    """A count in at most five characters: 9999, 10k, 1.2M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= unit:
            value = count / (1e3 if letter == "k" else unit)
            return f"{value:.0f}{letter}" if value >= 10 else f"{value:.1f}{letter}"
    return str(count)


def confusion_matrix(counts: Tensor, of: str, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Counts `(num_classes, num_classes)`, rows true and columns predicted: blue what is right, red what is not.

    Up to 30 classes each cell has its number; more are a picture of a fixed size.

    Args:
        counts: How many images of the class of the row were taken for the class of the column.
        of: What was classified, such as "test", for the title.
        classes: Names of the classes; by default 0, 1, ...
        subject: The model and its data, for the title.
    """
    counts = counts.cpu()
    side, images, right = len(counts), int(counts.sum()), int(counts.trace())
    share = counts / counts.sum(1, keepdim=True).clip(min=1)
    block = -(-side // MAX_CELLS)  # classes per cell
    # a few mistakes among a hundred should show: their colour grows with the root
    right_shade, wrong_shade = cell_shades(share, block)
    canvas = np.minimum(
        1 - 0.8 * right_shade[..., None] * (1 - np.array(BLUE, dtype=np.float32)),
        1 - 0.8 * np.sqrt(wrong_shade)[..., None] * (1 - np.array(RED, dtype=np.float32)),
    )
    numbered = side <= MAX_NUMBERED_CLASSES
    inches = max(0.42 * side, 3.4) if numbered else 6.5  # the title is about so long
    names = [shortened_text(printable(name), TICK_WIDTH, 9) for name in classes] if numbered else []
    long = any(len(name) > 3 for name in names)
    figure = Figure(
        (inches + (1.9 if long else 0.8), inches + (1.9 if long else 1.1) + 0.2 * bool(subject)), dpi=DPI,
        facecolor="white", layout="constrained",
    )  # fmt: skip
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest", extent=(-0.5, side - 0.5, side - 0.5, -0.5))
    if numbered:
        shade = np.maximum(right_shade, np.sqrt(wrong_shade)) * 0.8
        for (row, column), count in np.ndenumerate(counts.numpy()):
            color = "white" if shade[row, column] > 0.55 else "0.15" if count else "0.75"
            axes.text(column, row, compact_count(count), ha="center", va="center", fontsize=9, color=color)
        labels = {"labels": names or [str(label) for label in range(side)], "parse_math": False}
        axes.set_xticks(range(side), **labels, rotation=90 if long else 0)
        axes.set_yticks(range(side), **labels)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0 if numbered else 3)
    axes.spines[:].set_visible(not numbered)
    axes.spines[:].set_color("0.7")
    error = f"{(images - right) / images:.2%}" if images else "unknown"
    set_title(axes, f"{error} error: {images - right:,} of {images:,} {of} images", subject)
    return figure


def cell_shades(share: Tensor, block: int) -> tuple[np.ndarray, np.ndarray]:
    """How much of a class is right and how much is taken for others, from 0 to 1, in cells of `block` classes: of each
    cell the largest value.

    Args:
        share: Parts of each class of the rows, `(num_classes, num_classes)`.
        block: Classes per cell, along both axes.
    """
    right = share.diag().diag()
    parts = (right, share - right)
    if block > 1:
        parts = (max_pool2d(part[None].float(), block, ceil_mode=True)[0] for part in parts)
    right, wrong = (part.float().numpy() for part in parts)
    return right, wrong


def error_curve(errors: dict[int, float], subject: str = "") -> Figure:
    """The error on validation images, a fraction, after each of the epochs that are the keys."""
    epochs, percent = list(errors), [100 * error for error in errors.values()]
    figure = Figure((7, 3.2), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, percent, color=ACTIVE, marker="." if len(epochs) < 50 else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    # the largest finite error: one that is not finite has no place in the figure
    highest = max(np.nan_to_num(percent).tolist())
    axes.set(xlabel="epoch", ylabel="error (%)", ylim=(0, 1.08 * highest or 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    set_title(axes, f"Error on validation images: {percent[-1]:.2f}% after epoch {epochs[-1]}", subject)
    return figure


class Panel(NamedTuple):
    """A scatter plot: its points `(N, 2)`, a title, and what its axes are."""

    points: Tensor
    title: str
    xlabel: str
    ylabel: str
    limits: tuple[float, float] | None = None  # of both axes
    ticks: bool = True  # whether numbers at the axes mean something


def label_styles(y: np.ndarray) -> dict[int, tuple[str, str]]:
    """The colour and marker of each class that has a place in the legend, by its label: of many classes, those of most
    images. Up to ten classes differ in their colours alone, and a class looks the same whatever others there are."""
    labels, counts = np.unique(y[y >= 0], return_counts=True)
    if len(labels) > MAX_NAMED_CLASSES:
        labels = np.sort(labels[np.argsort(-counts, kind="stable")[:MAX_NAMED_CLASSES]])
    places = labels if max(labels, default=0) < MAX_NAMED_CLASSES else range(len(labels))
    return {
        int(label): (COLORS[place % len(COLORS)], MARKERS[place // len(COLORS)])
        for label, place in zip(labels, places, strict=True)
    }


def scatter(panels: Sequence[Panel], y: Tensor, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Points side by side, coloured by their labels, with one legend; of one colour if no label is known.

    Args:
        panels: Of the same points; up to four in a row.
        y: Their labels `(N,)`, -1 for unknown.
        classes: Names of classes; by default 0, 1, ...
        subject: The model and its data, for the title.
    """
    y = y.cpu().numpy()
    styles = label_styles(y)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    entries = legend_entries(y, styles, classes)
    longest = max((width(name, 9) for _, name in entries), default=0)
    figure = Figure((5 * columns + 1 + longest / 72, 5.2 * rows), dpi=DPI, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)  # inches
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        draw_points(axes, panel.points.cpu().numpy(), y, styles)
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=panel.limits, ylim=panel.limits)
        axes.set_box_aspect(1)
        if not panel.ticks:
            axes.set(xticks=[], yticks=[])
        axes.spines[["top", "right"]].set_visible(panel.limits is not None)
        set_title(axes, shortened_text(printable(panel.title), 72 * 4.6, TITLE), subject)
    for axes in places[len(panels) :]:
        axes.remove()
    if entries:
        add_legend(figure, entries)
    return figure


def draw_points(axes: Axes, points: np.ndarray, y: np.ndarray, styles: dict[int, tuple[str, str]]) -> None:
    """Points `(N, 2)` in the styles of their labels `y (N,)`; those without a style are grey and lie below the others,
    or blue if none has one."""
    size = min(max(14000 / max(1, len(y)), 7), 30)  # of a point, as an area: many have to be small
    plain = UNKNOWN if styles else COLORS[0]
    styled = [*((marker, 2) for marker in MARKERS), (None, 1)]  # None: points without a style, below all others
    for marker, order in styled:
        chosen = np.array([styles.get(label, (plain, None))[1] == marker for label in y.tolist()], dtype=bool)
        if chosen.any():
            colors = [styles.get(label, (plain, None))[0] for label in y[chosen].tolist()]
            style = {"marker": marker or MARKERS[0], "zorder": order, "linewidths": 0}
            axes.scatter(*points[chosen].T, c=colors, s=size, **style)


def legend_entries(
    y: np.ndarray, styles: dict[int, tuple[str, str]], classes: Sequence[str]
) -> list[tuple[tuple[str, str], str]]:
    """The style and the name of each line of a legend: of classes, and of what grey points are; none without classes.

    Args:
        y: Labels `(N,)`, -1 for unknown.
        styles: Of the classes that are named.
        classes: Names of classes; by default 0, 1, ...
    """
    if not styles:
        return []
    entries = [(style, classes[label] if label < len(classes) else str(label)) for label, style in styles.items()]
    if more := len(np.unique(y[y >= 0])) - len(styles):
        entries.append(((UNKNOWN, MARKERS[0]), f"{more} other classes" if more > 1 else "1 other class"))
    if (y < 0).any():
        entries.append(((UNKNOWN, MARKERS[0]), "unknown"))
    return [(style, shortened_text(printable(name), LEGEND_WIDTH, 9)) for style, name in entries]


def add_legend(figure: Figure, entries: Sequence[tuple[tuple[str, str], str]]) -> None:
    """A legend to the right of all panels, from colours, markers and names."""
    dots = [Line2D([], [], marker=marker, linestyle="", color=color) for (color, marker), _ in entries]
    legend = figure.legend(dots, [""] * len(dots), loc="outside right center", frameon=False, fontsize=9)
    # written afterwards: a legend leaves out names that begin with _, and reads $ as the begin of a formula
    for text, (_, name) in zip(legend.texts, entries, strict=True):
        text.set(text=name, parse_math=False)


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
    if len(results) > MAX_RUNS:
        title = f"{title}: the first {MAX_RUNS} of {len(results)} runs"
        results = results[:MAX_RUNS]
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
    names = [f"{shorten_middle(result['label'])}  {number}" for result, number in zip(results, numbers, strict=True)]
    left.set_yticks(places, names, parse_math=False)
    left.set_ylim(-0.6, len(results) - 0.4)
    samples = ", ".join(map(str, sorted({result["num_samples"] for result in results})))
    left.set_xlabel(f"NLL (nats per image) ± standard error, K = {samples}")
    if len(left.containers) > 1:
        figure.legend(handles=left.containers, frameon=False, loc="outside lower left", ncols=3, fontsize=9)
    draw_rate_distortion(right, results, numbers)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def shorten_middle(name: str, most: int = 32) -> str:
    """A name of at most so many letters: of a longer one, its beginning and its end."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def draw_rate_distortion(axes: Axes, results: Sequence[dict], numbers: Sequence[str]) -> None:
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
    for group in group_close_points(within):
        words = ", ".join(there[i][2] for i in group)
        to_left = within[group, 0].min() > 0.6  # where there is room for many numbers
        place = (min if to_left else max)(points[group], key=lambda point: point[0])
        style = {"xytext": (-5, 4), "ha": "right"} if to_left else {"xytext": (5, 4)}
        axes.annotate(words, place, textcoords="offset points", fontsize=9, **style)
    draw_equal_elbo_lines(axes, low, high, within)
    axes.set_title("grey: equal ELBO", fontsize=9, loc="left", color="0.4")


def group_close_points(points: np.ndarray, near: tuple[float, float] = (0.05, 0.06)) -> list[list[int]]:
    """Which of the points `(N, 2)` are nearer to another of their group than `near`, across and upwards."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        touched = [group for group in groups if (abs(points[group] - point) < near).all(1).any()]
        groups = [group for group in groups if group not in touched]
        groups.append(sorted([i, *(j for group in touched for j in group)]))
    return sorted(groups)


def draw_equal_elbo_lines(axes: Axes, low: np.ndarray, high: np.ndarray, points: np.ndarray) -> None:
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
