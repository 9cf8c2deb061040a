"""The canvas of a sequential model: figure and animation, in the run folder and in W&B."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import wandb
from pytorch_lightning import Callback
from torch import Tensor
from wandb_file import wandb_history

from callbacks import CALLBACKS, CanvasSteps, for_model
from models import VAE, evaluating
from runtime.figure_files import FigureStyle, save_figure


class Steps(NamedTuple):
    canvas: Tensor
    read: Tensor | None
    write: Tensor | None


class Sequential(VAE):
    """A VAE that pretends to draw in five steps, with attention."""

    attention = True

    def steps(self, images, read):
        n = len(images)
        shares = torch.linspace(0.2, 1, 5).view(-1, 1, 1, 1, 1)
        windows = torch.rand(2, 5, n, 4) * 4 + 1 if self.attention else (None, None)
        return Steps(shares * images, windows[0] if read else None, windows[1])

    def generate_steps(self, n):
        return self.steps(self.sample(n), read=False)

    def reconstruct_steps(self, x):
        return self.steps(self.reconstruct(x), read=True)


class Plain(Sequential):
    attention = False


@pytest.mark.parametrize("kind", [Sequential, Plain])
def test_a_figure_and_an_animation_of_the_same_images(make_model, data, monkeypatch, kind):
    calls = []
    for name in ("canvas_steps", "canvas_animation"):
        monkeypatch.setattr(f"callbacks.canvas_steps.{name}", lambda *args, name=name: calls.append((name, args)))
    model = make_model(kind=kind)
    with evaluating(model):
        assert list(CanvasSteps(num_images=7).draw(model, data)) == ["canvas_steps", "canvas_steps_animation"]
    (first, (groups, title)), (second, (same, subject)) = calls
    assert (first, second) == ("canvas_steps", "canvas_animation")
    assert same is groups
    generated, rebuilt = groups
    assert generated.canvas.shape == rebuilt.canvas.shape == (5, 7, 1, 8, 8)
    assert generated.x is None
    assert torch.equal(rebuilt.x, data.images("test", 7)[0])
    has_windows = [part is not None for part in (generated.write, rebuilt.write, generated.read, rebuilt.read)]
    assert has_windows == ([True, True, False, True] if kind is Sequential else [False] * 4)
    assert title == f"Canvas after each step: {kind.__name__} on Digits"
    assert subject == f"{kind.__name__} on Digits"


def test_it_needs_a_model_that_draws_in_steps(make_model):
    assert "canvas_steps" in [callback.name for callback in for_model(make_model(kind=Sequential))]
    reason = CALLBACKS["canvas_steps"].unsupported_reason(make_model())
    assert reason.startswith("VAE has no canvas steps: it defines no generate_steps(); leave canvas_steps out, or")


@pytest.mark.parametrize("kind", [Sequential, Plain])
def test_training_is_unchanged(fit, make_model, memory, tmp_path, kind):
    results = []
    for callbacks in ([], [CanvasSteps(num_images=3)]):
        log, model = memory(), make_model(kind=kind)
        fit(model, callbacks, logger=log)
        results.append((log.of("val/bound"), [part.clone() for part in model.parameters()], torch.get_rng_state()))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert torch.equal(results[0][2], results[1][2])
    assert len(list((tmp_path / "figures").glob("*.gif"))) == 2


def test_a_checkpoint_gets_the_files_of_training(fit, make_model, data, tmp_path):
    model = make_model(kind=Sequential)
    fit(model, [CanvasSteps(num_images=3)], max_epochs=1)
    with evaluating(model):
        drawn = CanvasSteps(num_images=3).draw(model, data)
    for name, suffix in (("canvas_steps", "png"), ("canvas_steps_animation", "gif")):
        save_figure(drawn[name], tmp_path / f"again.{suffix}")
        in_training = tmp_path / "figures" / f"{name}_epoch0001.{suffix}"
        assert (tmp_path / f"again.{suffix}").read_bytes() == in_training.read_bytes()


@pytest.mark.parametrize("attention", [False, True])
def test_draw_has_the_windows_of_its_attention(make_model, data, attention):
    model = make_model("DRAW", steps=3, attention=attention)
    with evaluating(model):
        figure = CanvasSteps(num_images=4).draw(model, data)["canvas_steps"]
    # one window of each step of a sample, two of a reconstruction
    assert len(figure.axes[0].patches) == (3 * 4 * 3 if attention else 0)


class AsPDF(Callback):
    """Asks for figures as PDF."""

    def on_fit_start(self, trainer, pl_module):
        trainer.figure_style = FigureStyle("pdf")


def test_wandb_gets_the_gif_on_the_axes_of_validation(fit, make_model, tmp_path, offline):
    fit(make_model(kind=Sequential), [AsPDF(), CanvasSteps(num_images=3)], max_epochs=2, logger=offline)
    folder = Path(offline.experiment.dir).parent
    wandb.finish()
    wandb.teardown()  # finish() alone returns before everything is on the disk
    [file] = folder.glob("*.wandb")
    rows = list(wandb_history(file))
    axes = {row["epoch"]: row["trainer/global_step"] for row in rows if "val/bound" in row}
    key = "figures/canvas_steps_animation"
    found = [row for row in rows if f"{key}/path" in row or key in row]
    assert {row["epoch"]: row["trainer/global_step"] for row in found} == axes == {0: 2, 1: 5}
    for epoch, row in enumerate(found, 1):
        media = row.get(key) or {name: row[f"{key}/{name}"] for name in ("_type", "path")}
        assert media["_type"] == "video-file"
        logged, saved = (
            folder / "files" / media["path"],
            tmp_path / f"figures/canvas_steps_animation_epoch000{epoch}.gif",
        )
        assert logged.suffix == ".gif"
        assert logged.read_bytes() == saved.read_bytes()
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".pdf", ".gif"}
