"""The processes of a run: how many there are, who started them, and what they say."""

import logging
import os
import warnings

import torch
from lightning_fabric import Fabric
from pytorch_lightning.utilities import rank_zero_only
from torch import distributed


def launched() -> tuple[int, int]:
    """How many processes torchrun has started on each machine, and on how many machines; one without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 1, 1
    processes = int(os.environ["LOCAL_WORLD_SIZE"])
    return processes, int(os.environ["WORLD_SIZE"]) // processes


def speaker() -> str:
    """What begins an error of this process where it is not the first of several, which may have another one."""
    return f"rank {rank_zero_only.rank}: " if rank_zero_only.rank else ""


def is_lost(error: Exception) -> bool:
    """Whether this is what the end of another process looks like from here."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def join(device: str, devices: int) -> str:
    """Makes this process one of several that share the work, those of torchrun or `devices` new ones, and says on which
    device it is to compute."""
    processes, nodes = launched()
    devices = devices or processes
    if devices * nodes == 1:
        return device
    kind = torch.device(device).type
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    return str(fabric.device)


def quieten() -> None:
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
