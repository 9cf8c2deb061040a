"""evaluate.py on generators: AIS with a chosen scale, Parzen window, two-sample measures, in the table of grey VAEs."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from small_runs import EVALUATE, processes

import evaluate
import models
import train
from datamodules import DATAMODULES
from evaluation import density, digit_features, two_sample
from evaluation import evaluate as evaluate_module
from evaluation.schema import Evaluation
from evaluation.tables import SAMPLE_CRITERION, two_sample_tables
from models.estimators.ais import Settings, anneal, tune

QUICK = ["--data", "Digits", "--model.hidden", "[8]", "--trainer.max_epochs", "1", "--num_samples", "0",
         "--callbacks", "[]", "--trainer.enable_progress_bar", "false"]  # fmt: skip
GREY = ["--data.binarization", "grey", "--model.z_dim", "2"]
OF_RUN = {"gmmn": ["--model", "GMMN", *GREY], "gmmn-1": ["--model", "GMMN", "--seed", "1", *GREY],
          "vae": ["--model.likelihood", "gaussian", "--model.scale", "0.3", *GREY], "binary": [],
          "ae": ["--model", "AE", *GREY]}  # fmt: skip
COMMON = ["--num_samples", "20", "--limit", "30", "--figures", "[]", "--device", "cpu"]
AIS = ["--ais", "--ais_temperatures", "15", "--ais_images", "10"]


def path(run):
    return f"{run}/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for run, options in OF_RUN.items():
            assert train.main([*QUICK, "--run_dir", run, *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(trained, tmp_path, monkeypatch):
    """A copy of the runs for each test, and smaller settings."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setattr("models.estimators.ais.PILOT_MOVES", 20)
    monkeypatch.setattr("models.estimators.observation_scale.STEPS_TO_FIRST", 20)
    monkeypatch.setattr("models.estimators.observation_scale.STEPS_BETWEEN", 3)
    for module in (density, evaluate_module):
        monkeypatch.setattr(module, "PARZEN_SAMPLES", 300)
    monkeypatch.setattr(two_sample, "MAX_IMAGES", 100)
    monkeypatch.setattr(digit_features, "MAX_TRAIN_IMAGES", 300)
    monkeypatch.setenv("WANDB_SILENT", "true")
    two_sample.classifier_in_memory.cache_clear()


def read(run):
    return json.loads(Path(run, "evaluation.json").read_text())


def tables(text):
    """The parts of the output that are separated by empty lines."""
    return [part for part in text.split("\n\n") if part.strip()]


def row(table, run):
    """The cells of a run by the titles of their columns."""
    header, *lines = (re.split(r"  +", line) for line in table.splitlines()[1:])
    return dict(zip(header, next(line for line in lines if line[0] == run), strict=True))


def test_generators_and_vaes_of_grey_images_share_a_table_and_binary_ones_do_not(capsys):
    assert evaluate.main([path("gmmn"), path("vae"), path("binary"), *COMMON, *AIS]) == 0
    grey, binary = sorted(tables(capsys.readouterr().out), key=lambda table: "dynamic" in table)
    assert grey.startswith("Digits, protocol grey: log p(x) of 30 test images; nats per image")
    assert binary.startswith("Digits, protocol dynamic: log p(x) of 30 test images; nats per image")
    assert "\ngmmn " not in binary
    assert "Parzen" not in binary
    generator, vae = row(grey, "gmmn"), row(grey, "vae")
    results = {run: read(run) for run in ("gmmn", "vae", "binary")}
    for cells, result in ((generator, results["gmmn"]), (vae, results["vae"])):
        assert cells["AIS NLL ± SE (images)"] == f"{result['ais_nll']:.2f} ± {result['ais_nll_se']:.2f} (10)"
        assert cells["AIS gap"] == f"{result['ais_gap']:z.2f} ± {result['ais_gap_se']:.2f}"
        assert cells["Parzen NLL ± SE"] == f"{result['parzen_nll']:.2f} ± {result['parzen_nll_se']:.2f}"
        assert cells["sigma^2"] == f"{result['px_scale'] ** 2:.2g}"
    assert {generator[name] for name in ("NLL ± SE", "K", "AIS - NLL", "ELBO")} == {"-"}
    assert vae["NLL ± SE"] != "-"
    assert vae["sigma^2"] == "0.09"
    assert "A generator has no importance-sampled NLL" in grey
    assert "It misranks models (Wu et al. 2017, section 4)" in grey
    assert results["gmmn"]["images_hash"] == results["vae"]["images_hash"]
    assert {results["gmmn"][key] for key in ("nll", "num_samples", "elbo", "ais_lowers_nll", "k_hat_above")} == {None}
    assert (results["gmmn"]["quantity"], results["gmmn"]["num_images"]) == ("log p(x)", 30)
    assert results["binary"]["px_scale"] is results["binary"]["parzen_nll"] is None


