"""python -m results: experiments are trained, evaluated and published, and finished ones are not repeated."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cli import train_options
from models.estimators.ais import Settings
from results import __main__ as results

RECIPE = """# A small VAE.
seed: SEED
model: {name: VAE, init: glorot, beta_warmup: 0, hidden: [8], z_dim: 2}
data: {name: NPZ}
trainer: {max_epochs: 2, enable_progress_bar: false}
callbacks: []
"""


def test_every_row_has_a_recipe_with_valid_options():
    for row in results.ROWS:
        recipe = str(results.RECIPES / f"{row.recipe}.yaml")
        names, flags = train_options.split_component_flags(["--config", recipe])
        train_options.build_parser(names).parse_args(flags)
        assert row.m1 is None or row.m1 in [other.recipe for other in results.ROWS]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two rows with a small recipe, the path of their data, and a folder for runs."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (300, 4, 4), dtype=np.uint8), rng.integers(0, 3, 300)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    for seed, name in enumerate(("one", "two")):
        (tmp_path / f"{name}.yaml").write_text(RECIPE.replace("SEED", str(seed)))
    monkeypatch.setattr(results, "RECIPES", tmp_path)
    monkeypatch.setattr(results, "K", 50)
    monkeypatch.setattr(results, "AIS", Settings(chains=2, temperatures=5, leapfrogs=2))
    return [results.Row("one"), results.Row("two")], str(tmp_path / "data.npz"), tmp_path / "runs"


@pytest.mark.slow
def test_experiments_are_trained_evaluated_and_published(small, tmp_path, capsys, monkeypatch):
    rows, root, runs = small
    for row in rows:
        results.train(row, root, runs)
    trained = [(runs / row.recipe / "checkpoints" / "last.ckpt").stat().st_mtime_ns for row in rows]
    results.publish([results.evaluate_row(row, root, runs, "cpu") for row in rows], tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [Path(result["checkpoint"]).parent.parent.name for result in found] == ["one", "two"]
    for result in found:
        assert (result["num_samples"], result["ais_images"], result["epochs"]) == (50, 30, 2)
        assert result["machine"]
        assert result["seconds"] > 0
        assert result["ais_nll"] == pytest.approx(result["nll"], abs=1)
    assert "mean ± standard error over seeds" in (tmp_path / "out" / "results.md").read_text()
    assert "NLL ± SE" in capsys.readouterr().out
    for row in rows:  # finished runs are not trained again
        results.train(row, root, runs)
    assert [(runs / row.recipe / "checkpoints" / "last.ckpt").stat().st_mtime_ns for row in rows] == trained


def test_unfinished_runs_and_m1_runs_are_not_published(small, monkeypatch):
    rows, _, runs = small
    one, two = rows
    monkeypatch.setattr(results, "ROWS", [one, two, results.Row("three", m1="one")])
    monkeypatch.setattr(results, "is_trained", lambda row, _: row.recipe != "three")
    assert results.finished(runs) == [two]


def test_a_failed_training_ends_the_program(small, monkeypatch):
    (row, _), _, runs = small
    with pytest.raises(SystemExit) as ended:
        results.train(row, "missing.npz", runs)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("argv", "message"), [(["--trained"], "leave --trained out"), (["m1_mnist"], "train that too")]
)
def test_nothing_to_publish_is_an_error(tmp_path, monkeypatch, capsys, argv, message):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    monkeypatch.setattr(results, "train", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["results", "--data.root", str(tmp_path), "--runs", str(tmp_path), *argv])
    assert results.main() == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "message"), [
    (["--data.root", "nowhere"], "there is no folder nowhere/MNIST/raw"), (["vea_mnist"], "unknown recipe vea_mnist"),
])  # fmt: skip
def test_invalid_arguments_are_refused(monkeypatch, capsys, argv, message):
    monkeypatch.setattr(sys, "argv", ["results", *argv])
    with pytest.raises(SystemExit):
        results.main()
    assert message in capsys.readouterr().err
