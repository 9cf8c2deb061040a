"""Charts with axes as pure functions of tensors; `figures.grids` has the grids of images."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor
from torch.nn.functional import max_pool2d

from figures.grids import DPI, TITLE
from figures.text import printable, width
from figures.text import shortened as shortened_text

ACTIVE, INACTIVE = "tab:blue", "silver"
BLUE, RED = (0.12, 0.47, 0.71), (0.84, 0.15, 0.16)
MAX_BARS = 100  # more dimensions are drawn as outlines instead of single bars
MAX_LAYERS = 6  # panels of the KL figure; of more layers, only sums are drawn
MAX_NUMBERED_CLASSES = 30  # more classes are drawn without a number in each cell
MAX_CELLS = 250  # rows of a confusion matrix; with more classes, a cell holds several
MAX_NAMED_CLASSES = 20  # classes in a legend
MAX_RUNS = 60  # rows of a comparison of runs
LEGEND_WIDTH, TICK_WIDTH = 110, 90  # maximum width of the name of a class, in points
# Colours that people with colour vision deficiencies can tell apart (Petroff 2021). Black and a dark green replace its
# two greys, because grey marks unknown labels.
COLORS = ("#3f90da", "#ffa90e", "#bd1f01", "#832db6", "#92dadd", "#a96b59", "#e76300", "#b9ac70", "#222222", "#2a7f4f")
UNKNOWN = "#d5d5d5"
CONTOUR_SHADES = 0.97, 0.84  # grey of the outermost and of the innermost contour of a density
MARKERS = ("o", "^")  # of the first ten classes and of the next ten


def set_title(axes: Axes, text: str, subject: str = "") -> None:
    """Write a left-aligned title above the axes, with the subject on a second line."""
    axes.set_title("\n".join(filter(None, [text, printable(subject)])), fontsize=TITLE, loc="left", parse_math=False)


def kl_per_dimension(kl: Sequence[Tensor], active: Sequence[Tensor], subject: str = "", part: str = "layer") -> Figure:
    """Return a bar chart of the KL per latent dimension, sorted, with one panel per stochastic layer.

    Of more than six layers, it shows the sum over the dimensions of each layer.

    Args:
        kl: KL per dimension in nats per image, `(d,)` for each layer.
        active: Whether each dimension is an active unit, boolean `(d,)` for each layer.
        subject: The model and its data, for the title.
        part: What a layer is called, such as "step".
    """
    if len(kl) > MAX_LAYERS:
        return kl_per_layer(kl, active, subject, part)
    figure = Figure((7, (2.6 if len(kl) < 4 else 2.1) * len(kl)), dpi=DPI, facecolor="white", layout="constrained")
    for layer, axes in enumerate(figure.subplots(len(kl), 1, squeeze=False, sharey=True)[:, 0]):
        finite = kl[layer].nan_to_num(0, 0, 0)
        order = finite.argsort(descending=True).cpu()
        values, is_active = finite.cpu()[order].numpy(), active[layer].cpu()[order].numpy()
        draw_bars(axes, values, is_active)
        add_counts(axes, is_active.sum(), (~is_active).sum())
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlim=(0.4, len(values) + 0.6), ylabel="KL (nats)", xlabel="latent dimension, sorted by KL")
        axes.spines[["top", "right"]].set_visible(False)
        name = f"{part.capitalize()} {layer + 1}: " if len(kl) > 1 else ""
        title = f"{name}KL of each dimension, {values.sum():.1f} nats in all{not_finite_note(kl[layer])}"
        set_title(axes, title, subject if layer == 0 else "")
    highest = max(float(part.nan_to_num(0, 0, 0).max()) for part in kl)
    axes.set_ylim(min(0, *(float(part.nan_to_num(0, 0, 0).min()) for part in kl), 0), 1.05 * highest or 1)
    return figure


def add_counts(axes: Axes, active: int, inactive: int) -> None:
    """Add a legend with the numbers of active and of inactive units, beside the axes."""
    counts = ((ACTIVE, f"{active} active"), (INACTIVE, f"{inactive} inactive"))
    patches = [Patch(color=color, label=label) for color, label in counts]
    # beside the axes: with few dimensions, bars reach the upper right corner
    axes.legend(handles=patches, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def not_finite_note(kl: Tensor) -> str:
    """Return a note for a title on values that are not finite; empty if all are."""
    num_invalid = int((~kl.isfinite()).sum())
    return f" ({num_invalid} not finite, drawn as 0)" if num_invalid else ""


def kl_per_layer(kl: Sequence[Tensor], active: Sequence[Tensor], subject: str, part: str) -> Figure:
    """Return a chart of the KL of each layer, above one of its active and inactive units.

    Args:
        kl: KL per dimension in nats per image, `(d,)` for each layer.
        active: Whether each dimension is an active unit, boolean `(d,)` for each layer.
        subject: The model and its data, for the title.
        part: What a layer is called.
    """
    figure = Figure((7, 5.2), dpi=DPI, facecolor="white", layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    number = np.arange(1, len(kl) + 1)
    total = np.array([float(values.nan_to_num(0, 0, 0).sum()) for values in kl])
    units, num_active = (np.array([int(values) for values in column]) for column in (map(len, kl), map(sum, active)))
    above.bar(number, total, color=np.where(num_active > 0, ACTIVE, INACTIVE))
    note = not_finite_note(torch.cat(list(kl)))
    set_title(above, f"KL of each {part}, {total.sum():.1f} nats in all{note}", subject)
    above.set(ylabel="KL (nats)")
    below.bar(number, num_active, color=ACTIVE)
    below.bar(number, units - num_active, bottom=num_active, color=INACTIVE)
    set_title(below, f"Active units of each {part}, {num_active.sum()} of {units.sum()}")
    below.set(ylabel="units", xlabel=part, xlim=(0.4, len(kl) + 0.6))
    add_counts(below, num_active.sum(), (units - num_active).sum())
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    below.xaxis.set_major_locator(MaxNLocator(16, integer=True, min_n_ticks=1))
    below.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    return figure


def draw_bars(axes: Axes, values: np.ndarray, active: np.ndarray) -> None:
    """Draw a bar for each value `(d,)`, blue if active; for many values one outline per colour instead."""
    position = np.arange(1, len(values) + 1)
    if len(values) <= MAX_BARS:
        axes.bar(position, values, color=np.where(active, ACTIVE, INACTIVE))
        return
    edges = np.append(position - 0.5, len(values) + 0.5)
    for selected, color in ((active, ACTIVE), (~active, INACTIVE)):
        axes.stairs(np.where(selected, values, 0), edges, fill=True, color=color)


def compact_count(count: int) -> str:
    """Return a count in at most five characters: 9999, 10k, 1.2M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= unit:
            value = count / (1e3 if letter == "k" else unit)
            return f"{value:.0f}{letter}" if value >= 10 else f"{value:.1f}{letter}"
    return str(count)


