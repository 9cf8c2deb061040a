from itertools import pairwise

import numpy as np
import pytest
import torch

from callbacks import plots


def test_kl_is_sorted_and_the_active_dimensions_coloured():
    kl = [torch.tensor([0.1, 3.0, 0.0, 2.0]), torch.tensor([1.0, 0.5])]
    active = [torch.tensor([False, True, False, True]), torch.tensor([True, True])]
    figure = plots.kl_per_dimension(kl, active)
    assert len(figure.axes) == 2
    first, second = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in first.patches], [3.0, 2.0, 0.1, 0.0])
    colors = [bar.get_facecolor() for bar in first.patches]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    assert [text.get_text() for text in first.get_legend().texts] == ["2 active", "2 inactive"]
    assert [text.get_text() for text in second.get_legend().texts] == ["2 active", "0 inactive"]
    assert "nats" in first.get_ylabel()
    assert "5.1 nats" in first.get_title(loc="left")


def test_confusion_matrix_has_true_rows_counts_and_the_error():
    axes = plots.confusion_matrix(torch.tensor([[9, 1], [0, 1000]]), "test").axes[0]
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
    figure = plots.confusion_matrix(torch.full((classes, classes), 1234), "validation")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [text.get_window_extent() for text in axes.texts[:classes]]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert figure.get_tightbbox().x1 * figure.dpi <= figure.bbox.x1


def test_confusion_matrix_without_images():
    assert "unknown error" in plots.confusion_matrix(torch.zeros(2, 2, dtype=torch.long), "test").axes[0].get_title(
        "left"
    )


def test_error_curve_is_in_percent_by_epoch():
    axes = plots.error_curve({1: 0.5, 2: 0.25, 4: 0.125}).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1, 50], [2, 25], [4, 12.5]])
    assert axes.get_title(loc="left") == "Error on validation images: 12.50% after epoch 4"
    assert axes.get_ylim()[0] == 0


def panel(n=30, **options):
    return plots.Panel(torch.rand(n, 2), "title", "x", "y", **options)


@pytest.mark.parametrize("classes", [1, 3, 10, 14, 47])
def test_each_class_has_a_colour_of_its_own(classes):
    colors = plots.label_colors(classes)
    assert len(np.unique(colors, axis=0)) == len(colors) == classes + 1  # and one for unknown labels


def test_points_have_the_colours_of_the_legend():
    y = torch.tensor([2, 0, -1, 2, 0])
    figure = plots.scatter([panel(5)], y)
    legend = figure.legends[0]
    texts = [text.get_text() for text in legend.texts]
    assert texts == ["0", "2", "unknown"]
    of_label = dict(zip((0, 2, -1), (handle.get_color() for handle in legend.legend_handles), strict=True))
    for color, label in zip(figure.axes[0].collections[0].get_facecolors(), y.tolist(), strict=True):
        np.testing.assert_allclose(color, of_label[label])


def test_without_labels_points_have_one_colour_and_no_legend():
    figure = plots.scatter([panel()], torch.full((30,), -1))
    assert not figure.legends
    assert len(np.unique(figure.axes[0].collections[0].get_facecolors(), axis=0)) == 1


@pytest.mark.parametrize("classes", [10, 47])
@pytest.mark.parametrize("panels", [1, 3])
def test_the_legend_hides_no_points_and_nothing_is_cut(classes, panels):
    figure = plots.scatter([panel(100)] * panels, torch.arange(100) % classes)
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


def test_limits_and_no_numbers_where_they_mean_nothing():
    axes = plots.scatter([panel(limits=(0, 1), ticks=False)], torch.zeros(30, dtype=torch.long)).axes[0]
    assert axes.get_xlim() == axes.get_ylim() == (0, 1)
    assert len(axes.get_xticks()) == len(axes.get_yticks()) == 0


def test_a_chart_leaves_nothing_behind():
    from matplotlib import pyplot

    plots.kl_per_dimension([torch.ones(3)], [torch.ones(3, dtype=torch.bool)])
    plots.confusion_matrix(torch.eye(3, dtype=torch.long), "test")
    plots.error_curve({1: 0.5})
    plots.scatter([panel()], torch.zeros(30, dtype=torch.long))
    assert pyplot.get_fignums() == []
