"""A sweep skips the runs that have been trained to their end and evaluated with the same options."""

import shutil

import pytest
import torch

import train
from sweep.runs import Run
from sweep.validation import check_runs

OPTIONS = ["--data=Digits", "--model.hidden=[8]", "--trainer.max_epochs=2", "--num_samples=2", "--callbacks=[]",
           "--limit=20", "--trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main([*OPTIONS, "--trainer.enable_progress_bar=false", "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    """Return a function that says whether a copy of the finished run, after `change(folder)`, is finished."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)

    def ask(*more, change=lambda folder: None):
        change(folder)
        return check_runs([Run("run", folder, [*OPTIONS, *more])], for_this_machine=True) == [True]

    return ask


@pytest.mark.parametrize("more", [[], ["--threads=3"], ["--steps_per_call=3"], ["--evaluate=best"]])
def test_a_run_with_the_same_options_is_finished(finished, more):
    assert finished(*more)


@pytest.mark.parametrize(
    "more", [["--trainer.max_epochs=3"], ["--num_samples=3"], ["--model.lr=0.1"], ["--limit=30"], ["--evaluate=last"]]
)
def test_a_run_with_other_options_is_not(finished, more):
    assert not finished(*more)


def damage(folder):
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"damaged")


def rewind(folder):
    """Pretend that the last checkpoint was written after the first epoch."""
    file = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] = 1
    torch.save(checkpoint, file)


def other_weights(folder):
    """Replace the evaluated checkpoint, as a run does that goes on after an evaluation."""
    file = folder / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(1)
    torch.save(checkpoint, file)


CHANGES = {
    "no folder": shutil.rmtree,
    "no options": lambda folder: (folder / "config.yaml").unlink(),
    "damaged options": lambda folder: (folder / "config.yaml").write_text("- a"),
    "no result": lambda folder: (folder / "evaluation.json").unlink(),
    "damaged result": lambda folder: (folder / "evaluation.json").write_text("{}"),
    "damaged checkpoint": damage,
    "not trained to the end": rewind,
    "result of other weights": other_weights,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_incomplete_run_is_not_finished(finished, change):
    assert not finished(change=change)


def test_early_stopping_ends_a_run(finished, tmp_path):
    options = ["--early_stopping=1", "--trainer.max_epochs=50", "--model.lr=1e-12"]
    folder = tmp_path / "stopped"
    assert train.main([*OPTIONS, *options, "--trainer.enable_progress_bar=false", "--run_dir", str(folder)]) == 0
    assert len((folder / "metrics.csv").read_text().splitlines()) < 50  # it stopped before the last epoch
    assert check_runs([Run("run", folder, [*OPTIONS, *options])], for_this_machine=True) == [True]
