"""`python -m sweep`: options are checked before the first run starts."""

import re

import pytest

from sweep import local, slurm
from sweep.__main__ import main

TINY = {"data": {"value": "Digits"}, "model.hidden": {"value": [8]}, "num_samples": {"value": 0},
        "trainer.max_epochs": {"value": 1}}  # fmt: skip
Z = {"model.z_dim": {"values": [2, 3]}}


@pytest.fixture
def started(monkeypatch):
    """Return the names of all runs that have been started or submitted."""
    names = []
    monkeypatch.setattr(local, "run_all", lambda runs, processes: names.extend(run.name for run in runs) or 0)
    monkeypatch.setattr(slurm, "submit", lambda name, runs, *_: names.extend(run.name for run in runs) or 0)
    return names


def test_each_run_is_printed_and_started(sweep_file, tmp_path, started, capsys):
    arguments = [str(sweep_file(TINY | Z)), "--local", "2", "--sweep_dir", str(tmp_path), "--trainer.max_epochs", "3"]
    assert main(arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"1/2 \S+/file/z_dim=2: .*--trainer.max_epochs 3 --model.z_dim=2", out[0])
    assert out[-1] == "2 runs, 0 of them finished."
    assert started == ["z_dim=2", "z_dim=3"]


def test_a_dry_run_starts_nothing(sweep_file, tmp_path, started, capsys):
    assert main([str(sweep_file(TINY | Z)), "--slurm", "--sweep_dir", str(tmp_path / "runs"), "--dry_run"]) == 0
    assert "2/2 " in capsys.readouterr().out
    assert started == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("parameters", "more", "message"), [
    ({"model.zdim": {"values": [2]}}, [], r"zdim=2: Unknown option --model.zdim, did you mean --model.z_dim\?"),
    ({"model.z_dim": {"values": [2, "two"]}}, [], "z_dim=two: --model.z_dim takes a whole number.*; got two"),
    ({"model.z_dim": {"values": [2, -1]}}, [], "z_dim=-1: .*z_dim"),
    ({"model.objective": {"values": ["elbo", "iwea"]}}, [], "objective=iwea: .*iwea"),
    ({"model": {"values": ["VAE", "VEA"]}}, [], "model=VEA: .*VEA"),
    ({"seed": {"values": [0, -1]}}, [], "seed=-1: --seed must be between"),
    ({"model.lr": {"values": [0.001, "1e-3"]}}, [], "lr=0.001 and lr=1e-3 have the same options"),
    ({**Z, "compile": {"value": True}}, [], "z_dim=2: --compile takes no value: write --compile or --no_compile."),
    (Z, ["--trainer.max_epoch", "3"], "Unknown option --trainer.max_epoch, did you mean --trainer.max_epochs"),
    (Z, ["--trainer.precision", "12"], "12"),
    (Z, ["--callbacks", "[sample]"], "sample"),
    (Z, ["typo"], "Unexpected argument typo"),
    (Z, ["--data", "NPZ", "--data.root", "nowhere.npz"], "nowhere.npz"),
])  # fmt: skip
def test_a_mistake_ends_the_sweep_before_its_first_run(
    sweep_file, tmp_path, started, capsys, parameters, more, message
):
    folder = tmp_path / "runs"
    for mode in (["--local", "2"], ["--slurm"]):
        assert main([str(sweep_file(TINY | parameters)), *mode, "--sweep_dir", str(folder), *more]) == 2
        err = capsys.readouterr().err
        assert re.match(f"error: .*{message}", err)
        assert err.count("\n") == 1
    assert started == []
    assert not folder.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "exactly one of --local N and --slurm"),
    (["--local", "1", "--slurm"], "exactly one of"),
    (["--local", "0"], "--local must be at least 1"),
    (["--local", "two"], "argument --local: invalid int value"),
    (["--slurm", "--sbatch", "'--partition=gpu"], "--sbatch has an unclosed quote"),
    (["--local", "1", "--sweep_dir", "~nobody-of-this-name/runs"], "that user has no home folder"),
    (["--local", "1", "--sbatch=--partition=gpu"], "--sbatch has no effect without --slurm"),
])  # fmt: skip
def test_invalid_options_of_the_program_itself(sweep_file, started, capsys, arguments, message):
    assert main([str(sweep_file(TINY | Z)), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert started == []


def test_the_folder_of_all_sweeps_may_begin_with_a_tilde(sweep_file, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(slurm, "submit", lambda name, runs, finished, folder, sbatch: folders.append(folder) or 0)
    assert main([str(sweep_file(TINY | Z)), "--slurm", "--sweep_dir", "~/runs"]) == 0
    assert folders == [tmp_path / "runs" / "file"]


def test_a_folder_that_cannot_be_created_is_named(sweep_file, tmp_path, capsys):
    (tmp_path / "runs").write_text("a file")
    assert main([str(sweep_file(TINY | Z)), "--local", "1", "--sweep_dir", str(tmp_path / "runs")]) == 1
    assert re.match(r"error: \S+ cannot be used: Not a directory\.", capsys.readouterr().err)


def test_without_a_file(capsys):
    assert main(["--local", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: Name a sweep file first")
