"""Submission of a sweep, with stand-ins for the commands of SLURM."""

import subprocess

import pytest

from sweep import slurm
from sweep.runs import Run


@pytest.fixture
def commands(monkeypatch):
    """Return the results of SLURM's commands by name; a test may change them."""
    results = {"squeue": (0, "", ""), "sbatch": (0, "17", "")}
    monkeypatch.setattr(slurm, "run_slurm", lambda *words: subprocess.CompletedProcess(words, *results[words[0]]))
    return results


def submit(folder):
    runs = [Run(f"seed={seed}", folder / f"seed={seed}", ["--seed", str(seed)]) for seed in (0, 1)]
    return slurm.submit("small", runs, [False, True], folder, [])


def test_a_submitted_job_keeps_its_list_of_runs(commands, tmp_path):
    folder = tmp_path / "sweep" / "small"
    assert submit(folder) == 0
    (file,) = folder.iterdir()
    assert file.read_text() == f"--seed 0 --run_dir {folder}/seed=0\n--seed 1 --run_dir {folder}/seed=1\n"


def test_a_refused_job_leaves_nothing(commands, tmp_path, capsys):
    commands["sbatch"] = (1, "", "invalid partition\n")
    assert submit(tmp_path / "sweep" / "small") == 1
    assert capsys.readouterr().err == "error: sbatch refused the job: invalid partition\n"
    assert list(tmp_path.iterdir()) == []


def test_a_refused_job_keeps_the_list_of_an_earlier_one(commands, tmp_path):
    assert submit(tmp_path) == 0
    commands["sbatch"] = (1, "", "invalid partition\n")
    before = list(tmp_path.iterdir())
    assert submit(tmp_path) == 1
    assert list(tmp_path.iterdir()) == before
