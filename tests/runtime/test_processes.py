"""The processes of a run, as defined by the environment variables of SLURM and torchrun."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from torch import distributed

import train
from cli.train_options import DEFAULTS, build_parser
from runtime.processes import (
    INTERACTIVE_STEP_ID,
    check_tasks,
    cluster_plugins,
    configure_performance,
    keep_memory,
    launcher_world,
    shutdown_distributed,
)

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "elbo-room", "SLURM_NNODES": "1", "SLURM_NTASKS": "1"}
SALLOC = JOB | {"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "4"}
SCRIPT = JOB | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = SCRIPT | {"SLURM_STEP_ID": "0"}
TWO = STEP | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
NODES = STEP | {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2"}
SHELLS = {
    "salloc": SALLOC,
    "interactive step": SALLOC | {"SLURM_STEP_ID": INTERACTIVE_STEP_ID, "SLURM_PROCID": "0"},
    "srun --pty": STEP | {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "40000"},
}


@pytest.fixture
def variables(monkeypatch):
    """Set these environment variables of a launcher and no others."""

    def put(values):
        for name in [*os.environ]:
            if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize("devices", [1, 8, "auto", "-1"])
def test_without_a_launcher_there_are_no_plugins(variables, devices):
    variables({})
    check_tasks(devices, 4)
    assert cluster_plugins() == []


def test_torchrun_takes_precedence_over_slurm(variables):
    variables(TWO | {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"})
    check_tasks(4, 2)
    assert cluster_plugins() == []


@pytest.mark.parametrize(
    ("values", "devices", "num_nodes"),
    [
        (STEP, 1, 1),
        (STEP, [3], 1),
        (STEP, "0,", 1),
        (TWO, 2, 1),
        (TWO, "2", 1),
        (TWO, "0,1", 1),
        (TWO | {"SLURM_PTY_PORT": "40000"}, 2, 1),
        (TWO | {"SLURM_JOB_NAME": "interactive"}, 2, 1),  # srun in the shell of salloc
        (TWO | {"SLURM_NTASKS": "1"}, 1, 1),  # srun --ntasks=1 in a job of two
        (NODES, 4, 2),
    ],
)
def test_a_task_for_each_device_is_run_without_lightnings_signals(variables, values, devices, num_nodes):
    variables(values)
    check_tasks(devices, num_nodes)
    [plugin] = cluster_plugins()
    assert isinstance(plugin, SLURMEnvironment)
    assert plugin.auto_requeue is False
    assert plugin.world_size() == int(values["SLURM_NTASKS"])


@pytest.mark.parametrize(("devices", "num_nodes"), [(1, 1), (3, 1), (2, 2), ("auto", 1)])
def test_torchrun_and_the_options_agree(variables, devices, num_nodes):
    variables({"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"})
    check_tasks(2, 1)
    check_tasks("0,1", 1)
    with pytest.raises(ValueError, match=r"torchrun runs 2 processes, and --trainer.devices is|got auto\.$"):
        check_tasks(devices, num_nodes)


@pytest.mark.parametrize(
    ("values", "devices", "num_nodes", "message"),
    [
        (STEP, 2, 1, "SLURM runs 1 task on 1 node, and --trainer.devices is 2"),
        (TWO, 1, 1, "SLURM runs 2 tasks on 1 node, and --trainer.devices is 1"),
        (TWO, [0], 1, "ask SLURM for --ntasks-per-node=1"),
        (NODES, 2, 2, "SLURM runs 8 tasks on 2 nodes, and --trainer.devices is 2"),
        (NODES, 4, 1, "on 2 nodes, and --trainer.num_nodes is 1: give --trainer.num_nodes 2"),
        (STEP, 1, 2, "on 1 node, and --trainer.num_nodes is 2"),
        (NODES | {"SLURM_NTASKS_PER_NODE": "8"}, 4, 2, "SLURM runs 8 tasks"),
        (STEP | {"SLURM_NTASKS": "2"}, 2, 1, "asked for --ntasks=2, .* ask for --ntasks-per-node=2"),
        (TWO, "auto", 1, "is the number of tasks per node; got auto"),
        (TWO, "-1", 1, "is the number of tasks per node; got -1"),
        (SCRIPT | {"SLURM_NTASKS": "2"}, 1, 1, "SLURM has 2 tasks on 1 node .* write 'srun python train.py'"),
        (SCRIPT | {"SLURM_NTASKS": "2"}, 2, 1, "train.py was started once"),
        (SCRIPT | {"SLURM_NTASKS": "2", "SLURM_NNODES": "2"}, 1, 2, "SLURM has 2 tasks on 2 nodes"),
        (SALLOC, 1, 2, "train.py was started once"),
    ],
)
def test_mismatched_tasks_are_refused(variables, values, devices, num_nodes, message):
    variables(values)
    with pytest.raises(ValueError, match=message):
        check_tasks(devices, num_nodes)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("devices", [1, 2])
def test_in_a_shell_of_a_job_train_py_starts_its_processes_itself(variables, shell, devices):
    variables(SHELLS[shell])
    check_tasks(devices, 1)
    [plugin] = cluster_plugins()
    assert isinstance(plugin, LightningEnvironment)


@pytest.mark.parametrize("shell", SHELLS)
def test_train_py_runs_in_a_shell_of_a_job(variables, tmp_path, shell):
    variables(SHELLS[shell])
    options = ["--data", "Digits", "--model.hidden", "[8]", "--trainer.max_epochs", "1", "--num_samples", "0"]
    options += ["--callbacks", "[]"]
    assert train.main([*options, "--trainer.accelerator", "cpu", "--run_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_a_mismatch_ends_train_py_before_anything_is_written(variables, tmp_path, capsys):
    variables(TWO)
    assert train.main(["--trainer.devices", "1", "--run_dir", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: SLURM runs 2 tasks")
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_as_many_devices_as_tasks_by_default(variables, devices):
    variables(TWO if devices == 2 else {})
    assert launcher_world() == (devices, 1)
    assert int(build_parser(DEFAULTS).get_defaults().trainer.devices) == devices


# Performance and shutdown


@pytest.mark.parametrize("available", [True, False])
def test_cuda_is_disabled_without_a_gpu(monkeypatch, available):
    monkeypatch.setattr("runtime.processes.keep_memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    configure_performance()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("3" if available else "")


def test_denormal_numbers_are_flushed_to_zero(monkeypatch):
    monkeypatch.setattr("runtime.processes.keep_memory", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    torch.set_flush_denormal(False)
    configure_performance()
    assert (torch.full((64,), 1e-38) / 1e4).count_nonzero() == 0


@pytest.mark.parametrize("variables", [{}, {"MALLOC_TRIM_THRESHOLD_": "1"}])
def test_memory_is_kept_unless_malloc_variables_are_set(monkeypatch, variables):
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    told = []
    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=lambda *option: told.append(option)))
    keep_memory()
    assert told == ([] if variables else [(-3, 2**25), (-1, 2**30)])


@pytest.mark.parametrize("library", [SimpleNamespace(), None])
def test_systems_without_glibc_are_left_unchanged(monkeypatch, library):
    def load(name):
        if library is None:
            raise TypeError("no such library")
        return library

    monkeypatch.setattr("ctypes.CDLL", load)
    keep_memory()


@pytest.mark.parametrize(("status", "left"), [(0, True), (138, True), (143, True), (1, False), (130, False)])
def test_the_process_group_is_destroyed_if_all_ranks_exit_together(monkeypatch, status, left):
    done = []
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: done.append(True))
    assert shutdown_distributed(status) == status
    assert done == [True] * left


LEAVES = """
import os
from pathlib import Path
from torch import distributed
from runtime.processes import shutdown_distributed

def gloo():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)

distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/store", rank=0, world_size=1)
distributed.barrier()
before = gloo()
shutdown_distributed(0)
print(before, gloo())
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have names under /proc, on Linux")
def test_no_thread_of_the_process_group_is_left(tmp_path):
    """A thread that needs the interpreter after its end sometimes aborts the process (pytorch issue 190489)."""
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", LEAVES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = map(int, ran.stdout.split())
    assert before > 0
    assert after == 0
