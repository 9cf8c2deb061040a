"""A lock that gives each run folder a single writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from runtime.processes import global_rank


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder; the operating system releases it however the process ends.

    Raises:
        ValueError: Another job holds it.
    """
    if global_rank() != 0:  # only rank 0 writes
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another job is writing to {folder}: wait for it, or choose another --run_dir.") from error
    try:
        yield
    finally:
        lock.release()