def confusion_matrix(counts: Tensor, of: str, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Return a confusion matrix with true classes as rows, predicted ones as columns; correct in blue, errors in red.

    With up to 30 classes each cell shows its count; with more the figure has a fixed size and no counts.

    Args:
        counts: Images by true (row) and predicted (column) class, `(num_classes, num_classes)`.
        of: The part of the data, such as "test", for the title.
        classes: Names of the classes; by default 0, 1, ...
        subject: The model and its data, for the title.
    """
    counts = counts.cpu()
    side, images, correct = len(counts), int(counts.sum()), int(counts.trace())
    share = counts / counts.sum(1, keepdim=True).clip(min=1)
    block = -(-side // MAX_CELLS)  # classes per cell
    correct_shade, error_shade = cell_shades(share, block)
    # the square root makes a few errors among a hundred images visible
    canvas = np.minimum(
        1 - 0.8 * correct_shade[..., None] * (1 - np.array(BLUE, dtype=np.float32)),
        1 - 0.8 * np.sqrt(error_shade)[..., None] * (1 - np.array(RED, dtype=np.float32)),
    )
    numbered = side <= MAX_NUMBERED_CLASSES
    inches = max(0.42 * side, 3.4) if numbered else 6.5  # 3.4 inches is about the width of the title
    names = [shortened_text(printable(name), TICK_WIDTH, 9) for name in classes] if numbered else []
    has_long_names = any(len(name) > 3 for name in names)
    width_inches = inches + (1.9 if has_long_names else 0.8)
    height_inches = inches + (1.9 if has_long_names else 1.1) + 0.2 * bool(subject)
    figure = Figure((width_inches, height_inches), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="nearest", extent=(-0.5, side - 0.5, side - 0.5, -0.5))
    if numbered:
        shade = np.maximum(correct_shade, np.sqrt(error_shade)) * 0.8
        for (row, column), count in np.ndenumerate(counts.numpy()):
            color = "white" if shade[row, column] > 0.55 else "0.15" if count else "0.75"
            axes.text(column, row, compact_count(count), ha="center", va="center", fontsize=9, color=color)
        labels: dict[str, Any] = {"labels": names or [str(label) for label in range(side)], "parse_math": False}
        axes.set_xticks(range(side), **labels, rotation=90 if has_long_names else 0)
        axes.set_yticks(range(side), **labels)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0 if numbered else 3)
    axes.spines[:].set_visible(not numbered)
    axes.spines[:].set_color("0.7")
    error = f"{(images - correct) / images:.2%}" if images else "unknown"
    set_title(axes, f"{error} error: {images - correct:,} of {images:,} {of} images", subject)
    return figure


def cell_shades(share: Tensor, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of correct and of wrong predictions per cell, from 0 to 1.

    A cell of several classes has the largest share of its entries.

    Args:
        share: Confusion matrix with rows normalised to 1, `(num_classes, num_classes)`.
        block: Classes per cell along both axes.
    """
    of_correct = share.diag().diag()
    parts: Iterable[Tensor] = (of_correct, share - of_correct)
    if block > 1:
        parts = (max_pool2d(part[None].float(), block, ceil_mode=True)[0] for part in parts)
    correct, wrong = (part.float().numpy() for part in parts)
    return correct, wrong


def error_curve(errors: dict[int, float], subject: str = "") -> Figure:
    """Return a chart of the validation error by epoch; `errors` maps epochs to fractions."""
    epochs, percent = list(errors), [100 * error for error in errors.values()]
    figure = Figure((7, 3.2), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.plot(epochs, percent, color=ACTIVE, marker="." if len(epochs) < 50 else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    # errors that are not finite do not count for the limit
    highest = max(np.nan_to_num(percent).tolist())
    axes.set(xlabel="epoch", ylabel="error (%)", ylim=(0, 1.08 * highest or 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    set_title(axes, f"Error on validation images: {percent[-1]:.2f}% after epoch {epochs[-1]}", subject)
    return figure


class Contours(NamedTuple):
    """Contour lines of a density behind a scatter plot.

    Args:
        x: Values along the columns `(m,)`.
        y: Values along the rows `(n,)`.
        density: Density, or its logarithm, `(n, m)`.
        levels: Its values at the lines.
    """

    x: Tensor
    y: Tensor
    density: Tensor
    levels: Tensor


class Panel(NamedTuple):
    """A scatter plot: its points `(N, 2)`, title and axis labels."""

    points: Tensor
    title: str
    xlabel: str
    ylabel: str
    limits: tuple[float, float] | None = None  # of both axes
    ticks: bool = True  # False if coordinates have no meaning, as in t-SNE
    contours: Contours | None = None


def label_styles(y: np.ndarray) -> dict[int, tuple[str, str]]:
    """Return the colour and marker of each label in the legend.

    Of many classes, the legend has those with the most images. Up to ten classes differ only in colour. The style of a
    class does not depend on the other classes.
    """
    labels, counts = np.unique(y[y >= 0], return_counts=True)
    if len(labels) > MAX_NAMED_CLASSES:
        labels = np.sort(labels[np.argsort(-counts, kind="stable")[:MAX_NAMED_CLASSES]])
    places = labels if max(labels, default=0) < MAX_NAMED_CLASSES else range(len(labels))
    return {
        int(label): (COLORS[place % len(COLORS)], MARKERS[place // len(COLORS)])
        for label, place in zip(labels, places, strict=True)
    }


def scatter(panels: Sequence[Panel], y: Tensor, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Return scatter plots side by side, coloured by label, with one legend; in one colour if no label is known.

    Args:
        panels: Scatter plots of the same images; up to four per row.
        y: Labels `(N,)`, -1 for unknown.
        classes: Names of the classes; by default 0, 1, ...
        subject: The model and its data, for the title.
    """
    labels = y.cpu().numpy()
    styles = label_styles(labels)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    entries = legend_entries(labels, styles, classes)
    longest = max((width(name, 9) for _, name in entries), default=0)
    figure = Figure((5 * columns + 1 + longest / 72, 5.2 * rows), dpi=DPI, facecolor="white", layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.08, h_pad=0.08)  # inches
    places = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(places, panels, strict=False):
        if panel.contours is not None:
            draw_contours(axes, panel.contours)
        draw_points(axes, panel.points.cpu().numpy(), labels, styles)
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


def draw_contours(axes: Axes, contours: Contours) -> None:
    """Draw contour lines over light fills, below the points."""
    x, y, density = (part.detach().cpu().double().numpy() for part in contours[:3])
    levels = np.unique(contours.levels.cpu().double().numpy())
    density = np.nan_to_num(density, nan=density[np.isfinite(density)].min(initial=0))
    if density.max() > levels[0]:
        shades = np.linspace(*CONTOUR_SHADES, len(levels))
        ends = [*levels, max(density.max(), levels[-1]) + 1]
        axes.contourf(x, y, density, ends, colors=[(shade,) * 3 for shade in shades], zorder=0)
        axes.contour(x, y, density, levels, colors="0.6", linewidths=0.6, linestyles="solid", zorder=0.5)


def draw_points(axes: Axes, points: np.ndarray, y: np.ndarray, styles: dict[int, tuple[str, str]]) -> None:
    """Draw points `(N, 2)` in the styles of their labels `y (N,)`.

    Points without a style are grey and below the others; if no label has a style, all points are blue.
    """
    size = min(max(14000 / max(1, len(y)), 7), 30)  # area of a point: the more points, the smaller
    plain = UNKNOWN if styles else COLORS[0]
    styled = [*((marker, 2) for marker in MARKERS), (None, 1)]  # None: points without a style, below all others
    for marker, order in styled:
        selected = np.array([styles.get(label, (plain, None))[1] == marker for label in y.tolist()], dtype=bool)
        if selected.any():
            colors = [styles.get(label, (plain, None))[0] for label in y[selected].tolist()]
            style: dict[str, Any] = {"marker": marker or MARKERS[0], "zorder": order, "linewidths": 0}
            axes.scatter(*points[selected].T, c=colors, s=size, **style)  # type: ignore[misc]  # x and y


def legend_entries(
    y: np.ndarray, styles: dict[int, tuple[str, str]], classes: Sequence[str]
) -> list[tuple[tuple[str, str], str]]:
    """Return the style and text of each legend entry: classes, other classes, unknown. Empty without classes.

    Args:
        y: Labels `(N,)`, -1 for unknown.
        styles: Styles of the named classes, by label.
        classes: Names of the classes; by default 0, 1, ...
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
    """Add a legend with these styles and names to the right of all panels."""
    dots = [Line2D([], [], marker=marker, linestyle="", color=color) for (color, marker), _ in entries]
    legend = figure.legend(dots, [""] * len(dots), loc="outside right center", frameon=False, fontsize=9)
    # set afterwards, because a legend omits names that begin with _ and parses $ as a formula
    for text, (_, name) in zip(legend.texts, entries, strict=True):
        text.set(text=name, parse_math=False)


class LabelPoint(NamedTuple):
    """The test error of a model with a number of labels.

    Args:
        num_labels: Labels given in training.
        error: Test error, a fraction; the mean if there are several draws of labels.
        se: Its standard error over draws of labels; None for a single draw, or if it is not known.
    """

    num_labels: int
    error: float
    se: float | None = None


class LabelCurve(NamedTuple):
    """The test error of a model over the number of labels.

    Args:
        name: Text in the legend.
        model: Name of the model. A published curve has the colour of our first one of the same model.
        points: Points in any order. They are connected unless several have the same number of labels.
        is_published: Whether the errors are those of a paper.
    """

    name: str
    model: str
    points: Sequence[LabelPoint]
    is_published: bool = False


PUBLISHED_MARKERS = ("s", "D", "v", "P", "X", "<", ">", "p", "h", "*")
OTHER_METHODS = "0.6"  # colour of published curves of models that have no run


def error_over_labels(curves: Sequence[LabelCurve], title: str) -> Figure:
    """Return a chart of test errors over the number of labels, both axes logarithmic.

    Curves of runs are solid lines with filled circles, published ones dashed lines with open markers.

    Args:
        curves: Curves with at least one point each.
        title: Title of the figure.
    """
    figure = Figure((9, 4.8), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    colors: dict[str, str] = {}
    lines = []
    own, published = ([curve for curve in curves if curve.is_published is kind] for kind in (False, True))
    for number, curve in enumerate(own):
        color = COLORS[number % len(COLORS)]
        colors.setdefault(curve.model, color)
        lines.append(draw_label_curve(axes, curve, color, {"marker": "o", "linestyle": "-", "zorder": 3}))
    for number, curve in enumerate(published):
        marker = PUBLISHED_MARKERS[number % len(PUBLISHED_MARKERS)]
        style = {"marker": marker, "linestyle": "--", "markerfacecolor": "white", "zorder": 2}
        lines.append(draw_label_curve(axes, curve, colors.get(curve.model, OTHER_METHODS), style))
    set_label_axes(axes, [point for curve in curves for point in curve.points])
    legend = figure.legend(handles=lines, loc="outside right center", frameon=False, fontsize=9)
    for text, curve in zip(legend.texts, [*own, *published], strict=True):
        text.set(text=printable(curve.name), parse_math=False)
    figure.suptitle(printable(title), fontsize=TITLE, x=0.01, ha="left", parse_math=False)
    return figure


def draw_label_curve(axes: Axes, curve: LabelCurve, color: str, style: dict[str, Any]) -> Line2D:
    """Draw a curve in percent with its error bars, and return the handle of its legend entry.

    Args:
        axes: The axes to draw in.
        curve: The curve.
        color: Colour of line, markers and error bars.
        style: Further arguments of the line.
    """
    points = sorted(curve.points, key=lambda point: (point.num_labels, point.error))
    counts = [point.num_labels for point in points]
    if len(set(counts)) < len(counts):
        style = style | {"linestyle": ""}
    style = style | {"color": color, "linewidth": 1.2, "markersize": 5}
    errors, ses = [100 * point.error for point in points], [100 * (point.se or 0) for point in points]
    axes.errorbar(counts, errors, yerr=ses, capsize=2, elinewidth=1, **style)
    return Line2D([], [], label=" ", **style)


def set_label_axes(axes: Axes, points: Sequence[LabelPoint]) -> None:
    """Set scales, limits and ticks of a chart of errors over the number of labels."""
    counts = sorted({point.num_labels for point in points})
    errors = [100 * point.error for point in points]
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
    axes.xaxis.set_minor_locator(NullLocator())
    if min(errors) > 0:
        axes.set_yscale("log")
        axes.set_ylim(min(errors) / 1.3, max(errors) * 1.3)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set(xlabel="labels in training", ylabel="test error (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


# Likelihood columns of a comparison: legend text, colour, marker and marker size
LIKELIHOODS = {
    "nll": ("importance-sampled", ACTIVE, "o", 5),
    "ais_nll": ("by AIS, a bound too", "tab:orange", "D", 5),
    "paper_nll": ("paper", "0.2", "|", 13),
}


def comparison(results: Sequence[dict], title: str) -> Figure:
    """Return a comparison of runs. Left: NLL, with those of papers and AIS. Right: rate-distortion plane.

    Args:
        results: Results with `label`; `nll`, `num_samples` (K), `nll_se`, `paper_nll`, `ais_nll`, `ais_nll_se`, `rate`
            and `distortion` may be None or missing.
        title: Title of the figure.
    """
    if len(results) > MAX_RUNS:
        title = f"{title}: the first {MAX_RUNS} of {len(results)} runs"
        results = results[:MAX_RUNS]
    figure = Figure((11, 1.5 + 0.3 * max(len(results), 8)), dpi=DPI, facecolor="white", layout="constrained")
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.1, h_pad=0.06)  # inches
    left, right = figure.subplots(1, 2)
    rows = np.arange(len(results))[::-1]
    for name, (label, color, marker, size) in LIKELIHOODS.items():
        known = [(result, row) for result, row in zip(results, rows, strict=True) if result.get(name) is not None]
        if known:
            values, errors = zip(*((result[name], result.get(f"{name}_se") or 0) for result, _ in known), strict=True)
            style: dict[str, Any] = {"fmt": marker, "color": color, "label": label, "markersize": size, "linewidth": 1}
            left.errorbar(values, [row for _, row in known], xerr=errors, **style)
    numbers = [f"{number}" for number in range(1, len(results) + 1)] if len(results) > 1 else [""]
    names = [f"{shorten_middle(result['label'])}  {number}" for result, number in zip(results, numbers, strict=True)]
    left.set_yticks(rows, names, parse_math=False)
    left.set_ylim(-0.6, len(results) - 0.4)
    samples = ", ".join(map(str, sorted({result["num_samples"] for result in results if result.get("num_samples")})))
    left.set_xlabel("NLL (nats per image) ± standard error" + (f", K = {samples}" if samples else ""))
    if len(left.containers) > 1:
        figure.legend(handles=left.containers, frameon=False, loc="outside lower left", ncols=3, fontsize=9)
    draw_rate_distortion(right, results, numbers)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def shorten_middle(name: str, length: int = 32) -> str:
    """Return a name of at most `length` characters; the middle of a longer one is replaced by an ellipsis."""
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-length // 2 :]}"


def draw_rate_distortion(axes: Axes, results: Sequence[dict], numbers: Sequence[str]) -> None:
    """Draw models in the rate-distortion plane, over lines of equal ELBO (Alemi et al. 2018).

    Args:
        axes: The axes to draw in.
        results: As for `comparison`; those without a rate are left out.
        numbers: Annotations of the points; those of overlapping points are joined.
    """
    axes.set(xlabel="rate: KL(q(z|x) || p(z)), nats", ylabel="distortion: -E[log p(x|z)], nats")
    known = [
        (result["rate"], result["distortion"], number)
        for result, number in zip(results, numbers, strict=True)
        if result.get("rate") is not None
    ]
    if not known:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no rate is known", ha="center", transform=axes.transAxes)
        return
    points = np.array([point[:2] for point in known])  # (N, 2)
    low, high = points.min(0), points.max(0)
    pad = np.maximum(0.12 * (high - low), 0.5)
    low, high = low - pad, high + pad
    low[0] = max(low[0], -0.02 * high[0])  # rates are not negative; leave room for the whole marker of a point at 0
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.plot(*points.T, "o", color=ACTIVE, markersize=5)
    within = (points - low) / (high - low)
    for group in group_close_points(within):
        text = ", ".join(known[i][2] for i in group)
        to_left = within[group, 0].min() > 0.6  # at the right border, many numbers fit only to the left
        position = (min if to_left else max)(points[group], key=lambda point: point[0])
        style: dict[str, Any] = {"xytext": (-5, 4), "ha": "right"} if to_left else {"xytext": (5, 4)}
        axes.annotate(text, position, textcoords="offset points", fontsize=9, **style)
    draw_equal_elbo_lines(axes, low, high, within)
    axes.set_title("grey: equal ELBO", fontsize=9, loc="left", color="0.4")


def group_close_points(points: np.ndarray, near: tuple[float, float] = (0.05, 0.06)) -> list[list[int]]:
    """Return groups of indices of the points `(N, 2)` that are closer than `near` (x, y) to another of their group."""
    groups: list[list[int]] = []
    for i, point in enumerate(points):
        touched = [group for group in groups if (abs(points[group] - point) < near).all(1).any()]
        groups = [group for group in groups if group not in touched]
        groups.append(sorted([i, *(j for group in touched for j in group)]))
    return sorted(groups)


def draw_equal_elbo_lines(axes: Axes, low: np.ndarray, high: np.ndarray, points: np.ndarray) -> None:
    """Draw lines of equal rate + distortion = -ELBO, each labelled with its ELBO where it is farthest from all points.

    Args:
        axes: The axes to draw in.
        low: Lower limits of rate and distortion.
        high: Upper limits of rate and distortion.
        points: Positions to keep free, `(N, 2)`, as fractions of the axes.
    """
    for total in MaxNLocator(9).tick_values(low.sum(), high.sum()):
        ends = np.array([max(low[0], total - high[1]), min(high[0], total - low[1])])  # of the rate
        if ends[0] > ends[1] or np.linalg.norm((ends[1] - ends[0]) / (high - low)) < 0.3:
            continue  # outside the axes, or too short for a label
        axes.plot(ends, total - ends, color="0.8", linewidth=0.8, zorder=0)
        rate = np.linspace(ends[0], ends[1], 21)[4:-4]
        along = (np.stack([rate, total - rate], 1) - low) / (high - low)
        free = np.linalg.norm(along[:, None] - points, axis=-1).min(1)
        at = rate[free.clip(max=0.15).argmax()]
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        style: dict[str, Any] = {
            "fontsize": 7,
            "color": "0.5",
            "ha": "center",
            "va": "center",
            "bbox": box,
            "zorder": 0.5,
        }
        axes.text(at, total - at, f"{-total:g}", rotation=-45, transform_rotates_text=True, **style)
