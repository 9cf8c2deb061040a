"""Checkpoints, run folders and config.yaml files of commit 5fb90a3 load, resume and evaluate to the same numbers.

`data/5fb90a3/README.md` says how these files were made. The numbers are equal to the bit on the machine and the torch
version that wrote them. The tolerances allow for another order of summation in matrix products, which depends on the
processor and on the torch version: a sum of float32 numbers then differs in its last digits.

The networks of M2 have batch norm. The gradient of a bias in front of a batch norm is zero but for
rounding errors, which Adam scales up to steps of full size. These biases, and the running means that follow them, are
therefore different on another processor, and with them the validation metrics (by 0.001), but not the training losses.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import contents

import evaluate
import models
import train

RECORDED = Path(__file__).parent / "data" / "5fb90a3"
RUNS = ("vae", "m2", "hierarchical")
# Options that are newer than these runs, with the values that the runs had
NEWER = {
    "vae": ["--model.init", "glorot"],
    "m2": ["--model.share_noise", "false"],
    "hierarchical": ["--model.init", "glorot"],
}
# Of evaluation.json, what does not depend on where and how fast it was computed
EXACT = (
    "model",
    "data",
    "protocol",
    "seed",
    "quantity",
    "num_samples",
    "num_images",
    "precision",
    "active_units",
    "epochs",
    "step",
    "labels_hash",
    "images_hash",
)
MEASURED = ("nll", "nll_se", "elbo", "rate", "distortion")
# Weights and metrics of M2 that depend on rounding errors, see above; nats per image, and shares of images
ROUNDING_WEIGHTS = ("encoder.first.1.bias", "encoder.rest.0.running_mean", "decoder.first.bias",
                    "decoder.rest.0.running_mean", "classifier.first.1.bias",
                    "classifier.rest.0.running_mean")  # fmt: skip
ROUNDING_METRICS = 0.01


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def copy_of_run(name: str) -> Path:
    """Copy a recorded run folder of 2 epochs into the current folder, complete with best.ckpt."""
    folder = Path(shutil.copytree(RECORDED / "2_epochs" / name, name))
    best = folder / "checkpoints" / "best.ckpt"
    if not best.exists():  # left out of the test data because it has the same weights
        shutil.copy(best.with_name("last.ckpt"), best)
    return folder


def read_metrics(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_metrics(folder: Path, recorded: list[dict], name: str):
    rows = read_metrics(folder)
    assert len(rows) == len(recorded)
    for row, other in zip(rows, recorded, strict=True):
        assert row.keys() == other.keys()
        for metric, value in other.items():
            depends_on_rounding = name == "m2" and metric.startswith("val/")
            tolerance = ROUNDING_METRICS if depends_on_rounding else 1e-6
            if value == "":
                assert row[metric] == "", metric
            else:
                expected = pytest.approx(float(value), rel=1e-6, abs=tolerance)
                assert float(row[metric]) == expected, f"{metric} at step {row['step']}"


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_loads_and_its_model_works(name):
    recorded = torch.load(RECORDED / "2_epochs" / name / "checkpoints" / "last.ckpt", weights_only=True)
    model = models.load(RECORDED / "2_epochs" / name / "checkpoints" / "last.ckpt")
    assert type(model).__name__ == recorded["model"]
    assert all(torch.equal(value, recorded["state_dict"][key]) for key, value in model.state_dict().items())
    x = torch.rand(3, 1, 8, 8).round()
    for images in (model.reconstruct(x), model.sample(3)):
        assert images.shape == x.shape
        assert images.min() >= 0
        assert images.max() <= 1


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_evaluates_to_the_same_numbers(name):
    folder = copy_of_run(name)
    (folder / "evaluation.json").unlink()
    (folder / "log_px.npy").unlink()
    assert evaluate.main([str(folder), "--num_samples", "50", "--figures", "[]"]) == 0
    result = json.loads((folder / "evaluation.json").read_text())
    recorded = json.loads((RECORDED / "2_epochs" / name / "evaluation.json").read_text())
    assert recorded.keys() <= result.keys()
    assert {key: result[key] for key in EXACT} == {key: recorded[key] for key in EXACT}
    assert {key: result[key] for key in MEASURED} == pytest.approx({key: recorded[key] for key in MEASURED}, rel=1e-6)
    log_px, log_px_recorded = np.load(folder / "log_px.npy"), np.load(RECORDED / "2_epochs" / name / "log_px.npy")
    np.testing.assert_allclose(log_px, log_px_recorded, rtol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_resumes_to_what_an_uninterrupted_run_has(name):
    folder = copy_of_run(name)
    config = str(RECORDED / "2_epochs" / name / "config.yaml")
    more = ["--trainer.max_epochs", "4", "--num_samples", "0"]
    assert train.main(["--config", config, "--run_dir", str(folder), "--resume", "auto", *more]) == 0
    uninterrupted = RECORDED / "4_epochs" / name
    assert_same_metrics(folder, read_metrics(uninterrupted), name)
    weights = contents(folder)["state_dict"]
    with np.load(uninterrupted / "weights.npz") as recorded:
        assert set(recorded.files) == set(weights)
        for key, value in weights.items():
            if name != "m2" or key not in ROUNDING_WEIGHTS:
                np.testing.assert_allclose(value.numpy(), recorded[key], rtol=1e-5, atol=1e-5, err_msg=key)


def test_options_on_the_command_line_resume_a_run_folder():
    """Without its config.yaml, an old run needs `--model.beta_warmup 0`, as CHANGELOG.md says."""
    folder = copy_of_run("vae")
    argv = ["--data", "Digits", "--model.hidden", "[16]", "--model.z_dim", "4", "--model.beta", "0.2",
            "--model.lr", "0.003", "--model.beta_warmup", "0", "--num_samples", "0", "--callbacks", "[]",
            "--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false",
            "--trainer.max_epochs", "4"]  # fmt: skip
    assert train.main([*argv, "--run_dir", str(folder), "--resume", "auto"]) == 0
    assert_same_metrics(folder, read_metrics(RECORDED / "4_epochs" / "vae"), "vae")


@pytest.mark.parametrize("name", RUNS)
def test_a_config_trains_to_the_same_losses(name):
    config = str(RECORDED / "2_epochs" / name / "config.yaml")
    argv = ["--config", config, "--run_dir", "again", "--trainer.max_epochs", "1", "--num_samples", "0"]
    assert train.main([*argv, *NEWER[name]]) == 0
    recorded = [row for row in read_metrics(RECORDED / "2_epochs" / name) if row["epoch"] == "0"]
    assert_same_metrics(Path("again"), recorded, name)


def test_a_config_without_init_gets_the_initial_weights_of_today():
    """config.yaml of 5fb90a3 says nothing about `init`, so a new run with it starts from other weights."""
    config = str(RECORDED / "2_epochs" / "vae" / "config.yaml")
    argv = ["--config", config, "--run_dir", "again", "--trainer.max_epochs", "1", "--num_samples", "0"]
    assert train.main(argv) == 0
    assert "init: default" in Path("again/config.yaml").read_text()
    assert "beta_warmup: 0" in Path("again/config.yaml").read_text()
