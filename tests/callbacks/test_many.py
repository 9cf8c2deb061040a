"""Figures of many classes, dimensions, models and of large images have a bounded size."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from callbacks import Analogies, Attributes, ClassSamples, LatentPlane, Traversals
from callbacks.codes import in_plane
from evaluation.side_by_side import random_points
from figures import charts, grids
from figures.subsets import round_robin_by_class
from models import MODELS

LARGEST = 2000  # pixels along either side


def size(figure):
    return tuple(figure.bbox.size)


def no_larger(figure, most=LARGEST):
    assert max(size(figure)) <= most
    return figure


class Classes:
    """Data of many classes: three test images of 8x8."""

    def __init__(self, count):
        self.class_names = [f"A long name of class $_{index}" for index in range(count)]

    def images(self, split, n=None, device="cpu", grey=False):
        x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return x[:n], torch.tensor([0, len(self.class_names) - 1, 1])[:n]


@pytest.mark.parametrize("classes", [31, 100, 300, 600])
def test_a_confusion_matrix_of_many_classes_has_a_fixed_size_and_no_numbers(classes):
    figure = charts.confusion_matrix(torch.eye(classes, dtype=torch.long) * 9, "test")
    axes = figure.axes[0]
    assert not axes.texts
    assert size(figure) == size(charts.confusion_matrix(torch.eye(40, dtype=torch.long), "test"))
    assert max(axes.images[0].get_array().shape) <= charts.MAX_CELLS
    assert len(axes.get_xticks()) < 15


def test_errors_are_visible_in_cells_of_several_classes():
    counts = torch.eye(600, dtype=torch.long) * 9
    counts[599, 0] = 9
    canvas = np.asarray(charts.confusion_matrix(counts, "test").axes[0].images[0].get_array())
    last = canvas[-1, 0]
    assert last[0] > last[2]  # red
    assert (canvas[0, -1] == 1).all()


@pytest.mark.parametrize(("count", "text"), [(9999, "9999"), (10_400, "10k"), (123_456, "123k"), (1_230_000, "1.2M")])
def test_large_counts_fit_into_their_cells(count, text):
    assert charts.compact_count(count) == text


def test_names_of_classes_stand_at_the_axes_of_a_confusion_matrix_and_do_not_overlap():
    names = ["T-shirt/top", "Ankle boot", "$x$", "_hidden", "x" * 80, *"abcde"]
    figure = charts.confusion_matrix(torch.eye(10, dtype=torch.long), "test", names)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()][:4] == names[:4]
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)


@pytest.mark.parametrize("name", ["CVAE", "M2"])
def test_grids_of_many_classes_show_some_of_them(name):
    torch.manual_seed(0)
    options = {"image_shape": (1, 8, 8), "num_classes": 50, "hidden": [8], "z_dim": 2}
    labelled = {"labelled_fraction": 0.1} if "labelled_fraction" in MODELS[name].data_args else {}
    model, data = MODELS[name](**options, **labelled).eval(), Classes(50)
    callbacks = [ClassSamples(), Analogies()] if name == "M2" else [ClassSamples(), Attributes()]
    for callback in callbacks:
        with torch.no_grad():
            [figure] = callback.draw(model, data).values()
        figure.draw_without_rendering()
        no_larger(figure)
        whole = figure.bbox
        for text in figure.axes[0].texts:  # of which none is cut
            box = text.get_window_extent()
            assert whole.x0 <= box.x0 <= box.x1 <= whole.x1, text
            assert whole.y0 <= box.y0 <= box.y1 <= whole.y1, text
    [figure] = ClassSamples().draw(model, data).values()
    assert "20 of 50 classes" in figure.axes[0].texts[-1].get_text()


def test_labels_above_columns_do_not_overlap():
    names = ["T-shirt/top", "Trouser", "Ankle boot", "Old Church Slavonic (Cyrillic)", "W" * 50, "Bag"]
    figure = grids.class_samples(torch.zeros(1, 6, 1, 28, 28), names)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[i + 1 :])


def test_a_legend_of_many_classes_with_long_names_is_not_cut():
    names = Classes(200).class_names
    figure = charts.scatter([charts.Panel(torch.rand(400, 2), "title", "x", "y")], torch.arange(400) % 200, names)
    figure.draw_without_rendering()
    no_larger(figure, 900)
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1
    assert box.x1 <= figure.bbox.x1
    assert figure.axes[0].get_window_extent().x1 < box.x0


def test_names_that_begin_with_an_underscore_or_hold_a_formula_are_in_the_legend():
    figure = charts.scatter([charts.Panel(torch.rand(4, 2), "", "", "")], torch.arange(4) % 2, ["_a", "$\\frac$"])
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.legends[0].texts] == ["_a", "$\\frac$"]


@pytest.mark.parametrize("side", [256, 1000])
def test_large_images_are_reduced(side):
    images = torch.full((2, 1, 3, side, side // 2), 0.25)
    canvas = np.asarray(grids.image_grid(images).axes[0].images[0].get_array())
    assert canvas.shape[0] <= 2 * grids.LARGEST + grids.GAP
    assert (canvas[0] == 0.25).all()


def test_a_plane_of_large_images_is_no_larger_than_one_of_small_ones(make_model, data, monkeypatch):
    model = make_model(z_dim=2).eval()
    monkeypatch.setattr(model, "decode", lambda z: torch.zeros(len(z), 1, 300, 300))
    no_larger(LatentPlane().draw(model, data)["latent_plane"], 1400)


def test_kl_of_a_thousand_dimensions_is_drawn_as_two_outlines():
    kl = torch.linspace(0, 3, 1000)
    figure = charts.kl_per_dimension([kl], [kl > 1])
    assert len(figure.axes[0].patches) == 2
    assert size(figure) == size(charts.kl_per_dimension([kl[:3]], [kl[:3] > 1]))


def test_of_many_layers_only_sums_are_drawn():
    figure = no_larger(charts.kl_per_dimension([torch.ones(2)] * 64, [torch.ones(2) > 0] * 64), 700)
    assert len(figure.axes) == 2
    no_larger(charts.kl_per_dimension([torch.ones(2)] * 6, [torch.ones(2) > 0] * 6), 1300)


def test_quantiles_and_components_of_codes_of_many_dimensions(make_model, data, monkeypatch):
    z = torch.randn(40, 600_000)
    assert in_plane(z[:, :2000])[0].shape == (40, 2)
    model = make_model("AE").eval()
    monkeypatch.setattr("callbacks.traversals.codes_of_test_images", lambda *_: (z, None))
    monkeypatch.setattr("callbacks.traversals.encode", lambda *_: z[:1])
    monkeypatch.setattr("callbacks.traversals.dimension_names", lambda _: [""] * z.shape[1])
    monkeypatch.setattr(model, "decode", lambda z: torch.zeros(*z.shape[:-1], 1, 8, 8))
    no_larger(Traversals(num_dims=2).draw(model, data)["traversals"])


def test_labels_may_be_any_numbers():
    assert round_robin_by_class(torch.tensor([10**9, 0, 10**9, -1]), 3).tolist() == [3, 1, 0]


def test_many_models_are_drawn_in_rows_below_each_other(make_model, data):
    models = {f"model {i}": make_model(z_dim=2) for i in range(5)}
    no_larger(random_points(models, data.images("test", 20)[0]))
    figure = no_larger(charts.scatter([charts.Panel(torch.rand(5, 2), "", "", "")] * 9, torch.zeros(5).long()), 2200)
    assert len(figure.axes) == 9


def test_a_comparison_of_many_runs_is_cut():
    run = SimpleNamespace(row={"label": "run", "nll": 1.0, "num_samples": 5, "rate": 1.0, "distortion": 2.0})
    figure = no_larger(charts.comparison([run.row] * 200, "Digits"), 2200)
    assert "the first 60 of 200 runs" in figure.get_suptitle()
