"""A session of measurements with a limit of time: runs jobs one by one and writes the results after each of them."""

import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.gpu.tables import markdown
from runtime.atomic_write import atomic_write

ROOT = Path(__file__).parents[2]
PACKAGES_OF_DEVICE = ("torch", "pytorch_lightning", "torchvision")
OVERRUN = 2.0  # a job is stopped after so many times the seconds that it declares


class OutOfTime(Exception):
    """A job has taken too long.

    Args:
        message: What took too long.
        output: What a command had printed until then.
    """

    def __init__(self, message: str, output: str = ""):
        super().__init__(message)
        self.output = output


class Session:
    """What all jobs of a run share.

    Args:
        root: Folder that holds MNIST.
        out: Folder of the results.
        work: Folder for run folders and other files that are not kept.
        end: Value of `time.monotonic()` at which the run must end.
    """

    def __init__(self, root: Path, out: Path, work: Path, end: float):
        self.root, self.out, self.work, self.end = root.absolute(), out, work, end
        self.is_tiny = not torch.cuda.is_available()  # a rehearsal on a machine without a GPU
        self.device = "cpu" if self.is_tiny else "cuda"
        self.environment = dict(os.environ)  # train.py changes it
        self.rows: list[dict[str, Any]] = []
        self.shared: dict[str, Any] = {}  # what later jobs take from earlier ones
        self.folders = 0
        self.reserved = 0.0  # seconds
        self.facts = machine_facts()

    def left(self) -> float:
        """Return the seconds left for this job, without those that are reserved for later checks."""
        return self.end - self.reserved - time.monotonic()

    def limit(self, seconds: float) -> float:
        """Return the seconds that a part of a job may take. A rehearsal, on a machine that may be busy, has all."""
        return max(1.0, self.left() if self.is_tiny else min(seconds, self.left()))

    def new_folder(self, name: str) -> Path:
        """Return the path of a new run folder."""
        self.folders += 1
        return self.work / f"{name}{self.folders}"

    def synchronize(self) -> None:
        """Wait for the GPU."""
        if not self.is_tiny:
            torch.cuda.synchronize()

    def run_all(self, jobs: Sequence["Job"]) -> None:
        """Run jobs in their order. Measurements leave the time that later checks may take."""
        for number, job in enumerate(jobs):
            if self.is_tiny and not job.is_rehearsed:
                continue
            checks = [] if job.is_check or self.is_tiny else [later for later in jobs[number:] if later.is_check]
            self.reserved = sum(check.seconds for check in checks)
            self.run(job)

    def run(self, job: "Job") -> None:
        """Run a job and write its result, or the reason why there is none."""
        row: dict[str, Any] = {"group": job.group, "name": job.name}
        if self.left() < (0 if self.is_tiny else job.seconds):
            row["skipped"] = f"may take {job.seconds:.0f} s, and {max(0, self.left()):.0f} s were left for it"
        else:
            self.reset_memory()
            start = time.monotonic()
            try:
                with time_limit(self.limit(OVERRUN * job.seconds)), same_state():
                    row |= job.measure(self)
            except Exception as error:  # no error of one job may prevent the others
                traceback.print_exc(file=sys.stderr)
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"
                if job.is_check:
                    row["passed"] = False
            row |= {"seconds": round(time.monotonic() - start, 1), **self.peak_memory()}
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def reset_memory(self) -> None:
        """Free what earlier jobs have left, and start to measure the peak of memory."""
        gc.collect()
        if not self.is_tiny:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_memory(self) -> dict[str, int]:
        """Return the peak memory of this process on the GPU since the last reset, in MiB; empty on a CPU."""
        if self.is_tiny:
            return {}
        return {
            "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20),
            "reserved_mib": round(torch.cuda.max_memory_reserved() / 2**20),
        }

    def write(self) -> None:
        """Replace the files of results by those of all jobs so far."""
        self.out.mkdir(parents=True, exist_ok=True)
        content = {"machine": self.facts, "rows": self.rows}
        with atomic_write(self.out / "gpu.json") as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())
        with atomic_write(self.out / "gpu.md") as file:
            file.write(markdown(self.facts, self.rows).encode())

    @property
    def has_failed_check(self) -> bool:
        """Whether a check has failed."""
        return any(row.get("passed") is False for row in self.rows)

    def call(self, command: Sequence[str], seconds: float, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the root of the project, with the environment that this run was started with.

        Args:
            command: The command.
            seconds: How long it may take, unless less time is left.
            variables: Further environment variables.

        Raises:
            OutOfTime: It has not ended in this time.
        """
        seconds, environment = self.limit(seconds), self.environment | variables
        try:
            return subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            printed: Any = error.stdout or b""  # bytes on POSIX
            printed = printed if isinstance(printed, str) else printed.decode(errors="replace")
            raise OutOfTime(f"{' '.join(command[1:5])} ... did not end in {seconds:.0f} s", printed) from error


class Job(NamedTuple):
    """One measurement or check.

    Args:
        group: Heading of its table.
        name: Name of its row.
        seconds: What it may take on a GPU; it is skipped if less time is left.
        measure: Returns numbers and short texts by name; `passed` for a check.
        is_check: Whether the exit status tells if it failed.
        is_rehearsed: Whether it also runs on a machine without a GPU.
    """

    group: str
    name: str
    seconds: float
    measure: Callable[[Session], dict[str, Any]]
    is_check: bool = False
    is_rehearsed: bool = True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so many seconds."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def same_state() -> Iterator[None]:
    """Restore the global settings that a job may change: threads, precision of products, compiled code."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        if "torch._dynamo" in sys.modules:  # importing it takes seconds
            torch.compiler.reset()


def machine_facts() -> dict[str, Any]:
    """Return the name of the device, versions, commit and time."""
    versions = {}
    for name in PACKAGES_OF_DEVICE:
        with suppress(ImportError):
            versions[name] = __import__(name).__version__
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
        "commit": os.environ.get("COMMIT") or described_commit(),
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
    }


def described_commit() -> str:
    """Return the commit of this project; "unknown" without git."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
