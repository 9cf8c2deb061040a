"""The moving average of the weights: its values, who uses it, and the same bits after an interruption."""

import os
import signal
from pathlib import Path

import pytest
import torch
from small_runs import assert_same as assert_same_average
from small_runs import at_steps, command, contents, uninterrupted
from torch import nn

import models
import train
from callbacks import EMA, PowersOfTwoCallback, RunCheckpoint, StepRNG
from callbacks.ema import MovingAverage, decay_after
from models import VAE

AVERAGED = ["--ema", "0.9"]


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def assert_same(folder, other):
    """Assert that the last checkpoints of two runs have equal averages, weights and optimizer states."""
    assert_same_average(folder, other)
    a, b = contents(folder), contents(other)
    assert a["averaging_state"] == b["averaging_state"]
    assert a["averaging_state"]["n_averaged"] == a["global_step"]
    for key, value in a["current_model_state"].items():
        assert torch.equal(value, b["current_model_state"][key]), key
    assert any(not torch.equal(value, a["state_dict"][key]) for key, value in a["current_model_state"].items())


def test_the_decay_grows_to_its_final_value():
    assert [decay_after(t, 0.999) for t in (0, 1, 8, 90)] == [1 / 10, 2 / 11, 9 / 18, 91 / 100]
    assert decay_after(8980, 0.999) < decay_after(8990, 0.999) == decay_after(10**6, 0.999) == 0.999


def test_the_average_of_the_first_steps():
    model = nn.Linear(1, 1, bias=False)
    average = MovingAverage(model, torch.device("cpu"), decay=0.25)
    expected = None
    for t, value in enumerate([5.0, 2.0, -3.0, 7.0]):
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
        decay = min(0.25, (1 + t) / (10 + t))  # 2/11, 3/12, then 0.25
        expected = value if t == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
        assert model.weight.item() == value


def test_running_statistics_are_averaged_and_other_buffers_copied():
    model = nn.Sequential(nn.BatchNorm1d(1))
    model.register_buffer("limits", torch.tensor([-torch.inf, torch.inf]))
    model.register_buffer("count", torch.tensor(0))
    average = MovingAverage(model, torch.device("cpu"), decay=0.5)
    means = []
    for _ in range(3):
        model(torch.randn(8, 1))
        model.count += 10
        average.update_parameters(model)
        means.append(model[0].running_mean.item())
    expected = means[0]
    for t, mean in enumerate(means[1:], start=1):
        expected = decay_after(t, 0.5) * expected + (1 - decay_after(t, 0.5)) * mean
    assert average.module[0].running_mean.item() == pytest.approx(expected, rel=1e-6)
    assert average.module[0].num_batches_tracked == 3
    assert average.module.count == 30
    assert average.module.limits.tolist() == [-torch.inf, torch.inf]


def test_checkpoints_hold_the_average_by_hand(fit, make_model, tmp_path):
    seen = []

    class Watched(VAE):
        def on_train_batch_end(self, *args):
            seen.append([parameter.detach().clone() for parameter in self.parameters()])

    fit(make_model(kind=Watched), [EMA(0.25), RunCheckpoint(tmp_path, seed=0)], max_epochs=2)
    assert len(seen) == 6
    average = seen[0]
    for t, weights in enumerate(seen[1:], start=1):
        decay = decay_after(t, 0.25)
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    names = [name for name, _ in make_model().named_parameters()]
    for name, value, weights in zip(names, average, seen[-1], strict=True):
        torch.testing.assert_close(checkpoint["state_dict"][name], value)
        assert torch.equal(checkpoint["current_model_state"][name], weights)


@pytest.mark.parametrize("kind", ["VAE", "M2"])
@pytest.mark.parametrize("size", ["5", "100"])
def test_the_average_does_not_depend_on_the_steps_per_call(kind, size):
    uninterrupted("one", kind, *AVERAGED, "--steps_per_call", "1")
    uninterrupted("many", kind, *AVERAGED, "--steps_per_call", size)
    assert_same("one", "many")


def test_the_average_does_not_change_training():
    uninterrupted("averaged", "VAE", *AVERAGED)
    uninterrupted("plain", "VAE")
    plain = contents("plain")
    for key, value in contents("averaged")["current_model_state"].items():
        assert torch.equal(value, plain["state_dict"][key]), key


@pytest.mark.parametrize("kind", ["VAE", "M2"])
@pytest.mark.parametrize("size", ["1", "5"])
@pytest.mark.parametrize("step", [20, 25])  # in mid-epoch, and in the last step of an epoch of VAE
def test_interrupted_equals_uninterrupted(monkeypatch, kind, size, step):
    more = [*AVERAGED, "--steps_per_call", size]
    uninterrupted("whole", kind, *more)
    with monkeypatch.context() as patch:
        at_steps(patch, models.MODELS[kind], lambda now: now == step and os.kill(os.getpid(), signal.SIGUSR1))
        assert train.main(command("cut", kind, *more)) == 128 + signal.SIGUSR1
    assert train.main(command("cut", kind, *more)) == 0
    assert_same("whole", "cut")
    assert Path("whole/metrics.csv").read_text() == Path("cut/metrics.csv").read_text()


