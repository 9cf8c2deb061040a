"""evaluate.py: result files, printed tables, error messages."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

import callbacks
import evaluate
import evaluation.evaluate
import models
import train
from datamodules import DATAMODULES
from evaluation import baselines, cache, report, result_files
from evaluation.metrics import IMAGES_PER_PASS
from models.estimators.importance import importance
from models.estimators.passes import MAX_DECODER_ROWS

QUICK = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "1",
    "--num_samples",
    "0",
    "--callbacks",
    "[]",
    "--trainer.enable_progress_bar",
    "false",
]
VAE, THRESHOLD, AE, CVAE, M2, M1M2 = (
    f"{run}/checkpoints/best.ckpt" for run in ("vae", "threshold", "ae", "cvae", "m2", "m1m2")
)
LABELS = ["--data.num_labels", "50"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train.main([*QUICK, "--run_dir", "vae", "--model.z_dim", "2"]) == 0
        assert train.main([*QUICK, "--run_dir", "threshold", "--data.binarization", "threshold"]) == 0
        assert train.main([*QUICK, "--run_dir", "ae", "--model", "AE"]) == 0
        assert train.main([*QUICK, "--run_dir", "cvae", "--model", "CVAE"]) == 0
        assert train.main([*QUICK, "--run_dir", "m2", "--model", "M2", *LABELS]) == 0
        for seed in ("1", "2"):
            again = ["--run_dir", f"m2-{seed}", "--seed", seed, "--data.seed", seed]
            assert train.main([*QUICK, "--model", "M2", *LABELS, *again]) == 0
        assert train.main([*QUICK, "--run_dir", "m2-10", "--model", "M2", "--data.num_labels", "10"]) == 0
        assert train.main([*QUICK, "--run_dir", "m1m2", "--model", "M1M2", "--model.m1", VAE, *LABELS]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(runs, monkeypatch):
    monkeypatch.chdir(runs)


def read(run: str) -> dict:
    return json.loads(Path(run, "evaluation.json").read_text())


def overwrite(argv: list[str]) -> int:
    """Run evaluate.py without figures, and with --overwrite, so that larger results of earlier tests are replaced."""
    return evaluate.main(["--figures", "[]", *argv, "--overwrite"])


def test_nll_is_the_mean_of_the_per_image_values():
    assert overwrite([VAE, "--num_samples", "50", "--limit", "120"]) == 0
    log_px = np.load("vae/log_px.npy")
    result = read("vae")
    assert log_px.shape == (120,)
    assert log_px.dtype == np.float64
    assert result["nll"] == pytest.approx(-log_px.mean())
    assert result["nll_se"] == pytest.approx(log_px.std(ddof=1) / 120**0.5)
    assert result["num_images"] == 120
    assert result["num_samples"] == 50
    assert 1 <= result["ess_median"] <= 50


def test_per_image_values_do_not_depend_on_the_limit():
    assert overwrite([VAE, "--num_samples", "20", "--limit", "50"]) == 0
    first = np.load("vae/log_px.npy")
    assert overwrite([VAE, "--num_samples", "20"]) == 0
    everything = np.load("vae/log_px.npy")
    assert len(everything) == 250
    np.testing.assert_array_equal(first, everything[:50])


def test_more_samples_give_a_tighter_bound():
    assert overwrite([VAE, "--num_samples", "1"]) == 0
    loose = read("vae")["nll"]
    assert overwrite([VAE, "--num_samples", "200"]) == 0
    assert read("vae")["nll"] < loose


def test_one_image_has_no_standard_error():
    assert overwrite([VAE, "--num_samples", "5", "--limit", "1"]) == 0
    assert read("vae")["nll_se"] is None


def test_bf16_reports_its_bias(capsys):
    command = [VAE, "--num_samples", "50", "--limit", "150"]
    assert overwrite(command) == 0
    exact, of_exact = np.load("vae/log_px.npy"), read("vae")
    assert "bf16" not in capsys.readouterr().out
    assert overwrite([*command, "--precision", "bf16"]) == 0
    rounded, of_rounded = np.load("vae/log_px.npy"), read("vae")
    assert (of_exact["precision"], of_rounded["precision"]) == ("fp32", "bf16")
    assert of_exact["bf16_bias"] is None
    raised = (exact - rounded)[:100]
    assert of_rounded["bf16_bias"] == pytest.approx(raised.mean(), abs=1e-12)
    assert of_rounded["bf16_bias_se"] == pytest.approx(raised.std(ddof=1) / 10)
    assert raised.any()
    assert f"{raised.mean():.4f} ± {raised.std(ddof=1) / 10:.4f}" in capsys.readouterr().out


def test_train_does_not_reuse_a_bf16_result(capsys):
    again = [*QUICK, "--run_dir", "own", "--resume", "auto", "--num_samples", "20"]
    assert train.main(again) == 0
    exact = read("own")
    own = ["own/checkpoints/best.ckpt", "--num_samples", "20", "--figures", "[]"]
    assert evaluate.main([*own, "--precision", "bf16"]) == 0
    assert read("own")["nll"] == exact["nll"]
    assert overwrite([*own, "--precision", "bf16"]) == 0
    assert read("own")["nll"] != exact["nll"]
    capsys.readouterr()
    assert train.main(again) == 0
    assert f"{exact['nll']:.2f} ± {exact['nll_se']:.2f}" in capsys.readouterr().out
    assert evaluate.main(own) == 0
    assert (read("own")["precision"], read("own")["nll"]) == ("fp32", exact["nll"])


def test_protocols_and_quantities_have_separate_tables(capsys):
    assert overwrite([VAE, THRESHOLD, AE, "--num_samples", "5", "--limit", "10"]) == 0
    tables = [table for table in capsys.readouterr().out.split("\n\n") if table.strip()]
    assert len(tables) == 3
    for run, word in (
        ("vae", "protocol dynamic: log p(x)"),
        ("threshold", "protocol threshold: log p(x)"),
        ("ae", "bce, summed over pixels, of 250 test images (no likelihood)"),
    ):
        (table,) = (table for table in tables if f"\n{run} " in table)
        assert word in table


def test_evaluates_a_run_that_has_moved(runs, tmp_path):
    shutil.copytree("vae", tmp_path / "elsewhere")
    assert overwrite([str(tmp_path / "elsewhere/checkpoints/last.ckpt"), "--num_samples", "5"]) == 0
    assert (tmp_path / "elsewhere/evaluation.json").is_file()


def counted(run: str) -> np.ndarray:
    return np.array(read(run)["confusion"])


@pytest.mark.parametrize("run", ["m2", "m1m2"])
def test_the_test_error_is_of_all_test_images_for_any_limit(run, capsys):
    model = models.load(f"{run}/checkpoints/best.ckpt")
    data = DATAMODULES["Digits"]()
    data.setup()
    x, y = data.images("test", grey=model.classifies_grey)
    expected = multiclass_accuracy(model.classify(x), y, num_classes=10, average="micro")
    command = [f"{run}/checkpoints/best.ckpt", "--num_samples", "5", "--limit", "20", "--overwrite"]
    assert evaluate.main(command) == 0
    result = read(run)
    assert result["test_error"] == pytest.approx(1 - expected.item())
    assert (result["test_error_images"], result["num_images"], counted(run).sum()) == (250, 20, 250)
    assert result["test_error"] == pytest.approx(1 - counted(run).trace() / 250)
    calibration = multiclass_calibration_error(model.classify(x), y, num_classes=10, n_bins=15, norm="l1").item()
    assert result["calibration_error"] == pytest.approx(calibration, abs=1e-6)
    assert counted(run).sum(1).tolist() == y.bincount(minlength=10).tolist()
    assert {"confusion_matrix_test.png", "analogies_test.png"} <= {path.name for path in Path(run, "figures").iterdir()}
    out = capsys.readouterr().out
    assert "log p(x) of 20 test images; nats per image; errors of 250 test images" in out
    assert f"{result['test_error']:.2%}" in out
    assert f"{result['calibration_error']:.2%}" in out


def test_only_conditional_models_get_labels():
    data = DATAMODULES["Digits"]()
    data.setup()
    x, y = data.images("test", 50)
    for run, labels in (("cvae", y), ("m2", None), ("m1m2", None)):
        path = f"{run}/checkpoints/best.ckpt"
        assert overwrite([path, "--num_samples", "30", "--limit", "50", "--no_baselines"]) == 0
        model = models.load(path)
        expected = importance(model, x, 30, max(1, MAX_DECODER_ROWS // IMAGES_PER_PASS // model.decoder_cost), labels)
        np.testing.assert_array_equal(np.load(f"{run}/log_px.npy"), expected.log_px.numpy())
    assert read("cvae")["quantity"] == "log p(x|y)"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_likelihoods_are_equal_up_to_rounding_and_cached_apart(precision):
    options = [VAE, "--num_samples", "100", "--limit", "60", "--precision", precision, "--figures", "[]"]
    assert overwrite(options) == 0
    values, files = np.load("vae/log_px.npy"), set(Path("vae/per_image").iterdir())
    assert overwrite([*options, "--compile"]) == 0
    np.testing.assert_allclose(np.load("vae/log_px.npy"), values, atol=0.05 if precision == "bf16" else 1e-3)
    assert len(set(Path("vae/per_image").iterdir()) - files) == 1
    assert "log_weights" not in vars(models.load(VAE))


def test_a_missing_compiler_is_an_error_before_the_evaluation(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", fail)
    assert evaluate.main([VAE, "--compile"]) == 2
    assert "error: --compile has failed (no compiler): leave it out." in capsys.readouterr().err


def test_the_elbo_is_minus_rate_minus_distortion():
    assert overwrite([M2, M1M2, CVAE, "--num_samples", "50", "--limit", "100", "--no_baselines"]) == 0
    for run in ("m2", "m1m2", "cvae"):
        result = read(run)
        assert result["rate"] + result["distortion"] == -result["elbo"]
        assert result["nll"] < -result["elbo"]


def test_models_that_sum_over_classes_have_a_default_limit(monkeypatch):
    assert models.M2.default_limit == models.M1M2.default_limit == 1000
    monkeypatch.setattr(models.M2, "default_limit", 30)
    assert overwrite([M2, VAE, "--num_samples", "2", "--no_baselines"]) == 0
    assert (read("m2")["num_images"], read("vae")["num_images"]) == (30, 250)
    assert overwrite([M2, "--num_samples", "2", "--limit", "9999", "--no_baselines"]) == 0
    assert read("m2")["num_images"] == 250


def test_baselines_are_computed_for_few_labels_and_on_request(monkeypatch, capsys):
    names = ["MLP", "M1+SVM", "M1+logreg", "M1+5-NN"]
    quick = ["--num_samples", "2", "--limit", "5"]
    assert overwrite([M1M2, VAE, M2, *quick]) == 0
    assert list(read("m1m2")["baselines"]) == names
    assert list(read("m2")["baselines"]) == ["MLP"]
    assert read("vae")["baselines"] is None
    out = capsys.readouterr().out
    for name, error in read("m1m2")["baselines"].items():
        assert 0 < error < 1
        assert re.search(rf"^m1m2  {re.escape(name)} .* {error:.2%} +-$".replace("%", r"\%"), out, re.MULTILINE)
    # fitting the whole network on the labels of all 1297 images takes longer than all else
    monkeypatch.setattr(baselines, "on_pixels", lambda: {"MLP": MLPClassifier((8,), max_iter=20, random_state=0)})
    assert overwrite([VAE, *quick, "--baselines"]) == 0
    assert list(read("vae")["baselines"]) == names
    assert overwrite([M1M2, *quick, "--no_baselines"]) == 0
    assert read("m1m2")["baselines"] is None


def test_a_table_without_classifiers_has_no_test_error(capsys):
    assert overwrite([VAE, CVAE, "--num_samples", "2", "--limit", "5"]) == 0
    assert "test error" not in capsys.readouterr().out


SEVERAL = [M2, "m2-1/checkpoints/best.ckpt", "m2-2/checkpoints/best.ckpt", "m2-10/checkpoints/best.ckpt"]


def test_mean_over_runs_that_differ_in_their_seeds(capsys):
    assert overwrite([*SEVERAL, VAE, "--num_samples", "5", "--limit", "40"]) == 0
    nll, error, ece = (
        np.array([read(run)[key] for run in ("m2", "m2-1", "m2-2")])
        for key in ("nll", "test_error", "calibration_error")
    )
    assert len(set(nll)) == 3
    lines = capsys.readouterr().out.split("mean ± standard error over label draws\n")[1].split("\n")
    assert lines[0].split("  ")[0] == "group"
    columns = re.split(r"  +", lines[1])
    assert columns == [
        "M2, data.num_labels 50",
        "3",
        f"{nll.mean():.2f} ± {nll.std(ddof=1) / 3**0.5:.2f}",
        "5",
        f"{error.mean():.2%} ± {error.std(ddof=1) / 3**0.5:.2%}",
        f"{ece.mean():.2%} ± {ece.std(ddof=1) / 3**0.5:.2%}",
    ]
    assert lines[2].split("  ")[0] == "MLP of M2, data.num_labels 50"
    assert not any(lines[3:])


@pytest.mark.parametrize("paths", [[M2, VAE], [M2, SEVERAL[3]], [M2, M2], [M2, M2.replace("best", "last")]])
def test_there_is_no_mean_over_seeds_without_a_group(paths, capsys):
    assert overwrite([*paths, "--num_samples", "2", "--limit", "5"]) == 0
    assert "±" in (out := capsys.readouterr().out)
    assert "over seeds" not in out


def test_data_with_other_classes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = DATAMODULES["Digits"]()
    data.setup()
    x, y = (part[:200].numpy() for part in (data.train.x, data.train.y))
    np.savez("ten.npz", x=x, y=y)
    np.savez("two.npz", x=x, y=y % 2)
    np.savez("other.npz", x=x, y=y + 2)
    command = ["--data", "NPZ", "--data.root", "ten.npz", "--run_dir", "m2", "--num_samples", "0", "--callbacks", "[]"]
    small = ["--model.hidden", "[8]", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert train.main(["--model", "M2", *command, *small]) == 0
    capsys.readouterr()
    assert evaluate.main([M2, "--data.root", "two.npz"]) == 2
    assert "M2 knows 10 classes, and the data have 2" in capsys.readouterr().err
    assert evaluate.main([M2, "--data.root", "other.npz"]) == 2
    stderr = capsys.readouterr().err
    assert "M2 knows classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and the data have classes 2, 3, 4, " in stderr


def test_data_of_another_shape_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, side in (("a.npz", 5), ("b.npz", 6)):
        np.savez(name, x=np.random.default_rng(0).integers(0, 256, (40, side, side), np.uint8))
    assert train.main([*QUICK, "--data", "NPZ", "--data.root", "a.npz", "--run_dir", "a"]) == 0
    assert evaluate.main(["a/checkpoints/best.ckpt", "--data.root", "b.npz"]) == 2
    assert "VAE takes images (1, 5, 5), and the data have (1, 6, 6)." in capsys.readouterr().err


FEW = ["--num_samples", "5", "--limit", "20", "--figures", "[]", "--no_baselines"]


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the checkpoints of the runs `vae` and `ae`, without the results of other tests."""
    shutil.copytree("vae/checkpoints", tmp_path / "vae/checkpoints")
    shutil.copytree("ae/checkpoints", tmp_path / "ae/checkpoints")
    monkeypatch.chdir(tmp_path)
    return Path("vae")


