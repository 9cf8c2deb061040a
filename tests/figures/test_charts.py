from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.text import Annotation

from figures import charts


def test_kl_is_sorted_and_the_active_dimensions_coloured():
    kl = [torch.tensor([0.1, 3.0, 0.0, 2.0]), torch.tensor([1.0, 0.5])]
    active = [torch.tensor([False, True, False, True]), torch.tensor([True, True])]
    figure = charts.kl_per_dimension(kl, active)
    assert len(figure.axes) == 2
    first, second = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in first.patches], [3.0, 2.0, 0.1, 0.0])
    colors = [bar.get_facecolor() for bar in first.patches]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert [text.get_text() for text in first.get_legend().texts] == ["2 active", "2 inactive"]
    assert [text.get_text() for text in second.get_legend().texts] == ["2 active", "0 inactive"]
    assert "nats" in first.get_ylabel()
    assert "5.1 nats" in first.get_title(loc="left")


def heights(bars):
    return [bar.get_height() for bar in bars]


def test_many_layers_are_drawn_as_the_kl_and_the_active_units_of_each():
    kl = [torch.tensor([layer, 0.5]) for layer in range(8)]
    kl[3] = torch.tensor([torch.nan, 2.0, torch.inf])
    active = [values > 0.6 for values in kl]
    figure = charts.kl_per_dimension(kl, active, "DRAW on Digits", "step")
    above, below = figure.axes
    np.testing.assert_allclose(heights(above.patches), [0.5, 1.5, 2.5, 2.0, 4.5, 5.5, 6.5, 7.5])
    np.testing.assert_allclose(heights(below.patches[:8]), [0, 1, 1, 2, 1, 1, 1, 1])
    np.testing.assert_allclose(heights(below.patches[8:]), [2, 1, 1, 1, 1, 1, 1, 1])
    colors = [bar.get_facecolor() for bar in above.patches]
    assert colors[0] == below.patches[8].get_facecolor() != colors[1] == below.patches[0].get_facecolor()
    title = "KL of each step, 30.5 nats in all (2 not finite, drawn as 0)\nDRAW on Digits"
    assert above.get_title(loc="left") == title
    assert below.get_title(loc="left") == "Active units of each step, 8 of 17"
    assert below.get_xlabel() == "step"
    assert [text.get_text() for text in below.get_legend().texts] == ["8 active", "9 inactive"]


def test_confusion_matrix_has_true_rows_counts_and_the_error():
    axes = charts.confusion_matrix(torch.tensor([[9, 1], [0, 1000]]), "test").axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "9", (1, 0): "1", (0, 1): "0", (1, 1): "1000"}  # (column, row)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_title(loc="left") == "0.10% error: 1 of 1,010 test images"
    canvas = np.asarray(axes.images[0].get_array())
    right, wrong, none = canvas[1, 1], canvas[0, 1], canvas[1, 0]
    assert right[2] > right[0]  # blue
    assert wrong[0] > wrong[2]  # red
    assert (none == 1).all()


@pytest.mark.parametrize("classes", [2, 10, 26])
def test_numbers_of_a_confusion_matrix_stay_in_their_cells(classes):
    figure = charts.confusion_matrix(torch.full((classes, classes), 1234), "validation")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts[:classes]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert figure.get_tightbbox().x1 * figure.dpi <= figure.bbox.x1


def test_confusion_matrix_without_images():
    assert "unknown error" in charts.confusion_matrix(torch.zeros(2, 2, dtype=torch.long), "test").axes[0].get_title(
        "left"
    )


def test_error_curve_is_in_percent_by_epoch():
    axes = charts.error_curve({1: 0.5, 2: 0.25, 4: 0.125}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 50], [2, 25], [4, 12.5]])
    assert axes.get_title(loc="left") == "Error on validation images: 12.50% after epoch 4"
    assert axes.get_ylim()[0] == 0


def panel(n=30, **options):
    return charts.Panel(torch.rand(n, 2), "title", "x", "y", **options)


@pytest.mark.parametrize("classes", [1, 3, 10, 14, 20])
def test_each_class_has_its_own_style(classes):
    styles = charts.label_styles(np.arange(classes))
    assert len({*styles.values(), (charts.UNKNOWN, "o")}) == len(styles) + 1 == classes + 1


def test_the_style_of_a_class_does_not_depend_on_other_classes():
    assert charts.label_styles(np.array([7]))[7] == charts.label_styles(np.arange(10))[7]


def test_of_many_classes_the_most_frequent_have_a_colour():
    y = torch.arange(50).repeat(3)
    y = torch.cat([y, torch.arange(30, 50), torch.tensor([-1])])
    figure = charts.scatter([panel(len(y))], y)
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == [*map(str, range(30, 50)), "30 other classes", "unknown"]