def test_without_ais_there_is_the_mmd_to_test_images(capsys):
    assert evaluate.main([path("gmmn"), path("ae"), *COMMON]) == 0
    out = capsys.readouterr().out
    (table,) = (table for table in tables(out) if "\ngmmn " in table)
    assert table.splitlines()[0] == "Digits, protocol grey: MMD^2 of samples to all 250 test images (no likelihood)"
    result = read("gmmn")
    assert row(table, "gmmn") == {"run": "gmmn", "model": "GMMN", "MMD^2": f"{result['loss']:.4f}"}
    assert result["criterion"] == SAMPLE_CRITERION == models.load("gmmn").criterion
    assert (result["quantity"], result["ais_nll"], result["px_scale"]) == (None, None, None)
    assert "bce, summed over pixels, of 250 test images" in out


def test_the_reported_values_are_those_of_the_chosen_scale():
    assert evaluate.main([path("gmmn"), *COMMON, *AIS]) == 0
    result, data = read("gmmn"), DATAMODULES["Digits"](binarization="grey")
    data.setup()
    model = models.load("gmmn")
    chosen = density.choose_px_scale(model, data.images("val", density.SCALE_IMAGES)[0])
    assert result["px_scale"] == chosen["px_scale"]
    model.observation_scale = result["px_scale"]
    settings = Settings(temperatures=15)
    steps = tune(model, data.images("val", 10)[0], settings)
    expected = anneal(model, data.images("test", 10)[0], settings, steps)
    assert result["ais_nll"] == pytest.approx(-expected.log_px.mean().item(), rel=1e-9)
    window = density.parzen(model, data.images("test", 30)[0], data.images("val", 1000)[0])
    assert result["parzen_nll"] == -window["parzen_log_px"].mean()
    assert result["parzen_samples"] == 300


