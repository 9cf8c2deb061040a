"""--steps_per_call: bit-identical steps; signals, checkpoints and logs come at the end of a call."""

import csv
import os
import signal
from pathlib import Path

import pytest
from small_runs import assert_same, at_steps, command, contents, uninterrupted

import train
from models import VAE


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(folder, column):
    with Path(folder, "metrics.csv").open() as file:
        return {int(row["step"]): row[column] for row in csv.DictReader(file) if row[column]}


@pytest.mark.parametrize("size", ["5", "100"])  # neither divides an epoch's 13 or 14 steps
@pytest.mark.parametrize("kind", ["VAE", "M2"])
def test_multistep_training_is_bit_identical(kind, size):
    more = ["--model.lr_final", "1e-4"]
    assert train.main(command("one", kind, *more)) == 0
    assert train.main(command("many", kind, *more, "--steps_per_call", size)) == 0
    assert_same("one", "many")
    for column in ("val/bound", "train/lr"):
        assert rows("one", column) == rows("many", column)


@pytest.mark.parametrize("more", [
    ["--trainer.precision", "bf16-mixed"],
    ["--trainer.precision", "bf16-mixed", "--model", "AffineVAE"],  # a part of its decoder runs in fp32
    ["--model.beta_warmup", "2"],
])  # fmt: skip
def test_multistep_training_is_bit_identical_in_bf16_and_during_the_warm_up(more):
    assert train.main(command("one", "VAE", *more)) == 0
    assert train.main(command("many", "VAE", *more, "--steps_per_call", "5")) == 0
    assert_same("one", "many")


def test_a_per_step_learning_rate_changes_within_a_call():
    more = ["--trainer.max_steps", "17", "--model.lr_final", "1e-5"]
    assert train.main(command("one", "VAE", *more)) == 0
    assert train.main(command("many", "VAE", *more, "--steps_per_call", "5")) == 0
    assert_same("one", "many")
    assert float(rows("many", "train/lr")[16]) == pytest.approx(1e-5)


