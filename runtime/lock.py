"""One writer for each run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a run folder, which the system frees when its process ends in whatever way.

    Raises:
        ValueError: Another job holds it.
    """
    if rank_zero_only.rank != 0:  # the first process of a run writes for all
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