@pytest.mark.parametrize("blocked", ["per_image", "evaluations", "figures", "evaluation.json", "log_px.npy"])
def test_the_table_is_printed_if_a_file_cannot_be_written(copy, blocked, capsys):
    """A file in place of a folder, or a folder in place of a file, makes writing fail even for root."""
    if "." in blocked:
        (copy / blocked / "full").mkdir(parents=True)
    else:
        (copy / blocked).touch()
    assert evaluate.main([VAE, *FEW[:4], "--figures", "[samples]"]) == 0  # the result is saved in another file
    out, err = capsys.readouterr()
    assert "NLL ± SE" in out
    assert err.count("warning: ") == 1
    assert f"vae/{blocked}" in err
    assert "--run_dir" not in err


def test_an_unsaved_result_is_printed_and_ends_with_an_error(copy, monkeypatch, capsys):
    def refuse(path):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    for module in (result_files, cache):
        monkeypatch.setattr(module, "atomic_write", refuse)
    monkeypatch.setattr(result_files, "try_writing", refuse)
    assert evaluate.main([VAE, AE, *FEW]) == 1
    out, err = capsys.readouterr()
    assert "NLL ± SE" in out
    assert "no likelihood" in out
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines if "/2 " not in line] == ["warning", "warning", "error", "error"]
    assert lines[0].startswith(
        "warning: vae cannot be written: Read-only file system."
    )  # printed before the evaluation
    assert "save the results elsewhere by --report" in lines[-1]
    assert "--run_dir" not in err
    assert evaluate.main([VAE, *FEW, "--report", "report"]) == 0  # all results are saved in the report
    assert "Report: report" in capsys.readouterr().out