@pytest.fixture
def computed(monkeypatch):
    """Counts how often values are computed."""
    times = {"choose_px_scale": 0, "parzen": 0, "two_sample": 0, "train_classifier": 0}
    for name in times:
        module = two_sample if name == "train_classifier" else evaluate_module
        measured = getattr(module, name)

        def counted(*args, name=name, measured=measured, **kwargs):
            times[name] += 1
            return measured(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return times


def test_the_same_command_again_computes_nothing_and_prints_the_same(computed, capsys):
    command = [path("gmmn"), path("vae"), *COMMON, *AIS, "--two_sample"]
    assert evaluate.main(command) == 0
    first = capsys.readouterr().out
    assert computed == {"choose_px_scale": 1, "parzen": 2, "two_sample": 2, "train_classifier": 1}
    two_sample.classifier_in_memory.cache_clear()
    assert evaluate.main(command) == 0
    assert computed == {"choose_px_scale": 1, "parzen": 2, "two_sample": 2, "train_classifier": 1}
    assert capsys.readouterr().out == first


def test_two_sample_measures_beside_those_of_real_images(capsys):
    assert evaluate.main([path("gmmn"), path("vae"), path("binary"), path("ae"), *COMMON, "--two_sample"]) == 0
    grey, binary = sorted(
        (table for table in tables(capsys.readouterr().out) if "two-sample measures" in table.splitlines()[0]),
        key=lambda table: "dynamic" in table,
    )
    assert grey.startswith("Digits, protocol grey: 100 samples and as many test images, two-sample measures")
    result = read("gmmn")
    cells = row(grey, "gmmn")
    assert cells["MMD^2"] == f"{result['two_sample_mmd2']:z.5f}"
    assert cells["1-NN error"] == f"{result['two_sample_nn_error']:.1%}"
    assert cells["Fréchet"] == f"{result['two_sample_frechet']:.2f}"
    assert row(grey, "validation images")["1-NN error"] == f"{result['two_sample_reference_nn_error']:.1%}"
    assert [line.split("  ")[0] for line in grey.splitlines()[2:6]] == ["gmmn", "vae", "vae", "validation images"]
    assert "with noise" in grey.splitlines()[4]
    assert "\nae " not in grey + binary
    assert "binary" in binary.splitlines()[2]
    assert "They cannot be compared with FID or KID" in grey
    assert result["two_sample_frechet"] > result["two_sample_reference_frechet"]
    assert sum(result["two_sample_classes"]) == pytest.approx(1)
    assert result["two_sample_noisy_mmd2"] is None
    assert read("vae")["two_sample_noisy_mmd2"] > 0
    assert read("vae")["two_sample_reference_mmd2"] == result["two_sample_reference_mmd2"]
    assert read("ae")["two_sample_images"] is None


def test_two_sample_rows_of_the_same_images_share_a_table_whatever_the_rounding_and_the_labels():
    assert evaluate.main([path("gmmn"), *COMMON, "--two_sample"]) == 0
    known = Evaluation.from_dict(read("gmmn"))
    without_labels = replace(
        known,
        two_sample_reference_mmd2=known.two_sample_reference_mmd2 + 1e-9,
        two_sample_frechet=None,
        two_sample_reference_frechet=None,
    )
    (table,) = two_sample_tables([without_labels, known])
    reference = dict(zip(table.columns, table.lines[-1], strict=True))
    assert reference["Fréchet"] == f"{known.two_sample_reference_frechet:.2f}"
    assert any("digit features" in remark for remark in table.remarks)


def test_two_sample_measures_need_two_images_of_each_kind(capsys):
    np.savez("few.npz", x=np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    assert train.main([*QUICK, "--run_dir", "few", "--data", "NPZ", "--data.root", "few.npz"]) == 0
    capsys.readouterr()
    assert evaluate.main([path("few"), *COMMON, "--two_sample"]) == 2
    said = "--two_sample needs at least 2 test images and 2 validation images: leave it out."
    assert capsys.readouterr().err.strip() == f"error: {said}"


def test_all_files_take_rows_without_an_nll(capsys):
    runs = ["gmmn", "gmmn-1", "vae"]
    command = [*map(path, runs), *COMMON, *AIS, "--two_sample", "--report", "r", "--side_by_side", "s"]
    assert evaluate.main([*command, "--wandb", "offline"]) == 0
    wandb.teardown()
    out, err = capsys.readouterr()
    assert "warning: W&B" not in err
    entries = json.loads(Path("r/results.json").read_text())
    assert [entry["nll"] is None for entry in entries] == [True, True, False]
    with Path("r/results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for entry, line in zip(entries, lines, strict=True):
        for key in ("ais_nll", "px_scale", "parzen_nll", "two_sample_mmd2", "two_sample_reference_frechet"):
            assert float(line[key]) == entry[key]
    text = Path("r/results.md").read_text()
    assert "two-sample measures" in text
    assert "| validation images |" in text
    assert sorted(file.name for file in Path("r").glob("*.png")) == ["results.png"]
    values = np.array([entry["ais_nll"] for entry in entries[:2]])
    (mean,) = json.loads(Path("r/over_seeds.json").read_text())
    assert mean["ais_nll"] == pytest.approx(values.mean())
    assert mean["nll"] is None
    assert f"{values.mean():.2f} ± {values.std(ddof=1) / 2**0.5:.2f}" in out.split("over seeds\n")[1]
    assert {file.name for file in Path("s").iterdir()} == {
        "samples.png", "reconstructions.png", "random_points.png", "codes.png"}  # fmt: skip


def test_a_report_of_generators_alone():
    assert evaluate.main([path("gmmn"), *COMMON, *AIS, "--report", "r"]) == 0
    assert Path("r/results.png").is_file()
    assert evaluate.main([path("gmmn"), *COMMON, "--report", "s"]) == 0
    assert not list(Path("s").glob("*.png"))


def test_a_narrow_terminal_keeps_ais(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert evaluate.main([path("gmmn"), path("vae"), *COMMON, *AIS, "--two_sample"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    headers = [line.split("  ") for line in lines if line.startswith("run ")]
    assert [{"AIS NLL ± SE (images)", "1-NN error"} & {cell.strip() for cell in header} for header in headers] == [
        {"AIS NLL ± SE (images)"},
        {"1-NN error"},
    ]


def test_a_result_with_ais_is_not_replaced_by_one_without(capsys):
    assert evaluate.main([path("gmmn"), *COMMON]) == 0
    assert evaluate.main([path("gmmn"), *COMMON, *AIS]) == 0
    assert read("gmmn")["ais_nll"] is not None
    assert "keeps the more complete result" not in capsys.readouterr().err
    assert evaluate.main([path("gmmn"), *COMMON]) == 0
    assert read("gmmn")["ais_nll"] is not None
    assert "keeps the more complete result (30 images, with AIS)" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "said"), [
    ([path("gmmn"), "--ais", "--ais_start", "posterior"],
     "Chains of GMMN cannot start at 'posterior': start them at the prior."),
    ([path("ae"), "--two_sample"], "--two_sample needs a model that samples, which an AE does not: leave it out."),
])  # fmt: skip
def test_what_is_not_possible_ends_in_one_sentence(command, said, capsys):
    assert evaluate.main(command) == 2
    assert capsys.readouterr().err.strip() == f"error: {said}"


def test_missing_classes_and_the_end_of_the_grid_are_said(monkeypatch, capsys):
    """A generator that returns black images for all z."""

    def constant(self, z):
        return torch.zeros(*z.shape[:-1], 1, 8, 8) + 0 * z.sum(-1)[..., None, None, None]

    monkeypatch.setattr(models.GMMN, "generate", constant)
    monkeypatch.setattr(density, "VARIANCES", (0.001, 0.002))
    monkeypatch.setattr("evaluation.tables.VARIANCES", (0.001, 0.002))
    assert evaluate.main([path("gmmn"), *COMMON, *AIS, "--two_sample"]) == 0
    out = capsys.readouterr().out
    assert "Samples lack classes (gmmn): the classifier of the two-sample measures sees almost none of class" in out
    assert "The chosen sigma^2 is at the end of the grid, which is 0.001 to 0.002: 0.002 (gmmn)." in out


SMALL = """
from evaluation import density, digit_features, evaluate, two_sample
from models.estimators import ais, observation_scale
ais.PILOT_MOVES = 20
observation_scale.STEPS_TO_FIRST, observation_scale.STEPS_BETWEEN = 20, 3
density.PARZEN_SAMPLES = evaluate.PARZEN_SAMPLES = 300
two_sample.MAX_IMAGES, digit_features.MAX_TRAIN_IMAGES = 100, 300
"""


@pytest.mark.slow
def test_two_processes_find_what_one_finds():
    command = [path("gmmn"), *COMMON, *AIS, "--two_sample"]
    ((status, _, stderr),) = processes(1, SMALL + EVALUATE, *command)
    assert status == 0, stderr
    alone = read("gmmn")
    shutil.rmtree("gmmn/per_image")
    Path("gmmn/evaluation.json").unlink()
    for status, _, stderr in processes(2, SMALL + EVALUATE, *command):
        assert status == 0, stderr
    assert read("gmmn") == alone
