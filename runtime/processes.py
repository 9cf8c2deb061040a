"""The processes of a run: started by srun, torchrun or train.py itself; their number, performance and warnings."""

import ctypes
import logging
import os
import signal
import warnings
from contextlib import suppress
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed

from runtime.collectives import group_beside, patient_group

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
# Exit statuses with which all ranks end after the same step. Windows has no SIGUSR1.
COORDINATED_EXIT_CODES = (0, *(128 + getattr(signal, name) for name in ("SIGUSR1", "SIGTERM") if hasattr(signal, name)))
INTERACTIVE_STEP_ID = str(2**32 - 6)  # SLURM_STEP_ID in the shell that salloc opens on some clusters


def is_srun_task() -> bool:
    """Return whether srun started this process as a task of a job step, and not as an interactive shell."""
    if "SLURM_STEP_ID" not in os.environ or os.environ["SLURM_STEP_ID"] == INTERACTIVE_STEP_ID:
        return False
    # srun --pty also opens a shell
    return "SLURM_PTY_PORT" not in os.environ or env_int("SLURM_NTASKS") > 1


def env_int(name: str) -> int:
    """Return the integer value of an environment variable set by a launcher, or 1 if it is not set."""
    return int(os.environ.get(name, "1"))


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: 1 task, 2 tasks, 2 processes."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def devices_per_node(devices: int | str | list[int]) -> int:
    """Return the number of devices given by `--trainer.devices`.

    Raises:
        ValueError: The number is not fixed ("auto" or -1), so it cannot be compared with the number of tasks.
    """
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([index for index in str(devices).split(",") if index.strip()])
    if not str(devices).isdigit():
        raise ValueError(f"Under srun or torchrun, --trainer.devices is the number of tasks per node; got {devices}.")
    return int(devices)


def check_tasks(devices: int | str | list[int], num_nodes: int) -> None:
    """Raise ValueError unless SLURM or torchrun runs one task for each device.

    Args:
        devices: `--trainer.devices`, per node.
        num_nodes: `--trainer.num_nodes`.
    """
    if TorchElasticEnvironment.detect():
        if devices_per_node(devices) * num_nodes != env_int("WORLD_SIZE"):
            raise ValueError(
                f"torchrun runs {plural(env_int('WORLD_SIZE'), 'process')}, and --trainer.devices is {devices}, on "
                f"{plural(num_nodes, 'node')}: leave --trainer.devices out, or give --nproc_per_node as many."
            )
        return
    if "SLURM_JOB_ID" not in os.environ:
        return
    tasks, nodes = env_int("SLURM_NTASKS"), env_int("SLURM_NNODES")
    tasks_text = f"{plural(tasks, 'task')} on {plural(nodes, 'node')}"
    if not is_srun_task():
        # SLURM sets SLURM_PROCID in a batch script, but not in the shell of salloc, where any number may be started
        in_script = "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" not in os.environ
        if num_nodes > 1 or (in_script and tasks > 1):
            raise ValueError(
                f"SLURM has {tasks_text} for this job, and train.py was started once: write 'srun python train.py', or "
                "ask for one task with --nodes=1 --ntasks-per-node=1."
            )
        return
    each = devices_per_node(devices)
    if nodes != num_nodes:
        raise ValueError(
            f"SLURM runs {tasks_text}, and --trainer.num_nodes is {num_nodes}: give --trainer.num_nodes {nodes}, or "
            f"ask SLURM for --nodes={num_nodes}."
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM was asked for --ntasks={tasks}, which does not fix the number of tasks per node: ask for "
            f"--ntasks-per-node={each} instead, one task per device."
        )
    if tasks != each * nodes or (tasks > 1 and env_int("SLURM_NTASKS_PER_NODE") != each):
        raise ValueError(
            f"SLURM runs {tasks_text}, and --trainer.devices is {devices}: there must be one task per device; ask "
            f"SLURM for --ntasks-per-node={each}, or change --trainer.devices."
        )


