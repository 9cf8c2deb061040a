import numpy as np
import pytest
import torch
from matplotlib.image import imread

from figures import grids
from figures.layer_samples import MAX_PANELS, layer_name, layer_samples, shown_layers
from runtime.figure_files import save_figure


@pytest.mark.parametrize(("layers", "shown"), [
    (1, [1]), (2, [2, 1]), (5, [5, 4, 3, 2, 1]), (6, [6, 5, 4, 3, 2, 1]), (12, [12, 10, 8, 5, 3, 1]),
])  # fmt: skip
def test_the_top_layer_comes_first_and_of_many_some_are_shown(layers, shown):
    assert shown_layers(layers) == shown


def test_many_layers_have_first_and_last_and_no_layer_twice():
    for layers in range(2, 40):
        shown = shown_layers(layers)
        assert (shown[0], shown[-1], len(set(shown))) == (layers, 1, min(layers, MAX_PANELS))


def test_labels_name_what_is_redrawn():
    assert [layer_name(layer, 4) for layer in (4, 3, 2, 1)] == [
        "all layers",
        "layers 1 to 3",
        "layers 1 and 2",
        "layer 1",
    ]


def test_each_panel_has_its_images(tmp_path):
    levels = torch.arange(12).view(3, 2, 2) / 11  # layer, row, column
    figure = layer_samples(levels[..., None, None, None].expand(3, 2, 2, 1, 8, 8))
    assert [text.get_text() for text in figure.axes[0].texts if text.get_text()] == [
        "all layers", "layers 1 and 2", "layer 1",
    ]  # fmt: skip
    save_figure(figure, tmp_path / "figure.png")
    seen = imread(tmp_path / "figure.png")
    seen = seen if seen.ndim == 2 else seen[..., 0]
    bottom, right = seen.shape[0] - grids.MARGIN, seen.shape[1] - grids.MARGIN
    tops = grids.cell_offsets(6, 9 * 8, breaks=(2, 4))
    rows = [bottom - tops[-1] + top + 4 for top in tops[:-1]]
    left = grids.MARGIN + grids.CHARACTER * len("layers 1 and 2") + grids.INDENT
    columns = [left + 4, left + 4 + 72 + grids.GAP]
    assert columns[-1] < right
    found = [[seen[row, column] for column in columns] for row in rows]
    np.testing.assert_allclose(found, levels.flip(0).flatten(0, 1), atol=1 / 255)
