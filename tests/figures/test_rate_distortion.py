"""The chart of the rate-distortion plane: every point, its label and its place in the legend."""

import numpy as np
import pytest

from figures.charts import COLORS
from figures.rate_distortion import MAX_CURVES, RateCurve, RatePoint, rate_distortion
from runtime.figure_files import render

CURVES = [
    RateCurve("z_dim 2", [RatePoint(3.5, 22.9, "0.5"), RatePoint(2.3, 23.4, "1")]),
    RateCurve("_z_dim $5", [RatePoint(7.5, 18.7, "0.5")]),
]


def drawn_curves(figure):
    return [line for line in figure.axes[0].lines if line.get_color() in COLORS]


def test_points_are_drawn_at_their_rate_and_distortion_with_their_labels():
    figure = rate_distortion(CURVES, "title", "beta")
    lines = drawn_curves(figure)
    assert [line.get_xydata().tolist() for line in lines] == [[[3.5, 22.9], [2.3, 23.4]], [[7.5, 18.7]]]
    assert len({line.get_color() for line in lines}) == 2
    labels = {tuple(text.xy): text.get_text() for text in figure.axes[0].texts if hasattr(text, "xy")}
    assert labels == {(3.5, 22.9): "0.5", (2.3, 23.4): "1", (7.5, 18.7): "0.5"}
    assert [text.get_text() for text in figure.legends[0].texts] == ["z_dim 2", "_z_dim $5"]
    assert figure.axes[0].get_title(loc="left") == "numbers at points: beta; grey: equal ELBO"


def test_labels_of_points_that_are_too_close_are_joined():
    points = [RatePoint(3.0, 20.0, "0.5"), RatePoint(3.01, 20.0, "1"), RatePoint(9.0, 20.0, "2")]
    figure = rate_distortion([RateCurve("a", points), RateCurve("b", [RatePoint(3.02, 20.0, "1")])], "title", "beta")
    labels = [text.get_text() for text in figure.axes[0].texts if hasattr(text, "xy")]
    assert labels == ["0.5, 1", "2"]


def test_grey_lines_have_equal_elbo():
    figure = rate_distortion(CURVES, "title")
    lines = [line.get_xydata() for line in figure.axes[0].lines if line.get_color() not in COLORS]
    assert len(lines) > 2
    for line in lines:
        assert np.ptp(line.sum(1)) == pytest.approx(0, abs=1e-9)


def test_all_labels_are_inside_the_figure():
    figure = rate_distortion([*CURVES, RateCurve("x" * 200, [RatePoint(40, 2, "0.001")])], "title", "lr")
    height, width = np.asarray(render(figure)).shape[:2]
    for text in (*figure.axes[0].texts, *figure.legends[0].texts):
        box = text.get_window_extent()
        assert 0 <= box.x0 <= box.x1 <= width
        assert 0 <= box.y0 <= box.y1 <= height


def test_equal_models_and_a_rate_of_zero_can_be_drawn():
    figure = rate_distortion([RateCurve("a", [RatePoint(0, 30)]), RateCurve("b", [RatePoint(0, 30)])], "title")
    render(figure)
    low, high = figure.axes[0].get_xlim()
    assert low <= 0 < high


def test_too_many_curves_are_cut_and_the_title_says_so():
    curves = [RateCurve(f"z_dim {n}", [RatePoint(n, 30 - n)]) for n in range(MAX_CURVES + 2)]
    figure = rate_distortion(curves, "title")
    assert figure.get_suptitle() == f"title: the first {MAX_CURVES} of {MAX_CURVES + 2} curves"
    lines = drawn_curves(figure)
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(lines) == MAX_CURVES
