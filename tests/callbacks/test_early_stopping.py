"""Early stopping: the epoch, the message, and the same step after an interruption."""

import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from small_runs import assert_same, at_steps, command, contents, processes

import train
from callbacks import EarlyStopping, RunCheckpoint
from models import VAE

# with a high learning rate, the bound of this small model soon stops improving
SOON = ["--early_stopping", "2", "--model.lr", "0.05", "--trainer.max_epochs", "60"]


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Scripted(VAE):
    """A model with a given bound in each epoch."""

    bounds = ()

    def measure(self, x, y):
        return super().measure(x, y) | {"bound": torch.full((len(x),), self.bounds[self.current_epoch])}


@pytest.fixture
def epochs(fit, make_model, tmp_path):
    """Train with these bounds, and return the number of trained epochs."""

    def run(bounds, patience=2, **options):
        model = make_model(kind=Scripted)
        model.bounds = bounds
        callbacks = [EarlyStopping(patience), RunCheckpoint(tmp_path, seed=0)]
        trainer = fit(model, callbacks, **{"max_epochs": len(bounds)} | options)
        return trainer.fit_loop.epoch_progress.current.completed

    return run


@pytest.mark.parametrize(("bounds", "patience", "expected"), [
    ([-5, -4, -4, -4.5, 0, 0], 2, 4),
    ([-5, -4, -4, -3, -3, -3.5, 0], 2, 6),
    ([-5, -6, 0], 1, 2),
    ([-5, -4, -3, -2], 1, 4),
    ([-5, float("nan"), -6, 0], 2, 3),  # NaN is no improvement
    ([float("nan"), -5, -6, -7, 0], 2, 4),
])  # fmt: skip
def test_stops_after_validations_without_improvement(epochs, bounds, patience, expected):
    assert epochs([float(bound) for bound in bounds], patience) == expected


def test_prints_the_reason_in_one_line(epochs, capfd):
    epochs([-5.0, -4.0, -4.0, -4.5, 0.0])
    message = [line for line in capfd.readouterr().err.splitlines() if "Early" in line]
    assert message == [
        "Early stopping after epoch 4: val/bound has not improved for 2 validations; the best was -4.00 in epoch 2."
    ]


def test_counts_validations_and_not_epochs(epochs):
    # validated after epochs 2, 4, 6, 8
    assert epochs([0.0, -5.0, 0.0, -6.0, 0.0, -7.0, 0.0, 9.0], check_val_every_n_epoch=2) == 6


def test_an_improvement_during_min_epochs_counts(epochs):
    assert epochs([-5.0, -6.0, -7.0, -4.0, -3.0, -2.0], min_epochs=4) == 6
    assert epochs([-5.0, -6.0, -7.0, -8.0, -3.0, -2.0], min_epochs=4) == 4


def early(capsys):
    """The lines on stderr about early stopping."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("Early stopping")]


@pytest.mark.parametrize("more", [[], ["--steps_per_call", "5"], ["--trainer.check_val_every_n_epoch", "2"],
                                  ["--trainer.min_epochs", "12"]])  # fmt: skip
def test_an_interrupted_run_stops_at_the_same_step(monkeypatch, capsys, more):
    assert train.main(command("whole", "VAE", *SOON, *more)) == 0
    end = contents("whole")["global_step"]
    assert end < 60 * 13
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == end - 16 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", *SOON, *more)) == 143
    capsys.readouterr()
    assert train.main(command("cut", "VAE", *SOON, *more)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()
    message = early(capsys)
    assert len(message) == 1
    # started once more it stays finished, and says the same
    assert train.main(command("cut", "VAE", *SOON, *more)) == 0
    assert early(capsys) == message
    assert_same("whole", "cut")


def test_the_best_checkpoint_is_evaluated_and_the_option_recorded(capsys):
    assert train.main(command("a", "VAE", *SOON, "--num_samples", "2", "--limit", "20")) == 0
    assert "log p(x) of 20 test images" in capsys.readouterr().out
    best, last = (torch.load(f"a/checkpoints/{name}.ckpt", weights_only=True) for name in ("best", "last"))
    assert best["epoch"] == last["epoch"] - 2
    assert last["training"]["early_stopping"] == 2
    assert yaml.safe_load(Path("a/config.yaml").read_text())["early_stopping"] == 2


def test_a_changed_patience_is_a_changed_option(capsys):
    assert train.main(command("a", "VAE", "--early_stopping", "2")) == 0
    assert train.main(command("a", "VAE", "--early_stopping", "3")) == 2
    assert "its --early_stopping is 2, not 3" in capsys.readouterr().err
    assert train.main(command("b")) == 0
    assert train.main(command("b", "VAE", "--early_stopping", "3")) == 2
    assert "its --early_stopping is None, not 3" in capsys.readouterr().err
    # a run that has stopped goes on where more patience is allowed
    assert train.main(command("c", "VAE", *SOON)) == 0
    end = contents("c")["global_step"]
    assert train.main(command("c", "VAE", *SOON, "--early_stopping", "3", "--allow_changes")) == 0
    assert contents("c")["global_step"] > end


@pytest.mark.parametrize(("options", "message"), [
    (["--early_stopping", "0"], "--early_stopping must be at least 1; got 0."),
    (["--early_stopping", "-1"], "--early_stopping must be at least 1; got -1."),
    (["--early_stopping", "2", "--trainer.limit_val_batches", "0"], "--early_stopping needs validation"),
    (["--early_stopping", "2", "--trainer.check_val_every_n_epoch", "9"], "--early_stopping needs validation"),
])  # fmt: skip
def test_invalid_options_are_refused(capsys, options, message):
    assert train.main(command("a", "VAE", *options)) == 2
    assert message in capsys.readouterr().err
    assert not Path("a").exists()


@pytest.mark.slow
def test_two_processes_stop_together():
    options = command("two", "VAE", *SOON, "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    ran = processes(2, "import sys, train; sys.exit(train.main(sys.argv[1:]))", *options)
    assert [status for status, _, _ in ran] == [0, 0], ran
    assert sum("Early stopping after epoch" in message for _, _, message in ran) == 1
    assert contents("two")["callbacks"]["EarlyStopping{'monitor': 'val/bound', 'mode': 'max'}"]["wait_count"] == 2
