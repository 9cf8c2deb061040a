"""Cyclical annealing of beta: its shape, the loss of each step, resumed runs."""

import csv
import os
import signal
from pathlib import Path

import pytest
from small_runs import assert_same, at_steps, command, contents, uninterrupted

import train
from models import VAE
from models.bound_model import cyclical_factor

CYCLES = ["--model.beta_cycles", "3"]  # of 13 steps each


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_shape_of_a_cycle():
    assert [cyclical_factor(step, 8, 3) for step in range(9)] == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 0]
    assert [cyclical_factor(step, 8, 3) for step in (16, 18, 20, 23)] == [0, 0.5, 1, 1]
    assert [cyclical_factor(step, 8, 3) for step in (24, 25, 1000)] == [1, 1, 1]  # after the last cycle
    assert [cyclical_factor(step, 5, 2) for step in range(6)] == [0, 0.4, 0.8, 1, 1, 0]


def test_the_loss_has_the_beta_of_its_step(fit, binary):
    class Told(VAE):
        def loss(self, x, y):
            seen.append(self.kl_weight.item())
            warming_up.append(self.is_kl_warming_up())
            return super().loss(x, y)

    seen, warming_up = [], []
    model = Told((1, 8, 8), hidden=[16], beta=0.5, beta_cycles=2)
    fit(model, [binary(8)] * 4, max_epochs=4)
    assert seen == [0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5] * 2
    assert warming_up == [True] * 12 + [False] * 4
    assert not VAE((1, 8, 8), hidden=[16], beta_cycles=2).is_kl_warming_up()  # without a Trainer


def test_cycles_do_not_depend_on_the_steps_per_call():
    uninterrupted("one", "VAE", *CYCLES, "--steps_per_call", "1")
    uninterrupted("many", "VAE", *CYCLES, "--steps_per_call", "5")
    assert_same("one", "many")
    uninterrupted("plain", "VAE", "--model.beta_warmup", "0")
    with pytest.raises(AssertionError):
        assert_same("one", "plain")


def test_interrupted_equals_uninterrupted(monkeypatch):
    uninterrupted("whole", "VAE", *CYCLES)
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 16 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", *CYCLES)) == 143
    assert train.main(command("cut", "VAE", *CYCLES)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_a_run_that_is_extended_keeps_its_cycles():
    """After the last cycle, beta stays at its final value."""
    uninterrupted("a", "VAE", *CYCLES)
    assert contents("a")["cycle_steps"] == 13
    assert train.main(command("a", "VAE", *CYCLES, "--trainer.max_epochs", "5")) == 0
    assert contents("a")["cycle_steps"] == 13
    with Path("a/metrics.csv").open() as file:
        betas = [float(row["train/beta"]) for row in csv.DictReader(file) if row["train/beta"]]
    assert betas == [0, 0, 1, 1, 1]  # of the step after each epoch


@pytest.mark.parametrize(("limits", "sentence"), [
    (["--trainer.max_epochs", "-1"], "beta_cycles needs a number of epochs or steps"),
    (["--trainer.max_time", "00:00:01:00"], "beta_cycles needs a known number of steps"),
])  # fmt: skip
def test_runs_whose_cycles_have_no_length_are_refused(capsys, limits, sentence):
    assert train.main(command("a", "VAE", *CYCLES, *limits)) == 2
    assert sentence in capsys.readouterr().err


def test_cycles_of_one_step_are_reported(fit, binary):
    model = VAE((1, 8, 8), hidden=[4], beta_cycles=3)
    with pytest.warns(UserWarning, match="beta_cycles is 3 and the run has 2 steps: beta is 0 in all of them"):
        fit(model, [binary(2)], max_epochs=2)
