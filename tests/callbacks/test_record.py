import os
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from matplotlib.image import imread
from PIL import Image
from pytorch_lightning import Callback
from wandb_file import wandb_history

from callbacks import Samples, for_model
from figures import charts, grids
from runtime.figure_files import FigureStyle, check_style, save_figure

FIGURES = (
    "attributes",
    "interpolations_linear",
    "interpolations_spherical",
    "kl_per_dimension",
    "latent_codes",
    "reconstructions",
    "samples",
    "traversals",
)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_only_a_figure_with_colours_is_saved_in_colour(tmp_path, channels, mode):
    images = torch.randint(0, 256, (1, 1, channels, 8, 8)).float() / 255
    figure = grids.image_grid(images, row_labels=["text"])
    save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as saved:
        assert saved.mode == mode
        seen = np.asarray(saved.convert("RGB"))
    assert seen.shape[1::-1] == tuple(figure.bbox.size.astype(int))
    edge = grids.MARGIN, grids.MARGIN + 4 * grids.CHARACTER + grids.INDENT
    cell = seen[edge[0] + 4 : edge[0] + grids.CELL : 9, edge[1] + 4 : edge[1] + grids.CELL : 9]
    expected = images[0, 0].mul(255).round().expand(3, -1, -1).permute(1, 2, 0)
    np.testing.assert_allclose(cell, expected.numpy(), atol=1)


def test_a_file_for_each_figure_and_scheduled_epoch(fit, make_model, tmp_path):
    model = make_model()
    fit(model, for_model(model), max_epochs=3)
    expected = {f"{name}_epoch{epoch:04d}.png" for name in FIGURES for epoch in (1, 2, 3)}
    assert set(os.listdir(tmp_path / "figures")) == expected
    for name in expected:
        assert min(imread(tmp_path / "figures" / name).shape[:2]) > 100


def test_wandb_gets_the_same_files_on_the_axes_of_validation(fit, make_model, tmp_path, offline):
    model = make_model()
    fit(model, for_model(model), max_epochs=2, logger=offline)
    folder = Path(offline.experiment.dir).parent
    wandb.finish()
    wandb.teardown()  # finish() alone returns before everything is on the disk
    [file] = folder.glob("*.wandb")
    rows = list(wandb_history(file))
    assert [row["_step"] for row in rows] == sorted(row["_step"] for row in rows)

    axes = {row["epoch"]: row["trainer/global_step"] for row in rows if "val/bound" in row}
    assert axes == {0: 2, 1: 5}
    for key in [f"figures/{name}" for name in FIGURES]:
        drawn = [row for row in rows if f"{key}/path" in row or key in row]
        assert {row["epoch"]: row["trainer/global_step"] for row in drawn} == axes
    for key in ("val/active_units", "val/nll", "val/ess"):
        assert {row["epoch"]: row["trainer/global_step"] for row in rows if key in row} == axes

    media = folder / "files" / "media" / "images" / "figures"
    logged = sorted(path.read_bytes() for path in media.glob("*.png"))
    assert logged == sorted(path.read_bytes() for path in (tmp_path / "figures").glob("*.png"))


@pytest.mark.parametrize("dpi", [50, 150, 220, 300])
@pytest.mark.parametrize("side", [8, 28])
def test_pixels_stay_whole_at_any_resolution(tmp_path, dpi, side):
    images = torch.randint(0, 256, (2, 3, 1, side, side), generator=torch.Generator().manual_seed(0)).float() / 255
    save_figure(grids.image_grid(images), tmp_path / "figure.png", dpi)
    with Image.open(tmp_path / "figure.png") as saved:
        assert saved.info["dpi"] == pytest.approx((dpi, dpi), rel=1e-3)
        seen = np.asarray(saved)
    scale = max(1, round(grids.CELL * dpi / 100 / side))
    margin, gap = round(grids.MARGIN * dpi / 100), round(grids.GAP * dpi / 100)
    expected = images.mul(255).round().repeat_interleave(scale, -1).repeat_interleave(scale, -2)[:, :, 0].numpy()
    for row in range(2):
        for column in range(3):
            top, left = (margin + i * (side * scale + gap) for i in (row, column))
            found = seen[top : top + side * scale, left : left + side * scale]
            np.testing.assert_allclose(found, expected[row, column], atol=1)


def test_charts_and_grids_grow_with_the_resolution(tmp_path):
    for name, make in {"grid": lambda: grids.samples(torch.zeros(4, 1, 8, 8)), "chart": error}.items():
        sizes = {}
        for dpi in (100, 200):
            save_figure(make(), tmp_path / f"{name}{dpi}.png", dpi)
            with Image.open(tmp_path / f"{name}{dpi}.png") as saved:
                sizes[dpi] = np.array(saved.size)
        np.testing.assert_allclose(sizes[200], 2 * sizes[100], atol=2)


def error():
    return charts.error_curve({1: 0.5, 2: 0.4}, "M2 on Digits")


@pytest.mark.parametrize(("kind", "begin"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_vector_files_are_the_same_again_and_hold_the_pixels(tmp_path, kind, begin):
    for name, make in {"grid": lambda: grids.samples(torch.zeros(4, 1, 8, 8), "a title"), "chart": error}.items():
        for number in (1, 2):
            save_figure(make(), tmp_path / f"{name}{number}.{kind}")
        first, second = ((tmp_path / f"{name}{number}.{kind}").read_bytes() for number in (1, 2))
        assert first == second
        assert first.startswith(begin)
    assert {path.suffix for path in tmp_path.iterdir()} == {f".{kind}"}


def test_files_have_the_requested_format_and_wandb_gets_pixels(fit, make_model, tmp_path, offline):
    class Styled(Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.figure_style = FigureStyle("pdf", 200)

    fit(make_model(), [Styled(), Samples(num_images=4)], max_epochs=1, logger=offline)
    folder = Path(offline.experiment.dir).parent
    assert os.listdir(tmp_path / "figures") == ["samples_epoch0001.pdf"]
    [image] = (folder / "files" / "media" / "images" / "figures").glob("*.png")
    with Image.open(image) as logged:
        assert logged.size[0] > 2 * 2 * grids.CELL


@pytest.mark.parametrize("dpi", [-1, 0, 49, 601, 10**9])
def test_a_resolution_that_cannot_be_drawn_is_refused(dpi):
    with pytest.raises(ValueError, match=rf"^--figure_dpi must be from 50 to 600; got {dpi}\.$"):
        check_style(FigureStyle(dpi=dpi))
