"""evaluate.py on the run folders of a sweep: one table, means over seeds, and figures."""

import json

import evaluate
import train
from sweep.grid import read_sweep
from sweep.runs import make_runs


def test_all_runs_of_a_sweep_are_compared(sweep_file, tmp_path, capsys):
    fixed = {"data": "Digits", "model.hidden": [8], "trainer.max_epochs": 1, "num_samples": 0, "callbacks": [],
             "trainer.accelerator": "cpu", "trainer.enable_progress_bar": False}  # fmt: skip
    parameters = {name: {"value": value} for name, value in fixed.items()}
    parameters |= {"model.beta": {"values": [0.5, 1.0]}, "seed": {"values": [0, 1]}}
    for run in make_runs(read_sweep(sweep_file(parameters)), tmp_path / "runs"):
        assert train.main([*run.options, "--run_dir", str(run.folder)]) == 0
    capsys.readouterr()

    report = tmp_path / "report"
    options = ["--num_samples", "2", "--limit", "20", "--figures=[]", "--device", "cpu", "--report", str(report)]
    assert evaluate.main([str(tmp_path / "runs" / "**" / "best.ckpt"), *options]) == 0
    out = capsys.readouterr().out
    assert all(f"beta={beta},seed={seed}" in out for beta in (0.5, 1.0) for seed in (0, 1))
    assert "mean ± standard error over seeds" in out
    means = json.loads((report / "over_seeds.json").read_text())
    assert [(mean["group"], mean["n"]) for mean in means] == [("VAE, beta 0.5", 2), ("VAE, beta 1.0", 2)]
    assert {path.name for path in report.glob("*.png")} == {"results.png", "rate_distortion.png"}