def test_an_unwritable_report_folder_is_refused_before_the_evaluation(copy, capsys):
    for option in ("report", "side_by_side"):
        assert (
            evaluate.main([VAE, VAE.replace("best", "last"), *FEW, f"--{option}", "vae/checkpoints/best.ckpt/r"]) == 2
        )
        out, err = capsys.readouterr()
        assert out == ""
        assert f"--{option} vae/checkpoints/best.ckpt/r cannot be written to (Not a directory)" in err
    assert not (copy / "evaluation.json").exists()


def test_the_table_is_printed_if_the_report_fails(copy, monkeypatch, capsys):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "r/results.json")

    monkeypatch.setattr(report, "write_report", fail)
    assert evaluate.main([VAE, *FEW, "--report", "r"]) == 1
    out, err = capsys.readouterr()
    assert "NLL ± SE" in out
    assert "r/results.json cannot be used: No space left on device. " in err
    assert "choose another --report than r" in err
    assert (copy / "evaluation.json").exists()


def test_a_failing_figure_is_a_warning(copy, monkeypatch, capsys):
    def fail(*_, **__):
        raise KeyError("colour")

    monkeypatch.setattr(callbacks.Samples, "draw", fail)
    assert evaluate.main([VAE, *FEW[:4], "--figures", "[samples,reconstructions]"]) == 0
    out, err = capsys.readouterr()
    assert "NLL ± SE" in out
    assert f"warning: the figure samples of {VAE} could not be drawn: 'colour'" in err
    assert [path.name for path in (copy / "figures").iterdir()] == ["reconstructions_test.png"]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError(errno.EIO, "Input/output error", "x")])