def cluster_plugins() -> list[ClusterEnvironment]:
    """Return the Trainer plugins that determine this process's rank; none if Lightning's own detection is right."""
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return []
    if is_srun_task():
        # callbacks.GracefulStop handles SIGUSR1; Lightning would save in the middle of a step and requeue the job
        return [SLURMEnvironment(auto_requeue=False)]
    # in the shell of salloc; Lightning would wait for tasks that are never started
    return [LightningEnvironment()]


def launcher_world() -> tuple[int, int]:
    """Return the processes per node and the number of nodes that torchrun or srun started; (1, 1) without them."""
    if TorchElasticEnvironment.detect():
        processes = env_int("LOCAL_WORLD_SIZE")
        return processes, env_int("WORLD_SIZE") // processes
    if "SLURM_JOB_ID" in os.environ and is_srun_task():
        return env_int("SLURM_NTASKS_PER_NODE"), env_int("SLURM_NNODES")
    return 1, 1


def global_rank() -> int:
    """Return the global rank of this process; 0 in a run with a single process."""
    return rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it on the function


def rank_prefix() -> str:
    """Return the prefix of this process's error messages: "rank 1: ", or an empty string on rank 0."""
    return f"rank {global_rank()}: " if global_rank() else ""


def is_peer_failure(error: Exception) -> bool:
    """Return whether an error is the consequence of the failure of another rank."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def init_distributed(device: str, devices: int) -> str:
    """Initialise the process group of the launcher's processes or `devices` new ones; return this rank's device.

    Args:
        device: Device of a run with a single process; otherwise only its type is used.
        devices: Number of processes per node; 0 for the launcher's.
    """
    processes, nodes = launcher_world()
    devices = devices or processes
    if devices * nodes == 1:
        return device
    kind = torch.device(device).type
    check_tasks(devices, nodes)
    plugins: list[Any] = cluster_plugins()  # Fabric declares a list of a union, and list types are invariant
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy="ddp", plugins=plugins or None)
    fabric.launch()
    patient_group()  # now, while no rank is ahead of the others
    return str(fabric.device)


def shutdown_distributed(status: int) -> int:
    """Destroy the process group if all ranks exit together, and return the exit status.

    Otherwise the threads of the group would outlive the interpreter and abort the process at shutdown.

    Args:
        status: Exit status of this process. If it is not one of `COORDINATED_EXIT_CODES`, as after an error or Ctrl-C,
            other ranks may have failed or still be running, so this rank does not wait for them.
    """
    if status in COORDINATED_EXIT_CODES and distributed.is_available() and distributed.is_initialized():
        group_beside.cache_clear()
        distributed.destroy_process_group()
    return status


def configure_performance() -> None:
    """Configure torch and malloc for speed. Call it before the first tensor; it changes the environment permanently."""
    # denormal numbers slow down Adam and large K several times
    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        # at each step, optimizers of torch 2.15 check whether there is a GPU, which takes 0.25 ms
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    keep_memory()


def keep_memory() -> None:
    """Let glibc keep freed arrays of up to 32 MiB, unless MALLOC_* variables are set.

    By default glibc returns them to the system after each step and allocates them again page by page, which takes a
    quarter of the training time of IWAE.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError, TypeError):  # systems without glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**30)


def show_lightning_output(profiler: bool, summary: bool) -> None:
    """Let Lightning print its profiler's report or the model summary, which `filter_warnings` hides."""
    enabled = {"pytorch_lightning.profilers.profiler": profiler, "pytorch_lightning.callbacks.model_summary": summary}
    for name in [name for name, is_enabled in enabled.items() if is_enabled]:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.propagate = False


def filter_warnings() -> None:
    """Print each warning on one line, and hide Lightning's messages below the level of warnings."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    # Lightning 2.6 with torch 2.15; users cannot change it
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # machines with SLURM may be used without it
    warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    # check_resumed reports dropped callbacks as changed options
    warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")  # first steps: no graph yet
    # the M1 of an M1M2 is always in evaluation mode
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
