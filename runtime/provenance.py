"""Provenance of a result: the commit of the code and the machine."""

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch


@cache
def commit() -> str | None:
    """Return the commit of this code, with a + if tracked files differ from it; None outside a git clone."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # installed into a folder that happens to lie in another repository
        return None
    try:
        name, changes = (
            subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return name.strip() + ("+" if changes else "")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: torch.device, processes: int = 1) -> str:
    """Return the hardware as text: number of processes, GPU or processor with its threads, and the torch version."""
    threads = torch.get_num_threads()
    cpu = f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    return f"{f'{processes} x ' if processes > 1 else ''}{name}, torch {torch.__version__}"
