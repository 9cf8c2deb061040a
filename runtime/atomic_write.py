"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Errors of the system within name the file: those of a full disk do not."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def durable_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write, with its folder, on the disk when the block ends; after an error there is none."""
    try:
        with with_filename(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):  # on a disk that cannot be written to
            path.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` once it is complete; after an error `path` is as it was."""
    partial = path.with_name(path.name + ".partial")
    with with_filename(path):
        with durable_write(partial) as file:
            yield file
        os.replace(partial, path)
