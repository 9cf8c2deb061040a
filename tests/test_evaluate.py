"""evaluate.py: what it writes, what it prints, what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train

QUICK = ["--model.hidden", "[8]", "--trainer.max_epochs", "1", "--num_samples", "0", "--callbacks", "[]",
         "--trainer.enable_progress_bar", "false"]  # fmt: skip
VAE, THRESHOLD, AE = (f"{run}/checkpoints/best.ckpt" for run in ("vae", "threshold", "ae"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main([*QUICK, "--run_dir", "vae", "--model.z_dim", "2"]) == 0
        assert train.main([*QUICK, "--run_dir", "threshold", "--data.binarization", "threshold"]) == 0
        assert train.main([*QUICK, "--run_dir", "ae", "--model", "AE"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(runs, monkeypatch):
    monkeypatch.chdir(runs)


def read(run: str) -> dict:
    return json.loads(Path(run, "evaluation.json").read_text())


def test_writes_the_mean_of_the_per_image_values():
    assert evaluate.main([VAE, "--num_samples", "50", "--limit", "120"]) == 0
    log_px = np.load("vae/log_px.npy")
    result = read("vae")
    assert log_px.shape == (120,)
    assert log_px.dtype == np.float64
    assert result["nll"] == pytest.approx(-log_px.mean())
    assert result["nll_se"] == pytest.approx(log_px.std(ddof=1) / 120**0.5)
    assert result["num_images"] == 120
    assert result["num_samples"] == 50
    assert 1 <= result["ess_median"] <= 50


def test_the_first_images_have_the_same_value_whatever_the_limit():
    assert evaluate.main([VAE, "--num_samples", "20", "--limit", "50"]) == 0
    first = np.load("vae/log_px.npy")
    assert evaluate.main([VAE, "--num_samples", "20"]) == 0
    everything = np.load("vae/log_px.npy")
    assert len(everything) == 250
    np.testing.assert_array_equal(first, everything[:50])


def test_more_samples_are_a_tighter_bound():
    assert evaluate.main([VAE, "--num_samples", "1"]) == 0
    loose = read("vae")["nll"]
    assert evaluate.main([VAE, "--num_samples", "200"]) == 0
    assert read("vae")["nll"] < loose


def test_one_image_has_no_standard_error():
    assert evaluate.main([VAE, "--num_samples", "5", "--limit", "1"]) == 0
    assert read("vae")["nll_se"] is None


def test_protocols_and_quantities_never_share_a_table(capsys):
    assert evaluate.main([VAE, THRESHOLD, AE, "--num_samples", "5", "--limit", "10"]) == 0
    tables = [table for table in capsys.readouterr().out.split("\n\n") if table.strip()]
    assert len(tables) == 3
    for run, word in (
        ("vae", "protocol dynamic: log p(x)"),
        ("threshold", "protocol threshold: log p(x)"),
        ("ae", "no likelihood; bce of test images"),
    ):
        (table,) = (table for table in tables if f"\n{run} " in table)
        assert word in table


def test_evaluates_a_run_that_has_moved(runs, tmp_path):
    import shutil

    shutil.copytree("vae", tmp_path / "elsewhere")
    assert evaluate.main([str(tmp_path / "elsewhere/checkpoints/last.ckpt"), "--num_samples", "5"]) == 0
    assert (tmp_path / "elsewhere/evaluation.json").is_file()


def test_data_of_another_shape_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, side in (("a.npz", 5), ("b.npz", 6)):
        np.savez(name, x=np.random.default_rng(0).integers(0, 256, (40, side, side), np.uint8))
    assert train.main([*QUICK, "--data", "NPZ", "--data.root", "a.npz", "--run_dir", "a"]) == 0
    assert evaluate.main(["a/checkpoints/best.ckpt", "--data.root", "b.npz"]) == 2
    assert "VAE takes images (1, 5, 5), and the data have (1, 6, 6)." in capsys.readouterr().err


MISTAKES = {
    "nowhere.ckpt": "There is no checkpoint nowhere.ckpt",
    f"{VAE} nowhere.ckpt": "There is no checkpoint nowhere.ckpt",
    "vae/config.yaml": "cannot be read as a checkpoint",
    f"{VAE} --num_samples 0": "--num_samples must be at least 1; got 0.",
    f"{VAE} --limit -1": "--limit must be at least 1; got -1.",
    f"{VAE} --data.binarization threshold": "was trained on dynamic images and says nothing about threshold ones",
    f"{VAE} --data.root x": "has no option --data.root",
    f"{VAE} --device gpu": "There is no device gpu here",
    f"{VAE} --numsamples 3": "Unknown option --numsamples, did you mean --num_samples?",
    "": "checkpoints",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_in_a_sentence_and_changes_nothing(mistake, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert evaluate.main(mistake.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[mistake] in err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
