"""slurm/train.sbatch on a real SLURM: jobs, arrays and several tasks; preempted runs are bit-identical to others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from slurm_cluster import cluster, missing, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).parents[1]
COMMAND = [
    "--data",
    "Digits",
    "--model.hidden",
    "[8]",
    "--trainer.max_epochs",
    "2",
    "--num_samples",
    "0",
    "--callbacks",
    "[]",
    "--save_every_steps",
    "4",
    "--trainer.log_every_n_steps",
    "1",
    "--trainer.accelerator",
    "cpu",
]
HIGH = [
    "--partition=high",
    "--nodes=2",
    "--exclusive",
    "--wrap=true",
]  # needs all nodes, so it preempts every other job
LAST = Path("checkpoints", "last.ckpt")
# sitecustomize.py: at step HOLD_AT of a job's first start, train.py waits for a signal (or until it is killed)
HOLD = """
import os, sys
if sys.orig_argv[1:2] == ["train.py"] and "HOLD_AT" in os.environ and "SLURM_RESTART_COUNT" not in os.environ:
    import time
    from pathlib import Path
    from callbacks import GracefulStop
    from models import VAE
    mine = f"{os.environ['SLURM_JOB_ID']}-{os.environ['SLURM_PROCID']}"
    reached, noted = Path(f"reached-{mine}"), Path(f"noted-{mine}")
    def loss(self, x, y, measured=VAE.loss):
        if self.global_step == int(os.environ["HOLD_AT"]):
            reached.with_suffix(".new").write_text(str(os.getpid()))
            reached.with_suffix(".new").replace(reached)
            while os.environ["HOLD_UNTIL"] == "killed" or not noted.exists():
                time.sleep(0.05)
        return measured(self, x, y)
    def note(self, number, frame, note=GracefulStop._note):
        note(self, number, frame)
        noted.touch()
    VAE.loss, GracefulStop._note = loss, note
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(HOLD)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1"}
    env["MASTER_ADDR"] = "127.0.0.1"  # the node names cannot be resolved
    env["PYTHONPATH"] = f"{folder / 'patch'}{os.pathsep}{ROOT}"
    with cluster(folder, env) as running:
        (running.folder / "train.py").symlink_to(ROOT / "train.py")
        yield running


@pytest.fixture(scope="module")
def whole(slurm):
    """Run folders of uninterrupted runs without SLURM, by number of devices."""
    folders = {}
    for devices in (1, 2):
        more = ["--run_dir", f"whole-{devices}", "--trainer.devices", str(devices)]
        subprocess.run([sys.executable, "train.py", *COMMAND, *more], cwd=slurm.folder, env=slurm.env, check=True)
        folders[devices] = slurm.folder / f"whole-{devices}"
    return folders


def submit(slurm, *words, sbatch=(), **variables):
    """Submit slurm/train.sbatch and return the job id."""
    script = [*sbatch, "--cpus-per-task=1", "--time=10", str(ROOT / "slurm" / "train.sbatch")]
    return slurm.run("sbatch", "--parsable", *script, *COMMAND, *words, **variables)


def log(slurm, job):
    return (slurm.folder / f"slurm-{job}.out").read_text()


def run_dir(slurm, job):
    return slurm.folder / "runs" / "slurm" / job


def reached(slurm, job, process=0):
    """Wait until a process of a job has reached HOLD_AT, and return its process id."""
    path = slurm.folder / f"reached-{slurm.show(job)['JobId']}-{process}"
    wait_for(path.exists, f"job {job} to reach its step")
    return path.read_text()


def ended_well(slurm, job, restarts):
    found = slurm.end(job)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), log(
        slurm, job
    )


def assert_same(folder, other):
    """Assert that two runs have the same weights, optimizer states and metrics."""
    a, b = (torch.load(each / LAST, weights_only=True) for each in (folder, other))
    assert a["global_step"] == b["global_step"] > 0
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    for state, again in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for index, values in state["state"].items():
            assert all(torch.equal(value, again["state"][index][key]) for key, value in values.items())
    assert (folder / "metrics.csv").read_text() == (other / "metrics.csv").read_text()