def test_other_checkpoints_are_evaluated_if_one_fails(copy, monkeypatch, capsys, error):
    measure = evaluation.evaluate.mean_loss

    def fail(*_):
        raise error

    monkeypatch.setattr(evaluation.evaluate, "mean_loss", fail)
    assert evaluate.main([AE, VAE, *FEW]) == 1
    out, err = capsys.readouterr()
    assert "NLL ± SE" in out
    assert f"error: {AE} could not be evaluated: " in err
    assert "Traceback" not in err
    monkeypatch.setattr(evaluation.evaluate, "mean_loss", measure)
    assert evaluate.main([AE, VAE, *FEW]) == 0


def test_a_smaller_evaluation_keeps_the_files_of_a_larger_one(copy, capsys):
    last = VAE.replace("best", "last")
    assert evaluate.main([VAE, "--num_samples", "20", "--figures", "[]"]) == 0
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert evaluate.main([VAE, last, *FEW]) == 0
    assert "note: vae/evaluation.json keeps the more complete result (250 images, K = 20)" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    assert json.loads((copy / "evaluation_last.json").read_text())["checkpoint"] == last
    assert len(np.load(copy / "log_px_last.npy")) == 20


def test_seeds_on_the_same_images_are_averaged_for_any_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (60, 4, 4), np.uint8)
    Path("sub").mkdir()
    for name in ("a.npz", "sub/copy.npz"):
        np.savez(name, x=x)
    np.savez("other.npz", x=255 - x)
    for model in ("VAE", "AE"):
        runs = []
        for seed, root in enumerate(["a.npz", str(tmp_path / "sub/../a.npz"), "sub/copy.npz", "other.npz"]):
            runs.append(f"{model}-{seed}")
            options = ["--model", model, "--data", "NPZ", "--data.root", root]
            options += ["--seed", str(seed), "--run_dir", runs[-1]]
            assert train.main([*QUICK, *options]) == 0
        capsys.readouterr()
        assert evaluate.main([*runs, "--num_samples", "2", "--figures", "[]"]) == 0
        tables = capsys.readouterr().out.split("\n\n")
        (together,) = (table for table in tables if f"\n{model}-0 " in table)
        assert [f"\n{run} " in together for run in runs] == [True, True, True, False]
        if model == "VAE":
            assert any("over seeds" in table and re.search(r"^VAE +3 ", table, re.MULTILINE) for table in tables)


