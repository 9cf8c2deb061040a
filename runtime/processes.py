"""The processes of a run: who starts them (SLURM's srun, torchrun, or train.py itself), how many, and what they say."""

import ctypes
import logging
import os
import signal
import warnings
from contextlib import suppress

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

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# Exit statuses of runs that all processes end at one step; Windows has no SIGUSR1
COORDINATED_EXIT_CODES = (0, *(128 + getattr(signal, name) for name in ("SIGUSR1", "SIGTERM") if hasattr(signal, name)))
INTERACTIVE_STEP_ID = str(2**32 - 6)  # of the shell that salloc opens on some clusters


def is_srun_task() -> bool:
    """Whether srun has started this process as one of the tasks of a job step, and not a person's shell."""
    if "SLURM_STEP_ID" not in os.environ or os.environ["SLURM_STEP_ID"] == INTERACTIVE_STEP_ID:
        return False
    # srun --pty opens a shell, too
    return "SLURM_PTY_PORT" not in os.environ or env_int("SLURM_NTASKS") > 1


def env_int(name: str) -> int:
    """A number that a launcher has put into the environment, or 1."""
    return int(os.environ.get(name, "1"))


def plural(number: int, what: str) -> str:
    """1 task, 2 tasks, 2 processes."""
    return f"{number} {what}" + ("" if number == 1 else "es" if what.endswith("s") else "s")


def devices_per_node(devices: int | str | list[int]) -> int:
    """How many devices `--trainer.devices` names.

    Raises:
        ValueError: As many as there are, which SLURM's tasks cannot be compared with.
    """
    if isinstance(devices, list):
        return len(devices)
    if "," in str(devices):
        return len([index for index in str(devices).split(",") if index.strip()])
    if not str(devices).isdigit():
        raise ValueError(f"Under srun or torchrun, --trainer.devices is the number of tasks per node; got {devices}.")
    return int(devices)


def check_tasks(devices: int | str | list[int], num_nodes: int) -> None:
    """ValueError, in a sentence, where SLURM runs other tasks than one for each device.

    Args:
        devices: `--trainer.devices`, of one node.
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
    has = f"{plural(tasks, 'task')} on {plural(nodes, 'node')}"
    if not is_srun_task():
        # a batch script is told to be a task itself; the shell of salloc is not, and may do what it likes
        in_script = "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" not in os.environ
        if num_nodes > 1 or (in_script and tasks > 1):
            raise ValueError(
                f"SLURM has {has} for this job, and train.py was started once: write 'srun python train.py', or ask "
                "for one task by --nodes=1 --ntasks-per-node=1."
            )
        return
    each = devices_per_node(devices)
    if nodes != num_nodes:
        raise ValueError(
            f"SLURM runs {has}, and --trainer.num_nodes is {num_nodes}: give --trainer.num_nodes {nodes}, or "
            f"ask SLURM for --nodes={num_nodes}."
        )
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(
            f"SLURM was asked for --ntasks={tasks}, which leaves open how many run on each node: ask for "
            f"--ntasks-per-node={each} instead, one task for each device."
        )
    if tasks != each * nodes or (tasks > 1 and env_int("SLURM_NTASKS_PER_NODE") != each):
        raise ValueError(
            f"SLURM runs {has}, and --trainer.devices is {devices}: it must be one task for each device, so ask "
            f"SLURM for --ntasks-per-node={each}, or change --trainer.devices."
        )


def cluster_plugins() -> list[ClusterEnvironment]:
    """What tells the Trainer which of the run's processes this is; nothing where it finds out by itself."""
    if "SLURM_JOB_ID" not in os.environ or TorchElasticEnvironment.detect():
        return []
    if is_srun_task():
        # on SIGUSR1 Lightning would save in the middle of a step, and requeue: callbacks.GracefulStop waits for its end
        return [SLURMEnvironment(auto_requeue=False)]
    # in the shell of salloc, where Lightning would wait for tasks that nobody starts
    return [LightningEnvironment()]


def launcher_world() -> tuple[int, int]:
    """How many processes torchrun or srun has started on each machine, and on how many machines; one without them."""
    if TorchElasticEnvironment.detect():
        processes = env_int("LOCAL_WORLD_SIZE")
        return processes, env_int("WORLD_SIZE") // processes
    if "SLURM_JOB_ID" in os.environ and is_srun_task():
        return env_int("SLURM_NTASKS_PER_NODE"), env_int("SLURM_NNODES")
    return 1, 1


def rank_prefix() -> str:
    """What begins an error of this process where it is not the first of several, which may have another one."""
    return f"rank {rank_zero_only.rank}: " if rank_zero_only.rank else ""


def is_peer_failure(error: Exception) -> bool:
    """Whether this is what the end of another process looks like from here."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def init_distributed(device: str, devices: int) -> str:
    """Makes this process one of several that share the work, those of a launcher or `devices` new ones, and says which
    device is its own."""
    processes, nodes = launcher_world()
    devices = devices or processes
    if devices * nodes == 1:
        return device
    kind = torch.device(device).type
    check_tasks(devices, nodes)
    plugins = cluster_plugins()
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy="ddp", plugins=plugins or None)
    fabric.launch()
    return str(fabric.device)


def shutdown_distributed(status: int) -> int:
    """Ends the group of processes of a run that all of them leave: its threads would outlive the interpreter and abort.

    Args:
        status: Of this process. With others than `TOGETHER`, as an error or Ctrl-C has them, some processes may be lost
            or still at work, and nobody waits for them.
    """
    if status in COORDINATED_EXIT_CODES and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    return status


def configure_performance() -> None:
    """Saves this process needless work; to be called before its first tensor. Changes its environment for good."""
    # numbers too small for a normal float slow Adam and large K down several times
    torch.set_flush_denormal(True)
    if not torch.cuda.is_available():
        # optimisers of torch 2.15 ask at each step whether there is a GPU, for a quarter of a millisecond
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    keep_memory()


def keep_memory() -> None:
    """Lets glibc keep the memory of arrays up to 32 MiB, where MALLOC_* variables say nothing else.

    It would give them back to the system after each step and get them anew page by page: a quarter of IWAE's time.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(AttributeError, TypeError):  # of systems without glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that it accepts
        mallopt(M_TRIM_THRESHOLD, 2**30)


def show_lightning_output(profiler: bool, summary: bool) -> None:
    """Let Lightning print its profiler's times or the model's layers, which `filter_warnings` would hide."""
    names = {"pytorch_lightning.profilers.profiler": profiler, "pytorch_lightning.callbacks.model_summary": summary}
    for name in [name for name, is_wanted in names.items() if is_wanted]:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.propagate = False


def filter_warnings() -> None:
    """Leaves warnings one line each, and of Lightning's messages only warnings."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    # Lightning 2.6 with torch 2.15: nothing that a user could change
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # a machine that has SLURM may be used without it
    warnings.filterwarnings("ignore", "The `srun` command is available on your system but is not used")
    # the M1 of an M1M2 is in evaluation mode for good
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode at the start of training")
