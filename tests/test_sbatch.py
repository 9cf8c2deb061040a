"""slurm/train.sbatch after each exit status of train.py, with shell scripts in place of the SLURM commands."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "slurm" / "train.sbatch"
# srun records its arguments, writes a checkpoint if SAVES is set, and exits with STATUS; scontrol records its arguments
COMMANDS = {
    "srun": 'echo "$@" >> srun.calls; [ "$SAVES" ] && mkdir -p "$SAVES" && date +%N > "$SAVES/new" '
    '&& mv "$SAVES/new" "$SAVES/last.ckpt"; exit "$STATUS"',
    "squeue": 'echo "$STATE"',
    "scontrol": 'echo "$@" >> scontrol.calls; exit "$REQUEUES"',
}
LAST = "runs/slurm/7/checkpoints"
JOB = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "REQUEUES": "0"}
ARRAY = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
SECOND_TASK = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture
def job(tmp_path):
    """Return a function that runs the script as SLURM would, in a folder with a train.py."""
    (tmp_path / "bin").mkdir()
    for name, line in COMMANDS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "submit").mkdir()
    (tmp_path / "submit" / "train.py").touch()

    def run(*words, status=0, state="RUNNING", saves="", **variables):
        env = JOB | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "STATUS": str(status)}
        env |= {"STATE": state, "SAVES": saves, "SLURM_SUBMIT_DIR": str(tmp_path / "submit")} | variables
        return subprocess.run(["bash", SCRIPT, *words], env=env, cwd=tmp_path, capture_output=True, text=True)

    run.calls = lambda name: (
        arguments.read_text() if (arguments := tmp_path / "submit" / f"{name}.calls").exists() else ""
    )
    run.folder = tmp_path / "submit"
    return run


@pytest.mark.parametrize(
    ("status", "state", "tasks", "saves", "requeued"),
    [
        (0, "RUNNING", 1, LAST, False),
        (1, "RUNNING", 1, LAST, False),  # diverged
        (2, "RUNNING", 1, "", False),  # invalid options
        (137, "RUNNING", 1, LAST, False),  # out of memory
        (138, "RUNNING", 1, LAST, True),  # near the time limit
        (138, "RUNNING", 1, "", True),  # before training, or after it
        (138, "COMPLETING", 1, LAST, False),  # cancelled in the meantime
        (143, "RUNNING", 1, LAST, True),  # notice of preemption
        (143, "RUNNING", 1, "", True),
        (143, "COMPLETING", 1, LAST, False),  # cancelled, or preempted without notice
        (143, "", 1, LAST, False),
        (143, "RUNNING", 2, LAST, True),  # all tasks have saved a checkpoint
        (143, "RUNNING", 2, "", False),  # one task failed, and srun ended the other
        (138, "RUNNING", 2, LAST, True),
    ],
)
def test_a_job_is_requeued_if_it_can_resume(job, status, state, tasks, saves, requeued):
    found = job(status=status, state=state, saves=saves, SLURM_NTASKS=str(tasks))
    assert found.returncode == status
    assert found.stderr == ""
    assert job.calls("scontrol") == ("requeue 7\n" if requeued else "")


def test_an_old_checkpoint_does_not_count_as_progress(job):
    job(status=0, saves=LAST)
    assert job(status=143, SLURM_NTASKS="2").returncode == 143
    assert job.calls("scontrol") == ""


def test_a_new_checkpoint_of_the_same_size_counts_as_progress(job):
    for _ in range(2):
        job(status=143, saves=LAST, SLURM_NTASKS="2")
    assert job.calls("scontrol") == "requeue 7\n" * 2


def test_requeueing_stops_after_three_starts_without_a_new_checkpoint(job):
    for _ in range(2):
        assert job(status=138).stderr == ""
    job(status=138, saves=LAST)
    for _ in range(2):
        assert job(status=138).stderr == ""
    assert len(job.calls("scontrol").splitlines()) == 5
    found = job(status=138)
    assert found.returncode == 138
    assert "Three starts made no progress: request a longer --time" in found.stderr
    assert len(job.calls("scontrol").splitlines()) == 5


def test_a_failed_requeue_says_how_to_resume(job):
    found = job(status=138, saves=LAST, REQUEUES="1")
    assert found.returncode == 138
    assert "resume with --run_dir runs/slurm/7" in found.stderr


def test_train_py_gets_its_options_from_the_job(job):
    job("--config", "my recipe.yaml", SLURM_NTASKS="8", SLURM_NTASKS_PER_NODE="4", SLURM_NNODES="2")
    arguments = job.calls("srun").split()
    assert arguments[:4] == ["--kill-on-bad-exit=1", "--wait=0", "python", "train.py"]
    for option, value in {"devices": "4", "num_nodes": "2"}.items():
        assert arguments[arguments.index(f"--trainer.{option}") + 1] == value
    assert " ".join(arguments).startswith(
        "--kill-on-bad-exit=1 --wait=0 python train.py --run_dir runs/slurm/7 --resume auto"
    )
    assert not any(word.startswith("--seed") for word in arguments)


def test_each_array_task_has_its_own_seed_folder_and_name(job):
    saves = "runs/slurm/7_0/checkpoints"
    job("--config", "a.yaml", status=138, saves=saves, **ARRAY)  # the job of seed 0 has the id of the array
    assert "--run_dir runs/slurm/7_0 " in job.calls("srun")
    assert job.calls("srun").endswith(" --config a.yaml --seed=0\n")
    assert job.calls("scontrol") == "requeue 7_0\n"


def test_a_task_of_an_array_takes_its_options_from_its_line_of_a_file(job):
    words = ["--model.hidden=[8, 4]", "--data.root=it's $HOME", "--seed=3", "--run_dir", "runs/a b"]
    (job.folder / "runs.txt").write_text(f"--seed=7\n{shlex.join(words)}\n")
    found = job("--options_file", "runs.txt", status=138, saves="runs/a b/checkpoints", **SECOND_TASK)
    assert found.stderr == ""
    calls = job.calls("srun")
    assert "--run_dir runs/a b --resume auto" in calls
    assert calls.endswith(f" {' '.join(words)}\n")  # the index is not the seed
    assert job.calls("scontrol") == "requeue 7_2\n"


@pytest.mark.parametrize(("variables", "message"), [
    ({}, "--options_file is for array jobs"),
    (SECOND_TASK, "runs.txt has no options in line 2"),
])  # fmt: skip
def test_an_array_without_a_line_for_its_task_is_refused(job, variables, message):
    (job.folder / "runs.txt").write_text("--seed=7\n")
    found = job("--options_file", "runs.txt", **variables)
    assert (found.returncode, found.stderr.count("\n")) == (2, 1)
    assert message in found.stderr
    assert job.calls("srun") == ""


@pytest.mark.parametrize("words", [["--run_dir", "runs/a b"], ["--run_dir=runs/a b"]])
def test_a_given_run_dir_takes_precedence(job, words):
    assert job(*words, status=143, saves="runs/a b/checkpoints", SLURM_NTASKS="2").returncode == 143
    assert job.calls("scontrol") == "requeue 7\n"  # the checkpoint there was found
    assert not (job.folder / "runs" / "slurm").exists()


def test_a_given_seed_takes_precedence(job):
    assert job("--seed", "3").returncode == 0
    assert job.calls("srun").endswith(" --seed 3\n")


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["--resume", "auto"], {}, "leave --resume out"),
        (["--resume=a.ckpt"], {}, "leave --resume out"),
        (["--seed", "3"], ARRAY, "leave --seed out"),
        (["--seed=3"], ARRAY, "leave --seed out"),
        (["--run_dir", "a"], ARRAY, "leave --run_dir out"),
        (["--run_dir=a"], ARRAY, "leave --run_dir out"),
        ([], {"SLURM_SUBMIT_DIR": "/"}, "There is no train.py in /: submit from the folder that holds it."),
    ],
)
def test_options_that_prevent_resuming_are_refused(job, words, variables, message):
    found = job(*words, **variables)
    assert found.returncode == 2
    assert message in found.stderr
    assert found.stderr.count("\n") == 1
    assert job.calls("srun") == ""


def test_without_slurm_the_script_says_to_use_sbatch(job):
    found = subprocess.run(["bash", SCRIPT], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert found.returncode != 0
    assert "start this script by sbatch" in found.stderr