MISTAKES = {
    f"{CVAE} --baselines": "--baselines needs the checkpoint of a VAE or of a model that classifies",
    "nowhere.ckpt": "There is no checkpoint nowhere.ckpt",
    f"{VAE} nowhere.ckpt": "There is no checkpoint nowhere.ckpt",
    "vae/config.yaml": "cannot be read as a checkpoint",
    f"{VAE} --num_samples 0": "--num_samples must be at least 1; got 0.",
    f"{VAE} --limit -1": "--limit must be at least 1; got -1.",
    f"{VAE} --data.binarization threshold": "was trained on dynamic images and says nothing about threshold ones",
    f"{VAE} --data.root x": "has no option --data.root",
    f"{VAE} --device gpu": "There is no device gpu here",
    f"{VAE} --limit 3 other.ckpt": "Unexpected argument other.ckpt: name all checkpoints together.",
    f"{VAE} --numsamples 3": "Unknown option --numsamples, did you mean --num_samples?",
    f"{VAE} --precision half": "--precision takes one of fp32, bf16; got half.",
    f"{AE} --ais": "--ais needs a density of x given its latents, which an AE does not have: leave it out.",
    f"{M2} --ais --ais_start posterior": "cannot start at 'posterior': start them at the prior.",
    f"{VAE} --ais_images 10": "--ais_images has no effect without --ais: add it.",
    f"{VAE} --ais --ais_chains 0": "--ais_chains must be at least 1; got 0.",
    "nowhere/*.ckpt": "No checkpoint matches nowhere/*.ckpt: give the path of a .ckpt file, or a pattern",
    f"{VAE} --report vae/config.yaml": "--report vae/config.yaml is a file: name a folder.",
    f"{AE} --precision bf16": "--precision needs a model with an importance-sampled likelihood: leave it out.",
    "": "Give one checkpoint or more.",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_error_message_and_changes_no_file(mistake, capsys):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert evaluate.main(mistake.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert MISTAKES[mistake] in err
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_figures_have_the_given_format_and_resolution(capsys):
    options = ["--num_samples", "5", "--limit", "10", "--figures", "[samples]"]
    assert evaluate.main([VAE, *options, "--figure_format", "pdf", "--figure_dpi", "200", "--report", "styled"]) == 0
    figures = Path(VAE).parent.parent / "figures"
    assert (figures / "samples_test.pdf").read_bytes().startswith(b"%PDF")
    assert Path("styled", "results.pdf").is_file()
    assert evaluate.main([VAE, *options, "--figure_dpi", "7"]) == 2
    assert "--figure_dpi must be from 50 to 600; got 7." in capsys.readouterr().err