def test_points_have_the_colours_of_the_legend():
    y = torch.tensor([2, 0, -1, 2, 0])
    figure = charts.scatter([panel(5)], y)
    legend = figure.legends[0]
    texts = [text.get_text() for text in legend.texts]
    assert texts == ["0", "2", "unknown"]
    of_label = dict(zip((0, 2, -1), (to_rgba(handle.get_color()) for handle in legend.legend_handles), strict=True))
    known, unknown = figure.axes[0].collections
    np.testing.assert_allclose(known.get_facecolors(), [of_label[label] for label in y[y >= 0].tolist()])
    np.testing.assert_allclose(unknown.get_facecolors(), [of_label[-1]])
    assert unknown.get_zorder() < known.get_zorder()


def test_without_labels_points_have_one_colour_and_no_legend():
    figure = charts.scatter([panel()], torch.full((30,), -1))
    assert not figure.legends
    assert len(np.unique(figure.axes[0].collections[0].get_facecolors(), axis=0)) == 1


@pytest.mark.parametrize("classes", [10, 47])
@pytest.mark.parametrize("panels", [1, 3])
def test_the_legend_hides_no_points_and_nothing_is_cut(classes, panels):
    figure = charts.scatter([panel(100)] * panels, torch.arange(100) % classes)
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert len(figure.axes) == panels
    for axes in figure.axes:
        assert axes.get_window_extent().x1 < legend.x0
        box = axes.get_tightbbox()
        assert box.x0 >= 0
        assert box.y0 >= 0
    assert legend.x1 <= figure.bbox.x1
    assert legend.y0 >= 0
    assert legend.y1 <= figure.bbox.y1


def test_limits_and_hidden_ticks():
    axes = charts.scatter([panel(limits=(0, 1), ticks=False)], torch.zeros(30, dtype=torch.long)).axes[0]
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0


def run(label, nll=88.0, rate=None, distortion=None, **others):
    return {
        "label": label,
        "nll": nll,
        "nll_se": 0.2,
        "num_samples": 10,
        "rate": rate,
        "distortion": distortion,
        **others,
    }


def numbers(axes):
    """Return the annotations of points."""
    return [text for text in axes.texts if isinstance(text, Annotation)]


SWEEP = [run(f"beta-{beta}", 25 + beta, 20 / beta, 20 + beta) for beta in (0.5, 1, 2)]


def test_a_comparison_has_a_row_and_a_point_for_each_run():
    left, right = charts.comparison(SWEEP, "Digits").axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["beta-0.5  1", "beta-1  2", "beta-2  3"]
    np.testing.assert_allclose(left.lines[0].get_xydata(), [[25.5, 2], [26, 1], [27, 0]])  # the first one on top
    np.testing.assert_allclose(right.lines[0].get_xydata(), [[40, 20.5], [20, 21], [10, 22]])
    assert {text.get_text(): text.xy[0] for text in numbers(right)} == {"1": 40, "2": 20, "3": 10}


def test_lines_of_equal_elbo_are_labelled():
    axes = charts.comparison(SWEEP, "Digits").axes[1]
    lines = [line.get_xydata() for line in axes.lines[1:]]
    written = [float(text.get_text()) for text in axes.texts if not isinstance(text, Annotation)]
    assert len(lines) > 2
    np.testing.assert_allclose([-line.sum(1) for line in lines], np.repeat(written, 2).reshape(-1, 2))
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for x, y in np.concatenate(lines):
        assert left - 1e-6 <= x <= right + 1e-6
        assert bottom - 1e-6 <= y <= top + 1e-6


def test_likelihoods_of_papers_and_of_ais_are_in_the_row_of_their_run():
    results = [run("a"), run("b", paper_nll=86.0), run("c", ais_nll=87.0, ais_nll_se=0.5)]
    figure = charts.comparison(results, "MNIST")
    places = {bars.get_label(): bars.lines[0].get_xydata().tolist() for bars in figure.axes[0].containers}
    assert places == {
        "importance-sampled": [[88, 2], [88, 1], [88, 0]],
        "by AIS, a bound too": [[87, 0]],
        "paper": [[86, 1]],
    }
    assert [text.get_text() for text in figure.legends[0].texts] == list(places)
    assert not charts.comparison(SWEEP, "Digits").legends  # of one kind there is nothing to tell apart


def test_overlapping_points_share_an_annotation():
    points = np.array([[0.1, 0.1], [0.9, 0.5], [0.14, 0.1], [0.18, 0.13], [0.1, 0.5]])
    assert charts.group_close_points(points) == [[0, 2, 3], [1], [4]]
    assert charts.group_close_points(points[[0, 3, 2]]) == [[0, 1, 2]]  # the last one joins two that were apart
    results = [run("a", rate=0.0, distortion=27.0), *SWEEP, run("b", rate=0.01, distortion=27.0)]
    assert [text.get_text() for text in numbers(charts.comparison(results, "Digits").axes[1])] == [
        "1, 5",
        "2",
        "3",
        "4",
    ]


def test_runs_without_a_rate():
    axes = charts.comparison([SWEEP[0], run("hierarchical"), SWEEP[2]], "Digits").axes[1]
    assert [text.get_text() for text in numbers(axes)] == ["1", "3"]
    axes = charts.comparison([run("hierarchical")], "Digits").axes[1]
    assert [text.get_text() for text in axes.texts] == ["no rate is known"]


