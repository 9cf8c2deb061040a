"""Chart of models in the rate-distortion plane, as curves over one of their options (Alemi et al. 2018)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.charts import COLORS, draw_equal_elbo_lines, group_close_points
from figures.grids import DPI, TITLE
from figures.text import printable, shortened

CURVE_MARKERS = ("o", "^", "s")  # of the first curves, as many as there are colours, and of the next ones
MAX_CURVES = len(COLORS) * len(CURVE_MARKERS)
LEGEND_ROOM = 250  # points: width of the longest name in the legend
SMALL = 8.5  # font size of the legend and of the points


class RatePoint(NamedTuple):
    """A model in the rate-distortion plane.

    Args:
        rate: KL(q(z|x) || p(z)) in nats per image.
        distortion: -E[log p(x|z)] in nats per image.
        label: Text beside the point; may be empty.
    """

    rate: float
    distortion: float
    label: str = ""


class RateCurve(NamedTuple):
    """Models that differ in one option.

    Args:
        name: Text in the legend.
        points: The models in the order of that option. They are connected.
    """

    name: str
    points: Sequence[RatePoint]


def rate_distortion(curves: Sequence[RateCurve], title: str, label_name: str = "") -> Figure:
    """Return a chart of distortion over rate, with lines of equal ELBO = -(rate + distortion).

    Args:
        curves: Curves with at least one point each.
        title: Title of the figure.
        label_name: What the labels of the points are; empty if they have none.
    """
    if len(curves) > MAX_CURVES:
        title = f"{title}: the first {MAX_CURVES} of {len(curves)} curves"
        curves = curves[:MAX_CURVES]
    figure = Figure((9, max(4.8, 1 + 0.19 * len(curves))), dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots()
    points = np.array([point[:2] for curve in curves for point in curve.points])  # (N, 2)
    low, high = limits(points)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set(xlabel="rate: KL(q(z|x) || p(z)), nats per image", ylabel="distortion: -E[log p(x|z)], nats per image")
    handles = [draw_curve(axes, curve, number) for number, curve in enumerate(curves)]
    within = (points - low) / (high - low)
    draw_labels(axes, points, within, [point.label for curve in curves for point in curve.points])
    draw_equal_elbo_lines(axes, low, high, within)
    axes.spines[["top", "right"]].set_visible(False)
    note = f"numbers at points: {label_name}; grey: equal ELBO" if label_name else "grey: equal ELBO"
    axes.set_title(printable(note), fontsize=SMALL, loc="left", color="0.4", parse_math=False)
    if len(curves) > 1:
        legend = figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=SMALL)
        # set afterwards, because a legend omits names that begin with _ and parses $ as a formula
        for text, curve in zip(legend.texts, curves, strict=True):
            text.set(text=shortened(printable(curve.name), LEGEND_ROOM, SMALL), parse_math=False)
    figure.suptitle(printable(title), fontsize=TITLE, x=0.01, ha="left", parse_math=False)
    return figure


def limits(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper limits `(2,)` of both axes for points `(N, 2)`, with room for labels."""
    low, high = points.min(0), points.max(0)
    pad = np.maximum(0.12 * (high - low), 0.5)
    low, high = low - pad, high + pad
    low[0] = max(low[0], -0.02 * high[0])  # rates are not negative; leave room for the whole marker of a point at 0
    return low, high


def draw_curve(axes: Axes, curve: RateCurve, number: int) -> Line2D:
    """Draw a curve, and return the handle of its legend entry.

    Args:
        axes: The axes to draw in.
        curve: The curve.
        number: Its number, which determines colour and marker.
    """
    color = COLORS[number % len(COLORS)]
    marker = CURVE_MARKERS[number // len(COLORS) % len(CURVE_MARKERS)]
    style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.2}
    axes.plot([point.rate for point in curve.points], [point.distortion for point in curve.points], **style)
    return Line2D([], [], label=" ", **style)


def draw_labels(axes: Axes, points: np.ndarray, within: np.ndarray, labels: Sequence[str]) -> None:
    """Write the labels of points beside them; those of points that are too close are joined, each once.

    Args:
        axes: The axes to draw in.
        points: Rates and distortions `(N, 2)`.
        within: The same as fractions of the axes.
        labels: The text of each point.
    """
    for group in group_close_points(within):
        place = max(points[group], key=lambda point: point[0])
        text = ", ".join(dict.fromkeys(labels[index] for index in group))
        style: dict[str, Any] = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": SMALL, "color": "0.2"}
        axes.annotate(printable(text), place, **style).set_parse_math(False)
