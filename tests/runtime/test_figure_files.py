"""Animations as GIF files; tests/callbacks/test_record.py has the tests of figures."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from figures import grids
from figures.animation import Animation
from runtime.figure_files import FigureStyle, file_suffix, render, save_figure


def frame(i, color=None):
    images = torch.full((1, 2, 1, 8, 8), i / 4)
    box = grids.Box(1, 1, 6, 6, 0.5, color or "red")
    return grids.image_grid(images, title=f"Step {i}", boxes=[[[box]]] if color else ())


@pytest.mark.parametrize("color", [None, "#3f90da"])
def test_a_gif_has_every_frame_for_its_time_and_repeats(tmp_path, color):
    save_figure(Animation(lambda i: frame(i, color), [60, 100, 400, 1900]), tmp_path / "a.gif", dpi=300)
    with Image.open(tmp_path / "a.gif") as saved:
        assert saved.info["loop"] == 0
        found = [(np.asarray(part.convert("RGB")), part.info["duration"]) for part in ImageSequence.Iterator(saved)]
    assert [milliseconds for _, milliseconds in found] == [60, 100, 400, 1900]
    for i, (seen, _) in enumerate(found):
        expected = np.asarray(render(frame(i, color)).convert("RGB"))  # at the default resolution
        assert np.abs(seen.astype(int) - expected.astype(int)).max() <= (8 if color else 0)


def test_the_same_animation_gives_the_same_bytes(tmp_path):
    for name in ("a.gif", "b.gif"):
        save_figure(Animation(lambda i: frame(i, "red"), [100] * 3), tmp_path / name)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


def test_a_frame_that_fails_leaves_an_earlier_file(tmp_path):
    def failing(i):
        if i == 2:
            raise RuntimeError("no frame")
        return frame(i)

    (tmp_path / "a.gif").write_bytes(b"earlier")
    with pytest.raises(RuntimeError, match="no frame"):
        save_figure(Animation(failing, [100] * 3), tmp_path / "a.gif")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.gif", b"earlier")]


def test_only_figures_have_the_chosen_format():
    assert file_suffix(Animation(frame, [100]), FigureStyle("pdf")) == "gif"
    assert file_suffix(frame(0), FigureStyle("pdf")) == "pdf"
