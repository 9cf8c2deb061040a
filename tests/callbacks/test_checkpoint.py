import math

import pytest
import torch
from pytorch_lightning import Callback

import models
from callbacks import RunCheckpoint
from models import VAE


class Scripted(VAE):
    """A model with a given bound in each epoch."""

    bounds = ()

    def measure(self, x, y):
        return super().measure(x, y) | {"bound": torch.full((len(x),), self.bounds[self.current_epoch])}


class Weights(Callback):
    """Record the weights after each epoch."""

    def __init__(self):
        self.of_epoch = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.of_epoch.append({key: value.clone() for key, value in pl_module.state_dict().items()})


@pytest.fixture
def run(fit, make_model, tmp_path):
    """Train with given bounds; return the folder of checkpoints and the weights of each epoch."""

    def run(bounds, folder=tmp_path, **options):
        model = make_model(kind=Scripted)
        model.bounds = bounds
        weights = Weights()
        fit(model, [weights, RunCheckpoint(folder, seed=7)], max_epochs=len(bounds), **options)
        return folder / "checkpoints", weights.of_epoch

    return run


def same(checkpoint, weights):
    return all(torch.equal(checkpoint["state_dict"][key], weights[key]) for key in weights)


def load(path):
    return torch.load(path, weights_only=True)


def test_best_is_the_best_epoch_and_last_the_last(run):
    folder, weights = run([-3.0, -1.0, -2.0])
    best, last = load(folder / "best.ckpt"), load(folder / "last.ckpt")
    assert same(best, weights[1])
    assert not same(best, weights[2])
    assert same(last, weights[2])
    assert (best["epoch"], last["epoch"]) == (1, 2)


def test_there_are_three_files_and_no_more(run):
    folder, weights = run([-3.0, -2.0, -1.0, -2.0])
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert same(load(folder / "previous.ckpt"), weights[2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_a_finite_bound_is_the_best(run, bad):
    folder, weights = run([bad, -2.0, bad, -3.0])
    assert same(load(folder / "best.ckpt"), weights[1])


def test_without_a_finite_bound_there_is_no_best(run, tmp_path):
    run([math.nan, math.nan])
    checkpoint = RunCheckpoint(tmp_path, seed=7)
    assert checkpoint.best_model_path == ""
    assert checkpoint.last_model_path == str(tmp_path / "checkpoints" / "last.ckpt")


def test_no_paths_before_training(tmp_path):
    assert RunCheckpoint(tmp_path, seed=7).best_model_path == RunCheckpoint(tmp_path, seed=7).last_model_path == ""


def test_an_epoch_without_validation_is_not_the_best(run):
    folder, weights = run([-3.0, -2.0, -1.0], check_val_every_n_epoch=2)
    assert same(load(folder / "best.ckpt"), weights[1])
    assert same(load(folder / "last.ckpt"), weights[2])


def test_checkpoints_know_their_run(run):
    folder, _ = run([-1.0])
    for name in ("best.ckpt", "last.ckpt"):
        expected = {"data": "Digits", "protocol": "dynamic", "seed": 7, "labels_hash": None, "processes": 1}
        assert load(folder / name)["run"] == expected


def test_checkpoints_know_how_they_were_made(run, monkeypatch):
    monkeypatch.setattr("callbacks.checkpoint.commit", lambda: "a1")
    folder, _ = run([-1.0, -2.0])
    best, first = (load(folder / name)["made"] for name in ("best.ckpt", "last.ckpt"))
    assert first["commit"] == ["a1"]
    assert len(first["machine"]) == 1
    assert f"torch {torch.__version__}" in first["machine"][0]
    assert 0 < best["seconds"] < first["seconds"]
    monkeypatch.setattr("callbacks.checkpoint.commit", lambda: "b2")
    run([-1.0, -2.0, -3.0], ckpt_path=folder / "last.ckpt")
    then = load(folder / "last.ckpt")["made"]
    assert then["commit"] == ["a1", "b2"]  # it was begun by one and ended by the other
    assert then["machine"] == first["machine"]
    assert then["seconds"] > first["seconds"]
    monkeypatch.setattr("callbacks.checkpoint.commit", lambda: None)  # of an installed package, say
    assert load(run([-1.0], folder=folder.parent / "other")[0] / "last.ckpt")["made"]["commit"] == []


def test_the_model_loads_from_the_file(fit, make_model, tmp_path):
    trained = make_model("IWAE")
    fit(trained, [RunCheckpoint(tmp_path, seed=7)], max_epochs=1)
    loaded = models.load(tmp_path / "checkpoints" / "best.ckpt")
    assert type(loaded) is models.IWAE
    assert same({"state_dict": loaded.state_dict()}, trained.state_dict())


def test_a_resumed_run_keeps_its_best(run):
    folder, weights = run([-3.0, -1.0])
    run([-3.0, -1.0, -2.0], ckpt_path=folder / "last.ckpt")
    assert same(load(folder / "best.ckpt"), weights[1])
    assert load(folder / "last.ckpt")["epoch"] == 2


def test_a_run_resumed_in_another_folder_has_a_best_there(run, tmp_path):
    folder, _ = run([-3.0, -1.0])
    other, weights = run([-3.0, -1.0, -2.0], folder=tmp_path / "other", ckpt_path=folder / "last.ckpt")
    assert same(load(other / "best.ckpt"), weights[-1])


def test_an_interrupted_save_keeps_the_previous_file(run, monkeypatch):
    folder, weights = run([-1.0])

    def break_off(self, path, weights_only=False):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("pytorch_lightning.Trainer.save_checkpoint", break_off)
    with pytest.raises(SystemExit):
        run([-1.0, 0.0], ckpt_path=folder / "last.ckpt")
    assert same(load(folder / "best.ckpt"), weights[0])
    assert same(load(folder / "last.ckpt"), weights[0])
