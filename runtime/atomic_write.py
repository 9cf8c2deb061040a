"""Atomic and durable writes of files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Add the file name to OSErrors raised in the block: that of a full disk has none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def durable_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, creating its folder; synced to disk at the end of the block, deleted after an error."""
    try:
        with with_filename(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # the disk may be read-only
            path.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` once it is complete; after an error `path` is unchanged."""
    partial = path.with_name(path.name + ".partial")
    with with_filename(path):
        with durable_write(partial) as file:
            yield file
        os.replace(partial, path)
