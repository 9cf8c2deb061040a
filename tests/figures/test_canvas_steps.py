import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from figures import grids
from figures.canvas_steps import MAX_STEPS, READ, ROWS, WRITE, Canvases, canvas_animation, canvas_steps, shown_steps


def canvases(steps=3, n=2, read=None, write=None, x=None, side=8):
    return Canvases("generated", torch.rand(steps, n, 1, side, side), write, read, x)


def windows(figure):
    """The boxes of a figure: colour, and left, top, right, bottom and width of the line in pixels of the figure."""
    found = []
    for patch in figure.axes[0].patches:
        assert isinstance(patch, Rectangle)
        (x, y), line = patch.get_xy(), patch.get_linewidth() * figure.dpi / 72
        found.append((to_hex(patch.get_edgecolor()), [x, y, x + patch.get_width(), y + patch.get_height(), line]))
    return found


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_all_of_a_few_steps_are_shown(steps):
    assert shown_steps(steps) == list(range(steps))


def test_of_many_steps_evenly_spaced_ones_are_shown():
    assert shown_steps(64) == [0, 4, 8, 13, 17, 21, 25, 29, 34, 38, 42, 46, 50, 55, 59, 63]
    for steps in range(17, 200):
        shown = shown_steps(steps)
        assert (shown[0], shown[-1], len(set(shown))) == (0, steps - 1, MAX_STEPS)


def test_a_figure_of_64_steps_is_no_larger_than_one_of_16():
    sizes = [tuple(canvas_steps([canvases(steps, n=10, side=28)]).bbox.size) for steps in (16, 64)]
    assert sizes[0] == sizes[1]
    assert max(sizes[0]) <= 1200


def test_rows_columns_and_inputs():
    x = torch.rand(7, 1, 8, 8)
    groups = [canvases(3, 7), canvases(3, 7, x=x)._replace(name="reconstruction")]
    figure = canvas_steps(groups, "A title")
    assert [text for text in texts(figure) if text] == [
        "generated", "reconstruction", "1", "2", "3", "input", "A title"
    ]  # fmt: skip
    canvas = torch.as_tensor(figure.axes[0].images[0].get_array())
    side = 72  # nine pixels for each of eight
    tops = grids.cell_offsets(2 * ROWS, side, breaks=(ROWS,))
    lefts = grids.cell_offsets(4, side, breaks=(3,))
    assert canvas.shape[:2] == (tops[-1], lefts[-1])
    for row in range(2 * ROWS):
        group, image = groups[row // ROWS], row % ROWS
        for column in range(3):
            seen = canvas[tops[row] : tops[row] + side : 9, lefts[column] : lefts[column] + side : 9, 0]
            torch.testing.assert_close(seen, group.canvas[column, image, 0])
        last = canvas[tops[row] : tops[row] + side : 9, lefts[3] : lefts[3] + side : 9, 0]
        torch.testing.assert_close(last, torch.ones(8, 8) if group.x is None else x[image, 0])


def test_a_window_lies_around_the_centres_of_its_pixels():
    # centre between the pixels 2 and 3 along x, at pixel 5 along y; four pixels wide
    write = torch.tensor([2.5, 5.0, 4.0, 0.5]).expand(1, 1, 4)
    [(color, found)] = windows(canvas_steps([canvases(1, 1, write=write)]))
    assert color == WRITE
    assert found == pytest.approx([9 * edge for edge in (1, 3.5, 5, 7.5, 0.25)])


def test_the_line_is_half_as_wide_as_the_filters_within_limits():
    deviations = torch.tensor([0.0, 0.4, 0.8, 50.0])
    write = torch.stack([torch.tensor([3.5, 3.5, 4.0, deviation]) for deviation in deviations])[:, None]
    lines = [found[-1] for _, found in windows(canvas_steps([canvases(4, 1, write=write)]))]
    assert lines == pytest.approx([grids.MIN_OUTLINE, 1.8, 3.6, 0.07 * 72])


def test_a_window_beyond_the_image_ends_at_its_border_within_its_own_image():
    write = torch.tensor([[3.5, 3.5, 100.0, 0.4], [-40.0, 3.5, 2.0, 0.4]])[:, None]
    (_, around), (_, outside) = windows(canvas_steps([canvases(2, 1, write=write)]))
    half = 0.9
    assert around[:4] == pytest.approx([half, half, 72 - half, 72 - half])
    second = 72 + grids.GAP
    assert outside[:4] == pytest.approx([second + half, 27, second + half, 45])


def test_windows_that_are_not_finite_are_left_out():
    write = torch.full((2, 1, 4), torch.nan)
    write[1] = 3.0
    assert len(windows(canvas_steps([canvases(2, 1, write=write)]))) == 1


def test_read_and_write_windows_have_their_colours_and_a_legend():
    write, read = torch.full((2, 1, 4), 3.0), torch.full((2, 1, 4), 2.0)
    figure = canvas_steps([canvases(2, 1, write=write), canvases(2, 1, write=write, read=read)])
    assert [color for color, _ in windows(figure)] == [WRITE, WRITE, READ, WRITE, READ, WRITE]
    styles = [patch.get_linestyle() for patch in figure.axes[0].patches]
    assert [style == "solid" for style in styles] == [True, True, True, False, True, False]
    assert texts(figure)[-1].startswith("red: write window, blue: read window, width of lines")
    only_write = texts(canvas_steps([canvases(2, 1, write=write)]))[-1]
    assert only_write.startswith("red: write window, width of lines")
    assert texts(canvas_steps([canvases(2, 1)], "A title"))[-1] == "A title"


def test_windows_of_an_image_that_is_not_square():
    write = torch.tensor([9.5, 3.5, 4.0, 0.4]).expand(1, 1, 4)
    figure = canvas_steps([Canvases("generated", torch.rand(1, 1, 3, 8, 20), write)])
    scale = 72 // 20 + 1
    [(_, found)] = windows(figure)
    assert found[:4] == pytest.approx([scale * edge for edge in (8, 2, 12, 6)])


@pytest.mark.parametrize("dpi", [50, 200])
def test_windows_grow_with_the_resolution(dpi):
    write = torch.tensor([2.5, 5.0, 4.0, 0.5]).expand(1, 1, 4)
    [(_, found)] = windows(canvas_steps([canvases(1, 1, write=write)]).at_dpi(dpi))
    scale = round(72 * dpi / 100 / 8)
    assert found == pytest.approx([scale * edge for edge in (1, 3.5, 5, 7.5, 0.25)])


def test_an_animation_has_all_steps_and_images():
    groups = [canvases(20, 7), canvases(20, 7, x=torch.rand(7, 1, 8, 8))._replace(name="reconstruction")]
    animation = canvas_animation(groups, "DRAW on Digits")
    frames = list(animation.frames())
    assert len(frames) == len(animation.milliseconds) == 20
    assert len({tuple(frame.bbox.size) for frame in frames}) == 1
    for step in (0, 19):
        assert texts(frames[step]) == [
            "generated", "reconstruction", "input", f"DRAW on Digits\nStep {step + 1} of 20"
        ]  # fmt: skip
        canvas = torch.as_tensor(frames[step].axes[0].images[0].get_array())
        torch.testing.assert_close(canvas[:72:9, :72:9, 0], groups[0].canvas[step, 0, 0])
