"""evaluate.py over several checkpoints with all that it can say: AIS, probes, differences, a report, W&B."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from wandb_file import read_wandb_file

import evaluate
import train
from evaluation import ais, cache, tables
from evaluation import evaluate as evaluate_module

pytestmark = pytest.mark.slow
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
OF_RUN = {
    "vae": ["--model.z_dim", "2", "--wandb", "offline"],
    "ae": ["--model", "AE"],
    "cvae": ["--model", "CVAE"],
    "m2": ["--model", "M2", "--data.num_labels", "50"],
}
AIS = ["--ais", "--ais_temperatures", "20", "--ais_images", "10"]
COMMON = ["--num_samples", "50", "--limit", "100", "--figures", "[]", "--no_baselines", "--device", "cpu"]
ALL = [f"{run}/checkpoints/best.ckpt" for run in OF_RUN]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_SILENT", "true")
        for run, options in OF_RUN.items():
            assert train.main([*QUICK, "--run_dir", run, *options]) == 0
        wandb.teardown()
    return folder


@pytest.fixture(autouse=True)
def _there(trained, tmp_path, monkeypatch):
    """A copy of the runs for each test, evaluated by code of a clean commit."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setattr(cache, "source_hash", lambda: "abc")
    monkeypatch.setattr("models.estimators.ais.PILOT_MOVES", 20)  # most of the time otherwise
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