def test_a_per_step_learning_rate_is_the_same_after_an_interruption(monkeypatch):
    more = ["--trainer.max_steps", "30", "--model.lr_final", "1e-5"]
    assert train.main(command("whole", "VAE", *more)) == 0
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 16 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", *more)) == 143
    assert train.main(command("cut", "VAE", *more)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_logged_rows_have_the_last_step_of_a_call():
    assert train.main(command("a", "VAE", "--steps_per_call", "5")) == 0
    assert list(rows("a", "train/loss")) == [4, 9, 12, 17, 22, 25, 30, 35, 38]


def test_the_logged_loss_is_the_mean_over_the_steps_of_a_call():
    assert train.main(command("one")) == 0
    assert train.main(command("many", "VAE", "--steps_per_call", "5")) == 0
    one, many = rows("one", "train/loss"), rows("many", "train/loss")
    assert float(many[9]) == pytest.approx(sum(float(one[step]) for step in range(5, 10)) / 5, rel=1e-6)


def test_a_signal_waits_for_the_end_of_a_call(monkeypatch):
    many = ["--steps_per_call", "5"]
    assert train.main(command("whole", "VAE", *many)) == 0
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda step: step == 14 and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", *many)) == 143
    assert contents("cut")["global_step"] == 18
    assert train.main(command("cut", "VAE", *many)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_checkpoints_are_written_after_the_call_in_which_they_are_due(monkeypatch):
    saved = []
    monkeypatch.setattr("callbacks.RunCheckpoint.save_last", lambda self, trainer: saved.append(trainer.global_step))
    train.main(["--save_every_steps", "7", *command("a", "VAE", "--steps_per_call", "5", "--save_every_steps", "7")])
    assert saved[:5] == [10, 13, 18, 23, 26]


def test_max_steps_ends_training_within_a_call():
    assert train.main(command("one", "VAE", "--trainer.max_steps", "17")) == 0
    assert train.main(command("many", "VAE", "--trainer.max_steps", "17", "--steps_per_call", "5")) == 0
    assert contents("many")["global_step"] == 17
    assert_same("one", "many")


@pytest.mark.parametrize("options", [
    ["--trainer.accumulate_grad_batches", "2"], ["--trainer.gradient_clip_val", "1"],
    ["--trainer.limit_train_batches", "3"], ["--trainer.val_check_interval", "5"],
    ["--trainer.min_steps", "17", "--early_stopping", "1", "--model.lr", "0.5"],
])  # fmt: skip
def test_features_that_need_single_steps_disable_multistep_training(capsys, options):
    assert train.main(command("a", "VAE", *options)) == 0
    assert train.main(command("b", "VAE", *options, "--steps_per_call", "5")) == 0
    assert f"warning: --steps_per_call is set to 1, as {options[0]} requires." in capsys.readouterr().err
    assert_same("a", "b")


@pytest.mark.parametrize("more", [[], ["--trainer.max_steps", "30", "--model.lr_final", "1e-5"]])
@pytest.mark.parametrize(("first", "second", "step"), [
    ("4", "5", 16), ("1", "5", 16), ("5", "1", 16), ("3", "100", 13), ("1", "4", 25),  # 13 steps per epoch
])  # fmt: skip
def test_steps_per_call_may_change_at_any_step(monkeypatch, first, second, step, more):
    uninterrupted("whole", "VAE", "--steps_per_call", "1", *more)
    with monkeypatch.context() as patch:
        at_steps(patch, VAE, lambda now: now == step and os.kill(os.getpid(), signal.SIGTERM))
        assert train.main(command("cut", "VAE", "--steps_per_call", first, *more)) == 143
    assert train.main(command("cut", "VAE", "--steps_per_call", second, *more)) == 0
    assert_same("whole", "cut")
    for column in ("val/bound", "train/lr"):
        assert rows("whole", column) == rows("cut", column)


def test_steps_per_call_may_change_between_epochs():
    no_warm_up = ["--model.beta_warmup", "0"]  # its length depends on that of the run
    for epochs, steps in (("1", "4"), ("2", "5"), ("3", "1")):
        more = ["--steps_per_call", steps, "--trainer.max_epochs", epochs, *no_warm_up]
        assert train.main(command("cut", "VAE", *more)) == 0
    uninterrupted("whole", "VAE", "--steps_per_call", "5", *no_warm_up)
    assert_same("whole", "cut")


@pytest.mark.parametrize("steps", ["1", "5", "100"])
def test_a_run_that_max_steps_has_ended_goes_on_with_the_next_batch(steps):
    options = ["--steps_per_call", steps, "--model.beta_warmup", "0"]
    assert train.main(command("cut", "VAE", *options, "--trainer.max_steps", "17")) == 0
    assert train.main(command("cut", "VAE", *options, "--trainer.max_steps", "30")) == 0
    uninterrupted("whole", "VAE", *options, "--trainer.max_steps", "30")
    assert_same("whole", "cut")


def test_steps_per_call_below_1_is_refused(capsys):
    assert train.main(command("a", "VAE", "--steps_per_call", "0")) == 2
    assert "--steps_per_call must be auto or at least 1; got 0." in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_loss_has_the_same_noise_and_nearly_the_same_values_for_200_steps():
    more = ["--steps_per_call", "5", "--trainer.max_epochs", "16"]
    assert train.main(command("eager", "VAE", *more)) == 0
    assert train.main(command("compiled", "VAE", *more, "--compile")) == 0
    eager, compiled = (rows(folder, "train/loss") for folder in ("eager", "compiled"))
    assert max(eager) == 207
    assert eager.keys() == compiled.keys()
    assert all(float(compiled[step]) == pytest.approx(float(eager[step]), rel=1e-3) for step in eager)
    assert eager != compiled