def test_validation_figures_and_loaded_models_use_the_average(fit, make_model, memory, data, tmp_path):
    class Look(PowersOfTwoCallback):
        def act(self, trainer, model):
            looks.append({key: value.clone() for key, value in model.state_dict().items()})

    looks, saved = [], []

    class Saving(RunCheckpoint):
        def save_last(self, trainer):
            super().save_last(trainer)
            saved.append(torch.load(self.last, weights_only=True)["state_dict"])

    log = memory()
    callbacks = [EMA(0.9), StepRNG(0), Look(), Saving(tmp_path, seed=0)]
    fit(make_model("AE"), callbacks, max_epochs=3, logger=log)
    assert len(looks) == 3  # after epochs 1 and 2, and at the end
    for look, average in zip(looks, saved, strict=True):
        assert all(torch.equal(value, average[key]) for key, value in look.items())
    model = models.load(tmp_path / "checkpoints/last.ckpt")
    x, y = data.images("val")
    measured = model.validation_metrics(x, y)["bound"].mean().item()  # of an AE: without noise
    assert log.of("val/bound")[-1][2] == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize("decay", ["0", "1", "-0.5"])
def test_a_decay_out_of_range_is_refused(capsys, decay):
    assert train.main(command("a", "VAE", "--ema", decay)) == 2
    assert "--ema must be between 0 and 1, such as 0.999; got " in capsys.readouterr().err


def test_a_run_with_another_decay_is_not_resumed(capsys):
    uninterrupted("a", "VAE", *AVERAGED)
    longer = ["--trainer.max_epochs", "4"]
    for more, now in ((["--ema", "0.5"], "0.5"), ([], "None")):
        assert train.main(command("a", "VAE", *more, *longer)) == 2
        assert f"its --ema is 0.9, not {now}" in capsys.readouterr().err


def test_without_the_average_a_run_continues_with_its_weights():
    """Averaging changes no weights, so that a run that drops the average ends like one that never had it."""
    options = ["--model.beta_warmup", "1"]  # by default it depends on the number of epochs
    whole = ["--trainer.max_epochs", "4"]
    uninterrupted("plain", "VAE", *options, *whole)
    uninterrupted("dropped", "VAE", *options, *AVERAGED)
    assert train.main(command("dropped", "VAE", *options, *whole, "--allow_changes")) == 0
    assert_same_average("plain", "dropped")
    assert "averaging_state" not in contents("dropped")


def test_an_average_may_begin_in_a_resumed_run():
    uninterrupted("late", "VAE")
    assert train.main(command("late", "VAE", *AVERAGED, "--trainer.max_epochs", "4", "--allow_changes")) == 0
    assert contents("late")["averaging_state"]["n_averaged"] == 13  # steps of one epoch


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_can_be_averaged(fit, make_model, tmp_path, name):
    fit(make_model(name), [EMA(0.9), RunCheckpoint(tmp_path, seed=0)], max_epochs=1)
    checkpoint = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    average, weights = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert checkpoint["averaging_state"]["n_averaged"] == 3
    model = make_model(name)
    model.load_state_dict(average)
    for key, parameter in model.named_parameters():
        assert torch.equal(average[key], weights[key]) != parameter.requires_grad, key


def test_m1_is_the_average():
    assert train.main(command("m1", "VAE", *AVERAGED)) == 0
    stack = ["--data.num_labels", "50", "--model", "M1M2", "--model.m1", "m1", "--trainer.max_epochs", "1"]
    assert train.main(command("m1m2", "VAE", *stack)) == 0
    m1, m1m2 = torch.load("m1/checkpoints/best.ckpt", weights_only=True), contents("m1m2")
    for key, value in m1["state_dict"].items():
        assert torch.equal(value, m1m2["state_dict"][f"m1.{key}"]), key


def test_damaged_training_weights_are_not_resumed(capsys):
    uninterrupted("a", "VAE", *AVERAGED)
    checkpoint = contents("a")
    next(iter(checkpoint["current_model_state"].values())).fill_(torch.nan)
    torch.save(checkpoint, "damaged.ckpt")
    longer = ["--trainer.max_epochs", "4", "--resume", "damaged.ckpt"]
    assert train.main(command("b", "VAE", *AVERAGED, *longer)) == 2
    assert "its weights are not finite" in capsys.readouterr().err
