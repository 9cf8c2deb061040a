import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from figures import grids
from figures.grids import BREAK, CELL, GAP, MARGIN


def picture(figure):
    """Return the saved figure as RGB in [0, 1], `(height, width, 3)`."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=figure.dpi)
    file.seek(0)
    return imread(file, format="png")[..., :3]


def cells(figure, tops, lefts, height, width):
    """Return the images of a grid without labels: `(rows, columns, height, width, 3)`."""
    image = picture(figure)[MARGIN:, MARGIN:]
    return np.array([[image[top : top + height, left : left + width] for left in lefts] for top in tops])


@pytest.mark.parametrize(("shape", "scale"), [((1, 8, 8), 9), ((1, 28, 28), 3), ((3, 32, 32), 2), ((1, 20, 31), 2)])
def test_each_pixel_of_an_image_is_a_square_of_its_exact_value(shape, scale):
    images = torch.randint(0, 256, (3, 4, *shape)).float() / 255
    height, width = shape[1] * scale, shape[2] * scale
    tops, lefts = ([i * (size + GAP) for i in range(n)] for n, size in ((3, height), (4, width)))
    seen = cells(grids.image_grid(images), tops, lefts, height, width)
    expected = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2).movedim(2, -1).expand(-1, -1, -1, -1, 3)
    np.testing.assert_allclose(seen, expected.numpy(), atol=0.6 / 255)
    assert abs(max(height, width) - CELL) <= 12


def test_a_grid_is_as_large_as_its_images_and_white_between_them():
    image = picture(grids.image_grid(torch.zeros(2, 3, 1, 8, 8)))
    assert image.shape == (2 * CELL + GAP + 2 * MARGIN, 3 * CELL + 2 * GAP + 2 * MARGIN, 3)
    assert (image == 0).mean() == pytest.approx(6 * CELL**2 / image[..., 0].size)
    assert ((image == 0) | (image == 1)).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_grey_is_not_stretched(value):
    seen = cells(grids.image_grid(torch.full((1, 1, 1, 8, 8), value)), [0], [0], CELL, CELL)
    np.testing.assert_allclose(seen, value, atol=0.6 / 255)


def test_values_are_clamped_to_the_range():
    image = picture(grids.image_grid(torch.tensor([-3.0, 7.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 8, 8)))
    assert set(np.unique(image)) == {0.0, 1.0}


def test_breaks_set_rows_and_columns_apart():
    second, third, fourth = 10 + BREAK, 20 + BREAK + GAP, 30 + 2 * BREAK + GAP
    assert grids.cell_offsets(4, 10, breaks=(1, 3)) == [0, second, third, fourth, fourth + 10]


def test_labels_and_title_are_not_cut():
    labels = {"row_labels": ["a", "reconstruction"], "column_labels": ["0.11"] * 3, "title": "a title of the grid"}
    figure = grids.image_grid(torch.zeros(2, 3, 1, 8, 8), **labels)
    figure.draw_without_rendering()
    whole = figure.bbox
    for text in figure.axes[0].texts:
        box = text.get_window_extent()
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.y1 <= whole.y1, text
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "a",
        "reconstruction",
        "0.11",
        "0.11",
        "0.11",
        "a title of the grid",
    ]


def test_reconstructions_lie_below_their_inputs_in_blocks_of_ten():
    x, x_hat = torch.full((23, 1, 8, 8), 0.2), torch.full((23, 1, 8, 8), 0.6)
    figure = grids.reconstructions(x, x_hat)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["input", "reconstruction"] * 3
    canvas = np.asarray(axes.images[0].get_array())
    block = 2 * CELL + GAP + BREAK
    for row, value in [(0, 0.2), (CELL + GAP, 0.6), (block, 0.2), (block + CELL + GAP, 0.6), (2 * block, 0.2)]:
        columns = 3 if row >= 2 * block else 10
        np.testing.assert_allclose(canvas[row + 5, [i * (CELL + GAP) for i in range(columns)]], value, rtol=1e-6)
    assert (canvas[2 * block :, 3 * (CELL + GAP) :] == 1).all()  # nothing beside the last three


@pytest.mark.parametrize(("n", "rows", "columns"), [(64, 8, 8), (10, 3, 4), (1, 1, 1)])
def test_samples_make_a_square(n, rows, columns):
    canvas = grids.samples(torch.zeros(n, 1, 8, 8)).axes[0].images[0].get_array()
    assert canvas.shape[:2] == tuple(count * (CELL + GAP) - GAP for count in (rows, columns))
    assert (np.asarray(canvas) == 0).all(-1).sum() == n * CELL**2


def test_interpolations_go_from_one_image_to_the_other():
    x0, x1 = torch.full((2, 1, 8, 8), 0.1), torch.full((2, 1, 8, 8), 0.9)
    steps = torch.tensor([0.3, 0.5, 0.7]).view(3, 1, 1, 1, 1).expand(3, 2, 1, 8, 8)
    axes = grids.interpolations(steps, x0, x1, title="linear").axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    lefts = grids.cell_offsets(5, CELL, breaks=(1, 4))[:-1]
    for row in (0, CELL + GAP):
        np.testing.assert_allclose(canvas[row, lefts, 0], [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-6)
    assert (canvas[:, CELL : CELL + BREAK] == 1).all()
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["from", "0.00", "0.50", "1.00", "to", "linear"]


def test_analogies_set_the_original_apart_and_name_the_labels():
    x = torch.full((2, 1, 8, 8), 0.9)
    images = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    axes = grids.analogies(x, images).axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    lefts = grids.cell_offsets(4, CELL, breaks=(1,))[:-1]
    for row in (0, CELL + GAP):
        np.testing.assert_allclose(canvas[row, lefts, 0], [0.9, 0.1, 0.2, 0.3], rtol=1e-6)
    assert (canvas[:, CELL : CELL + BREAK] == 1).all()
    assert [text.get_text() for text in axes.texts] == ["original", "0", "1", "2", ""]


def test_class_samples_have_a_column_per_label():
    images = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1).expand(2, 3, 1, 8, 8)
    axes = grids.class_samples(images).axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    for row in (0, CELL + GAP):
        np.testing.assert_allclose(canvas[row, [i * (CELL + GAP) for i in range(3)], 0], [0.1, 0.2, 0.3], rtol=1e-6)
    assert [text.get_text() for text in axes.texts] == ["0", "1", "2", ""]


def test_captions_have_a_line_below_their_images_and_titles_their_columns():
    figure = grids.image_grid(torch.zeros(2, 3, 1, 8, 8), title={0: "left", 2: "right"}, captions=[["a"] * 3] * 2)
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape[0] == 2 * (CELL + grids.LINE) + GAP
    found = {(text.get_text(), *text.get_position()) for text in axes.texts if text.get_text()}
    step, below = CELL + GAP, CELL + grids.LINE / 2
    captions = {
        ("a", column * step + CELL / 2, row * (step + grids.LINE) + below) for row in (0, 1) for column in (0, 1, 2)
    }
    assert found == captions | {("left", 0, -4), ("right", 2 * step, -4)}


@pytest.mark.parametrize(("size", "gap", "cell"), [(28, 0, 28), (8, 1, 24), (32, 0, 32)])
def test_images_of_a_plane_have_no_gap_or_one_pixel(size, gap, cell):
    z = torch.arange(4.0)
    canvas = np.asarray(grids.plane(torch.zeros(4, 4, 1, size, size), z, z, "").axes[0].images[0].get_array())
    assert canvas.shape == (4 * (cell + gap) - gap, 4 * (cell + gap) - gap, 3)
    assert (canvas == 0).all(-1).sum() == (4 * cell) ** 2


def test_grids_do_not_use_pyplot():
    from matplotlib import pyplot

    grids.samples(torch.zeros(4, 1, 8, 8))
    assert pyplot.get_fignums() == []