def test_a_job_trains_and_evaluates(slurm, whole):
    job = submit(slurm, "--num_samples", "2")
    ended_well(slurm, job, restarts=0)
    assert (run_dir(slurm, job) / "evaluation.json").exists()
    assert_same(whole[1], run_dir(slurm, job))


@pytest.mark.parametrize("partition", ["low", "grace"])
def test_a_preempted_job_resumes(slurm, whole, partition):
    # Partition `low` kills after seconds, during a step; `grace` leaves time to save a checkpoint.
    how = {"HOLD_AT": "18", "HOLD_UNTIL": {"low": "killed", "grace": "noted"}[partition]}
    job = submit(slurm, sbatch=[f"--partition={partition}"], **how)
    reached(slurm, job)
    more_important = slurm.run("sbatch", "--parsable", *HIGH)
    slurm.start_again(job)
    assert slurm.end(more_important)["JobState"] == "COMPLETED"
    ended_well(slurm, job, restarts=1)
    assert ("Stopped by SIGTERM after step 19." in log(slurm, job)) == (partition == "grace")
    assert_same(whole[1], run_dir(slurm, job))


def test_a_job_near_its_time_limit_resumes(slurm, whole):
    job = submit(slurm, HOLD_AT="18", HOLD_UNTIL="noted")
    reached(slurm, job)
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # so that --signal is sent at once
    slurm.start_again(job, "TimeLimit=10")
    ended_well(slurm, job, restarts=1)
    assert "Stopped by SIGUSR1 after step 19." in log(slurm, job)
    assert_same(whole[1], run_dir(slurm, job))


def test_an_array_has_one_run_per_seed_and_each_can_restart(slurm, whole):
    array = submit(slurm, sbatch=["--array=0-1"], HOLD_AT="18", HOLD_UNTIL="noted")
    jobs = [f"{array}_{seed}" for seed in (0, 1)]
    for job in jobs:
        reached(slurm, job)
    # One of the two jobs has the id of the array.
    [first] = [job for job in jobs if slurm.show(job)["JobId"] == array]
    [other] = set(jobs) - {first}
    slurm.run("scancel", "--signal=USR1", first)
    slurm.start_again(first)
    ended_well(slurm, first, restarts=1)
    assert slurm.show(other)["JobState"] == "RUNNING"
    slurm.run("scancel", "--signal=USR1", other)
    slurm.start_again(other)
    ended_well(slurm, other, restarts=1)
    for seed, job in enumerate(jobs):
        config = yaml.safe_load((run_dir(slurm, job) / "config.yaml").read_text())
        assert config["seed"] == seed
    assert_same(whole[1], run_dir(slurm, jobs[0]))
    zero, one = (torch.load(run_dir(slurm, job) / LAST, weights_only=True)["state_dict"] for job in jobs)
    assert any(not torch.equal(value, one[key]) for key, value in zero.items())


def test_a_run_of_two_tasks_resumes(slurm, whole):
    job = submit(slurm, sbatch=["--ntasks-per-node=2"], HOLD_AT="8", HOLD_UNTIL="noted")
    for process in (0, 1):
        reached(slurm, job, process)
    slurm.run("scancel", "--signal=USR1", job)
    slurm.start_again(job)
    ended_well(slurm, job, restarts=1)
    assert_same(whole[2], run_dir(slurm, job))


def test_a_run_on_two_nodes(slurm, whole):
    job = submit(slurm, sbatch=["--nodes=2"])
    ended_well(slurm, job, restarts=0)
    assert_same(whole[2], run_dir(slurm, job))


def test_a_job_whose_node_fails_resumes(slurm, whole):
    job = submit(slurm, HOLD_AT="18", HOLD_UNTIL="killed")
    process = Path("/proc", reached(slurm, job))
    node = slurm.show(job)["NodeList"]
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
    wait_for(lambda: not process.exists(), "the process to be gone, as on a lost node")
    slurm.start_again(job)
    ended_well(slurm, job, restarts=1)
    assert slurm.show(job)["NodeList"] != node
    slurm.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
    assert_same(whole[1], run_dir(slurm, job))


