"""slurm/train.sbatch on a real SLURM: one job, arrays, several tasks; preempted = uninterrupted, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from slurm_cluster import cluster, missing, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

ROOT = Path(__file__).parents[1]
COMMAND = ["--model.hidden", "[8]", "--trainer.max_epochs", "2", "--num_samples", "0", "--callbacks", "[]",
           "--save_every_steps", "4", "--trainer.log_every_n_steps", "1", "--trainer.accelerator", "cpu"]  # fmt: skip
HIGH = ["--partition=high", "--nodes=2", "--exclusive", "--wrap=true"]  # needs all there is
LAST = Path("checkpoints", "last.ckpt")
# Of Python's own start: in step HOLD_AT of its first start, train.py waits until it has noted a signal, or for ever
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
    env["MASTER_ADDR"] = "127.0.0.1"  # the names of its nodes are in no table of hosts
    env["PYTHONPATH"] = f"{folder / 'patch'}{os.pathsep}{ROOT}"
    with cluster(folder, env) as running:
        (running.folder / "train.py").symlink_to(ROOT / "train.py")
        yield running


@pytest.fixture(scope="module")
def whole(slurm):
    """The run folders of uninterrupted runs without SLURM, by the number of devices."""
    folders = {}
    for devices in (1, 2):
        more = ["--run_dir", f"whole-{devices}", "--trainer.devices", str(devices)]
        subprocess.run([sys.executable, "train.py", *COMMAND, *more], cwd=slurm.folder, env=slurm.env, check=True)
        folders[devices] = slurm.folder / f"whole-{devices}"
    return folders


def submit(slurm, *words, sbatch=(), **variables):
    """Submits slurm/train.sbatch and returns the job's number."""
    script = [*sbatch, "--cpus-per-task=1", "--time=10", str(ROOT / "slurm" / "train.sbatch")]
    return slurm.run("sbatch", "--parsable", *script, *COMMAND, *words, **variables)


def log(slurm, job):
    return (slurm.folder / f"slurm-{job}.out").read_text()


def run_dir(slurm, job):
    return slurm.folder / "runs" / "slurm" / job


def reached(slurm, job, process=0):
    """Waits until a process of a job holds, and returns its number."""
    path = slurm.folder / f"reached-{slurm.show(job)['JobId']}-{process}"
    wait_for(path.exists, f"job {job} to reach its step")
    return path.read_text()


def ended_well(slurm, job, restarts):
    found = slurm.end(job)
    assert (found["JobState"], found["ExitCode"], found["Restarts"]) == ("COMPLETED", "0:0", str(restarts)), log(
        slurm, job
    )


def assert_same(folder, other):
    """The weights, the optimiser, the metrics."""
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
def test_a_preempted_job_goes_on(slurm, whole, partition):
    # `low` kills after seconds, in the middle of a step; `grace` leaves the time to save
    how = {"HOLD_AT": "18", "HOLD_UNTIL": {"low": "killed", "grace": "noted"}[partition]}
    job = submit(slurm, sbatch=[f"--partition={partition}"], **how)
    reached(slurm, job)
    more_important = slurm.run("sbatch", "--parsable", *HIGH)
    slurm.start_again(job)
    assert slurm.end(more_important)["JobState"] == "COMPLETED"
    ended_well(slurm, job, restarts=1)
    assert ("Stopped by SIGTERM after step 19." in log(slurm, job)) == (partition == "grace")
    assert_same(whole[1], run_dir(slurm, job))


def test_a_job_near_its_time_limit_goes_on(slurm, whole):
    job = submit(slurm, HOLD_AT="18", HOLD_UNTIL="noted")
    reached(slurm, job)
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")  # of which --signal leaves nothing
    slurm.start_again(job, "TimeLimit=10")
    ended_well(slurm, job, restarts=1)
    assert "Stopped by SIGUSR1 after step 19." in log(slurm, job)
    assert_same(whole[1], run_dir(slurm, job))


def test_an_array_is_a_run_for_each_seed_and_one_of_them_starts_again(slurm, whole):
    array = submit(slurm, sbatch=["--array=0-1"], HOLD_AT="18", HOLD_UNTIL="noted")
    jobs = [f"{array}_{seed}" for seed in (0, 1)]
    for job in jobs:
        reached(slurm, job)
    # one of them has the number of the whole array
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


def test_two_tasks_share_a_run_and_go_on(slurm, whole):
    job = submit(slurm, sbatch=["--ntasks-per-node=2"], HOLD_AT="8", HOLD_UNTIL="noted")
    for process in (0, 1):
        reached(slurm, job, process)
    slurm.run("scancel", "--signal=USR1", job)
    slurm.start_again(job)
    ended_well(slurm, job, restarts=1)
    assert_same(whole[2], run_dir(slurm, job))


def test_two_nodes_share_a_run(slurm, whole):
    job = submit(slurm, sbatch=["--nodes=2"])
    ended_well(slurm, job, restarts=0)
    assert_same(whole[2], run_dir(slurm, job))


def test_a_job_whose_node_is_lost_goes_on(slurm, whole):
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


def test_a_cancelled_job_stays_so_and_another_goes_on_in_its_folder(slurm, whole):
    job = submit(slurm, HOLD_AT="18", HOLD_UNTIL="noted")
    reached(slurm, job)
    slurm.run("scancel", job)
    assert slurm.end(job)["JobState"] == "CANCELLED"
    again = submit(slurm, "--run_dir", f"runs/slurm/{job}")
    ended_well(slurm, again, restarts=0)
    assert_same(whole[1], run_dir(slurm, job))


@pytest.mark.parametrize(
    ("sbatch", "words", "said"),
    [
        ([], ["--trainer.devices", "2"], "SLURM runs 1 task on 1 node, and --trainer.devices is 2"),
        (["--ntasks-per-node=2"], ["--trainer.devices", "1"], "SLURM runs 2 tasks on 1 node, and --trainer.devices"),
        ([], ["--resume", "auto"], "leave --resume out"),
        (["--array=0"], ["--seed", "3"], "leave --seed out"),
        (["--array=0"], ["--run_dir=runs/mine"], "leave --run_dir out"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(slurm, sbatch, words, said):
    job = submit(slurm, *words, sbatch=sbatch)
    job += "_0" if "--array=0" in sbatch else ""
    assert slurm.end(job)["ExitCode"] in ("2:0", "143:0")  # 143 where srun has ended the other task
    assert said in log(slurm, job)
    assert "Traceback" not in log(slurm, job)
    assert not run_dir(slurm, job).exists()