@pytest.fixture
def computed(monkeypatch):
    """Counts the evaluations by importance sampling and by AIS."""
    times = {"likelihoods": 0, "run_ais": 0}
    for module, name in ((evaluate_module, "likelihoods"), (ais, "run_ais")):
        measured = getattr(module, name)

        def counted(*args, name=name, measured=measured, **kwargs):
            times[name] += 1
            return measured(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return times


def read(run):
    return json.loads(Path(run, "evaluation.json").read_text())


def test_all_of_them_in_one_report(computed, capsys):
    assert evaluate.main([*ALL, *COMMON, *AIS, "--report", "r"]) == 0
    out, err = capsys.readouterr()
    assert computed == {"likelihoods": 3, "run_ais": 3}  # the AE has neither
    assert [line for line in err.splitlines() if "/4 " in line] == [f"{n}/4 {path}" for n, path in enumerate(ALL, 1)]
    for run in ("vae", "cvae", "m2"):
        (kept,) = Path(run, "per_image").glob("best_ais_*.npz")
        result, ais = read(run), np.load(kept)
        log_px = np.load(f"{run}/log_px.npy")
        assert result["ais_nll"] == pytest.approx(-ais["ais_log_px"].mean())
        assert result["ais_lowers_nll"] == pytest.approx((ais["ais_log_px"] - log_px[:10]).mean())
        assert result["ais_gap"] == pytest.approx((ais["ais_upper"] - ais["ais_lower"]).mean())
        assert (result["ais_images"], result["ais_temperatures"], result["ais_chains"]) == (10, 20, 4)
        assert 0 < result["ais_acceptance"] <= 1
        assert result["k_hat_median"] is not None
    assert {read("ae")[key] for key in ("nll", "ais_nll", "ais_chains", "k_hat_above")} == {None}
    probed = {run: read(run)["knn_error"] is not None and read(run)["probe_error"] is not None for run in OF_RUN}
    # the CVAE is given the label, and most labels of the M2 are not known
    assert probed == {
        "vae": True,
        "ae": True,
        "cvae": False,
        "m2": False,
    }  # the CVAE is given the label, most of the M2 are not known
    results = json.loads(Path("r/results.json").read_text())
    assert [result["checkpoint"] for result in results] == ALL
    with Path("r/results.csv").open(newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["VAE", "AE", "CVAE", "M2"]
    # M2 and VAE are of log p(x), the CVAE of log p(x|y), the AE of none
    difference = np.load("vae/log_px.npy") - np.load("m2/log_px.npy")
    assert results[3]["versus_first"] == pytest.approx(difference.mean())
    assert results[3]["versus_first_se"] == pytest.approx(difference.std(ddof=1) / 10)
    assert ["versus_first" in result for result in results] == [False, False, False, True]
    shown = f"{difference.mean():+.2f} ± {difference.std(ddof=1) / 10:.2f}"
    assert shown in out
    assert shown in Path("r/results.md").read_text()
    assert out.endswith("Report: r\n")
    assert sorted(path.name for path in Path("r").glob("*.png")) == [
        "rate_distortion.png",
        "results_1.png",
        "results_2.png",
    ]


def test_the_same_command_again_computes_nothing(computed, capsys):
    command = [*ALL, *COMMON, *AIS, "--report", "r"]
    assert evaluate.main(command) == 0
    before, first, times = Path("r/results.json").read_bytes(), capsys.readouterr().out, dict(computed)
    assert evaluate.main(command) == 0
    assert computed == times
    assert Path("r/results.json").read_bytes() == before
    assert capsys.readouterr().out == first


def test_what_is_left_is_all_that_is_computed(computed, monkeypatch, capsys):
    """Stopped within the AIS of the second model: the first model and the second's likelihoods stand."""
    vae, _, cvae, m2 = ALL
    command = [vae, cvae, m2, *COMMON, *AIS]
    annealed = ais.run_ais

    def stop(model, *args):
        if type(model).__name__ == "CVAE":
            raise KeyboardInterrupt
        return annealed(model, *args)

    monkeypatch.setattr(ais, "run_ais", stop)
    assert evaluate.main(command) == 130
    assert "The same command goes on" in capsys.readouterr().err
    assert not Path("cvae/evaluation.json").exists()
    assert computed == {"likelihoods": 2, "run_ais": 1}
    monkeypatch.setattr(ais, "run_ais", annealed)
    assert evaluate.main(command) == 0
    assert computed == {"likelihoods": 3, "run_ais": 3}
    stopped = [(run, read(run)["nll"], read(run)["ais_nll"]) for run in ("vae", "cvae", "m2")]
    for run in ("vae", "cvae", "m2"):
        shutil.rmtree(f"{run}/per_image")
    assert evaluate.main(command) == 0
    assert stopped == [(run, read(run)["nll"], read(run)["ais_nll"]) for run in ("vae", "cvae", "m2")]


def test_only_what_other_options_change_is_computed_anew(computed):
    """AIS does not depend on K, nor on how many images follow its own; neither depends on the other."""
    vae = ALL[0]
    assert evaluate.main([vae, *COMMON, *AIS]) == 0
    assert evaluate.main([vae, *COMMON, *AIS, "--num_samples", "40"]) == 0
    assert computed == {"likelihoods": 2, "run_ais": 1}
    assert evaluate.main([vae, *COMMON, *AIS, "--num_samples", "40", "--limit", "90"]) == 0
    assert computed == {"likelihoods": 3, "run_ais": 1}
    assert evaluate.main([vae, *COMMON, *AIS, "--num_samples", "40", "--limit", "90", "--ais_chains", "2"]) == 0
    assert computed == {"likelihoods": 3, "run_ais": 2}
    assert evaluate.main([vae, *COMMON, *AIS]) == 0  # the first setting again
    assert computed == {"likelihoods": 3, "run_ais": 2}
    assert evaluate.main([vae, *COMMON, *AIS, "--limit", "5", "--overwrite"]) == 0  # AIS of no more images than these
    assert computed == {"likelihoods": 4, "run_ais": 3}
    assert read("vae")["ais_images"] == 5


def test_a_checkpoint_that_training_replaces_meanwhile_is_evaluated_again(computed, monkeypatch):
    """What is kept is of the weights that were read, whatever the file has become before their turn."""
    vae, checkpoint = ALL[0], torch.load(ALL[0], weights_only=True)
    show = evaluate.evaluate_and_report

    def replaced(*args):
        checkpoint["state_dict"] = {key: value + 0.1 for key, value in checkpoint["state_dict"].items()}
        torch.save(checkpoint, vae)
        return show(*args)

    monkeypatch.setattr(evaluate, "evaluate_and_report", replaced)
    assert evaluate.main([vae, *COMMON]) == 0
    of_old = read("vae")["nll"]
    monkeypatch.setattr(evaluate, "evaluate_and_report", show)
    assert evaluate.main([vae, *COMMON]) == 0
    assert computed["likelihoods"] == 2
    assert read("vae")["nll"] != of_old


def spread(path):
    """Makes q(z|x) of a checkpoint far too narrow: importance weights with a heavy tail."""
    checkpoint = torch.load(path, weights_only=True)
    state, z_dim = checkpoint["state_dict"], checkpoint["hyper_parameters"]["z_dim"]
    last = max((key for key in state if key.startswith("encoder") and key.endswith("bias")), key=list(state).index)
    assert len(state[last]) == 2 * z_dim
    state[last][z_dim:] -= 4
    torch.save(checkpoint, path)


def test_doubt_is_said_in_a_sentence_with_what_ais_moves(capsys):
    vae = ALL[0]
    spread(vae)
    assert evaluate.main([vae, *COMMON, "--report", "r"]) == 0
    result = read("vae")
    assert result["k_hat_above"] > tables.HIGH_K_HAT_SHARE
    remark = (
        f"Pareto k-hat is above 0.7 for up to {result['k_hat_above']:.0%} of the images (vae): K = 50 samples are too"
    )
    out = capsys.readouterr().out
    assert remark in out
    assert "--ais says by how much at least." in out
    assert remark in Path("r/results.md").read_text()
    assert evaluate.main([vae, *COMMON, *AIS]) == 0
    result, out = read("vae"), capsys.readouterr().out
    assert result["ais_lowers_nll"] > 0.5  # samples of so narrow a q miss most of p(x)
    amount = f"at least {result['ais_lowers_nll']:.2f} ± {result['ais_lowers_nll_se']:.2f} nats more (vae)"
    assert f"AIS, itself a lower bound on log p(x), finds {amount} on the images that it was run on." in out
    assert "--ais says" not in out
    assert f"-{result['ais_lowers_nll']:.2f} ± " in out  # in the table, as AIS - NLL


def test_where_nothing_is_doubtful_nothing_is_said(capsys, monkeypatch):
    monkeypatch.setattr(tables, "HIGH_K_HAT_SHARE", 1.0)
    assert evaluate.main([ALL[0], *COMMON]) == 0
    assert "Pareto" not in capsys.readouterr().out


def test_wandb_gets_the_results_beside_the_numbers_of_training():
    known = Path("vae/wandb_id").read_text().strip()
    before = set(Path().rglob("*.wandb"))
    assert evaluate.main(["[va]*/checkpoints/best.ckpt", *COMMON, "--report", "r", "--wandb", "offline"]) == 0
    wandb.teardown()  # only now all of it is on the disk
    new = sorted(set(Path().rglob("*.wandb")) - before)
    assert [path.parts[0] for path in new] == ["r", "vae"]  # the AE was never in W&B
    found = read_wandb_file(new[1])
    assert {record.run.run_id for record in found if record.HasField("run")} == {known}
    seen = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    result = read("vae")
    assert seen["test/nll"] == result["nll"]
    assert seen["test/k_hat_above"] == result["k_hat_above"]
    (table,) = Path("r").rglob("*.table.json")
    content = json.loads(table.read_text())
    rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    assert [(row["model"], row["nll"]) for row in rows] == [("AE", None), ("VAE", result["nll"])]


def test_a_wandb_that_fails_costs_a_warning_alone(monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("out of order")

    monkeypatch.setattr(wandb, "init", fail)
    assert evaluate.main([ALL[0], *COMMON, "--wandb", "offline"]) == 0
    err = capsys.readouterr().err
    assert re.findall("^warning: .*", err, re.MULTILINE) == ["warning: W&B has not got all results (out of order)."]
    assert read("vae")["nll"] is not None