def test_a_cancelled_job_is_not_requeued_and_another_job_can_resume_its_run(slurm, whole):
    job = submit(slurm, HOLD_AT="18", HOLD_UNTIL="noted")
    reached(slurm, job)
    slurm.run("scancel", job)
    assert slurm.end(job)["JobState"] == "CANCELLED"
    again = submit(slurm, "--run_dir", f"runs/slurm/{job}")
    ended_well(slurm, again, restarts=0)
    assert_same(whole[1], run_dir(slurm, job))


@pytest.mark.parametrize(
    ("sbatch", "words", "message"),
    [
        ([], ["--trainer.devices", "2"], "SLURM runs 1 task on 1 node, and --trainer.devices is 2"),
        (["--ntasks-per-node=2"], ["--trainer.devices", "1"], "SLURM runs 2 tasks on 1 node, and --trainer.devices"),
        ([], ["--resume", "auto"], "leave --resume out"),
        (["--array=0"], ["--seed", "3"], "leave --seed out"),
        (["--array=0"], ["--run_dir=runs/mine"], "leave --run_dir out"),
    ],
)
def test_inconsistent_options_are_refused(slurm, sbatch, words, message):
    job = submit(slurm, *words, sbatch=sbatch)
    job += "_0" if "--array=0" in sbatch else ""
    assert slurm.end(job)["ExitCode"] in ("2:0", "143:0")  # 143 if srun ended the other task
    assert message in log(slurm, job)
    assert "Traceback" not in log(slurm, job)
    assert not run_dir(slurm, job).exists()


def test_a_sweep_is_an_array_of_its_runs_and_a_preempted_one_resumes(slurm):
    values = {"model": "VAE", "data": "Digits", "num_samples": 2, "limit": 20, "model.hidden": [8], "callbacks": [],
              "trainer.max_epochs": 2, "trainer.accelerator": "cpu", "save_every_steps": 4}  # fmt: skip
    parameters = {name: {"value": value} for name, value in values.items()} | {"model.z_dim": {"values": [2, 3]}}
    (slurm.folder / "small.yaml").write_text(
        yaml.safe_dump({"program": "train.py", "method": "grid", "parameters": parameters}, sort_keys=False)
    )
    folders = [slurm.folder / "runs" / "sweep" / "small" / f"z_dim={z_dim}" for z_dim in (2, 3)]
    sbatch = "--sbatch=--partition=low --cpus-per-task=1 --time=10"
    start = [sys.executable, "-m", "sweep", "small.yaml", "--slurm", sbatch, "--trainer.log_every_n_steps=1"]

    text = slurm.run(*start, HOLD_AT="18", HOLD_UNTIL="killed")
    array = re.search(r"Submitted job (\d+) with 2 tasks", text)[1]
    again = subprocess.run(start, cwd=slurm.folder, env=slurm.env, capture_output=True, text=True)
    assert (again.returncode, f"Job {array} of this sweep is queued or running" in again.stderr) == (2, True)
    jobs = [f"{array}_{number}" for number in (1, 2)]
    for job in jobs:
        reached(slurm, job)
    more_important = slurm.run("sbatch", "--parsable", *HIGH)
    for job in jobs:
        slurm.start_again(job)
    assert slurm.end(more_important)["JobState"] == "COMPLETED"
    for job, folder in zip(jobs, folders, strict=True):
        found = slurm.end(job)
        output = (folder.parent / f"slurm-{job}.out").read_text()
        assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), output

    for z_dim, folder in zip((2, 3), folders, strict=True):
        options = [f"--{name}={value}" for name, value in values.items()]
        options += ["--trainer.log_every_n_steps=1", f"--model.z_dim={z_dim}", "--run_dir", f"whole-z{z_dim}"]
        subprocess.run([sys.executable, "train.py", *options], cwd=slurm.folder, env=slurm.env, check=True)
        assert_same(folder, slurm.folder / f"whole-z{z_dim}")
        assert (folder / "log_px.npy").read_bytes() == (slurm.folder / f"whole-z{z_dim}" / "log_px.npy").read_bytes()
    assert "2 runs, 2 of them finished." in slurm.run(*start)  # and nothing is submitted
    assert "Submitted job" in slurm.run(*start, "--num_samples=3")  # other options: to be evaluated again