def test_a_single_run_needs_no_number():
    left, right = charts.comparison(SWEEP[:1], "Digits").axes
    assert left.get_yticklabels()[0].get_text().strip() == "beta-0.5"
    assert {text.get_text() for text in numbers(right)} == {""}


def test_long_names_keep_their_beginning_and_end():
    name = "iwae-k50-dreg-of-two-layers-with-a-long-warmup-seed-3"
    assert charts.shorten_middle("x" * 32) == "x" * 32
    assert len(charts.shorten_middle(name)) == 32
    assert charts.shorten_middle(name).startswith("iwae-k50-")
    assert charts.shorten_middle(name).endswith("warmup-seed-3")


SPREAD = [(60 * i / 11, 80 - 5 * i) for i in range(12)]
HEAP = [(30.0, 60.0)] * 11 + [(0.0, 70.0)]


@pytest.mark.parametrize("places", [SPREAD, HEAP, SPREAD[:2], [(0.0, 27.0)]], ids=["spread", "heap", "two", "one"])
def test_nothing_in_a_comparison_overlaps_or_is_cut(places):
    names = [f"{'a-long-name-of-a-run-' * 3}{i}" for i in range(len(places))]
    results = [
        run(name, 88 - i, *place, paper_nll=86.0) for i, (name, place) in enumerate(zip(names, places, strict=True))
    ]
    figure = charts.comparison(results, "MNIST")
    figure.draw_without_rendering()
    left, right = figure.axes
    labels = [label.get_window_extent() for label in left.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(labels))
    legend, numbered = figure.legends[0].get_window_extent(), [text.get_window_extent() for text in numbers(right)]
    assert not any(one.overlaps(other) for one, other in combinations(numbered, 2) if one.width)
    assert all(box.x1 <= right.bbox.x1 for box in numbered)
    assert left.get_tightbbox().x1 <= right.get_tightbbox().x0
    assert min(left.bbox.width, right.bbox.width) > 0.2 * figure.bbox.width  # whatever the names
    assert legend.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)
    for box in (*labels, *numbered, legend, *(axes.get_tightbbox() for axes in figure.axes)):
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 <= box.y1 <= figure.bbox.y1


def test_charts_do_not_use_pyplot():
    from matplotlib import pyplot

    charts.kl_per_dimension([torch.ones(3)], [torch.ones(3, dtype=torch.bool)])
    charts.confusion_matrix(torch.eye(3, dtype=torch.long), "test")
    charts.error_curve({1: 0.5})
    charts.comparison(SWEEP, "Digits")
    charts.scatter([panel()], torch.zeros(30, dtype=torch.long))
    assert pyplot.get_fignums() == []


LABEL_CURVES = [
    charts.LabelCurve("M1M2 (3 draws)", "M1M2", [charts.LabelPoint(600, 0.03, 0.001), charts.LabelPoint(100, 0.04)]),
    charts.LabelCurve("M2 (1 draw)", "M2", [charts.LabelPoint(100, 0.1), charts.LabelPoint(100, 0.08)]),
    charts.LabelCurve("M2, a $paper", "M2", [charts.LabelPoint(3000, 0.0392, 0.0063)], is_published=True),
    charts.LabelCurve("NN, a paper", "NN", [charts.LabelPoint(100, 0.25)], is_published=True),
]


def test_errors_over_labels_are_in_percent_on_logarithmic_axes():
    figure = charts.error_over_labels(LABEL_CURVES, "MNIST")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "600", "3000"]
    (stack, *_), (two_settings, *_), (published, *_), (other, *_) = axes.containers
    np.testing.assert_allclose(stack.get_xydata(), [[100, 4], [600, 3]])
    assert stack.get_linestyle() == "-"
    assert two_settings.get_linestyle() == "None", "points with the same number of labels are not connected"
    assert published.get_color() == two_settings.get_color() != stack.get_color()
    assert other.get_color() == charts.OTHER_METHODS
    bars = axes.containers[2][2][0].get_segments()
    np.testing.assert_allclose(bars, [[[3000, 3.29], [3000, 4.55]]])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == [curve.name for curve in LABEL_CURVES]
    figure.canvas.draw()


def test_errors_of_zero_are_drawn_on_a_linear_axis():
    curve = charts.LabelCurve("M2", "M2", [charts.LabelPoint(100, 0.0), charts.LabelPoint(600, 0.1)])
    (axes,) = charts.error_over_labels([curve], "").axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < 0


def test_points_with_the_same_labels_and_error_may_lack_a_standard_error():
    points = [charts.LabelPoint(100, 0.1, 0.01), charts.LabelPoint(100, 0.1), charts.LabelPoint(600, 0.05)]
    figure = charts.error_over_labels([charts.LabelCurve("M2 (1 to 2 draws)", "M2", points)], "Digits")
    (line,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert line.get_xdata().tolist() == [100, 100, 600]


def test_the_legend_of_the_kl_does_not_cover_bars():
    figure = charts.kl_per_dimension([torch.ones(2)], [torch.ones(2, dtype=torch.bool)])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
