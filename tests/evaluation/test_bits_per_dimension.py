"""Bits per dimension of grey images, from the function to train.py, evaluate.py and evaluation.json."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate
import train
from evaluation.metrics import bits_per_dimension
from evaluation.schema import Evaluation
from evaluation.tables import tables

QUICK = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "1",
    "--num_samples",
    "20",
    "--callbacks",
    "[]",
]


def test_levels_and_dequantised_pixels():
    levels = SimpleNamespace(protocol="levels", image_shape=(3, 2, 2))
    found = bits_per_dimension(24 * math.log(2), 12 * math.log(2), levels)
    assert found == {"bits_per_dim": pytest.approx(2), "bits_per_dim_se": pytest.approx(1)}
    # a uniform density on [0, 1) is a uniform distribution over 256 levels
    grey = SimpleNamespace(protocol="grey", image_shape=(1, 2, 2))
    assert bits_per_dimension(0.0, None, grey) == {"bits_per_dim": 8, "bits_per_dim_se": None}
    assert bits_per_dimension(1.0, None, SimpleNamespace(protocol="dynamic", image_shape=(1, 2, 2))) == {}


def test_only_tables_of_grey_images_have_the_column():
    result = Evaluation(quantity="log p(x)", num_samples=2, num_images=3, nll=5.0, nll_se=0.1, protocol="dynamic")
    assert "bits/dim" not in tables([result])
    result.protocol, result.bits_per_dim, result.bits_per_dim_se = "levels", 1.25, 0.01
    assert "bits/dim" in tables([result])
    assert "1.250 ± 0.010" in tables([result])


@pytest.mark.parametrize("likelihood", ["continuous_bernoulli", "discretized_logistic"])
def test_train_and_evaluate_report_the_same(tmp_path, monkeypatch, capsys, likelihood):
    monkeypatch.chdir(tmp_path)
    assert train.main([*QUICK, "--model.likelihood", likelihood, "--run_dir", "run"]) == 0
    trained = capsys.readouterr().out
    stored = json.loads(Path("run", "evaluation.json").read_text())
    offset = 8 if likelihood == "continuous_bernoulli" else 0
    assert stored["bits_per_dim"] == pytest.approx(stored["nll"] / (64 * math.log(2)) + offset)
    assert f"{stored['bits_per_dim']:.3f}" in trained
    assert evaluate.main(["run", "--num_samples", "20", "--figures", "[]"]) == 0
    assert f"{stored['bits_per_dim']:.3f}" in capsys.readouterr().out
    assert json.loads(Path("run", "evaluation.json").read_text())["nll"] == stored["nll"]
    data = torch.load("run/checkpoints/best.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert data["binarization"] == ("grey" if offset else "levels")
