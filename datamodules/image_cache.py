"""Cache of decoded images in one file."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from datamodules.folder_decoding import DecodedImages


class Result(NamedTuple):
    """Decoded images, and whether later starts can read them from the cache."""

    images: DecodedImages
    is_cached: bool
    was_read: bool  # from the cache
    problem: str  # why there is no cache file; empty if there is one


def load_or_decode(
    path: Path,
    fingerprint: str,
    decode: Callable[[], DecodedImages],
    on_wait: Callable[[], None],
    check_size: Callable[[int, Sequence[int]], None],
) -> Result:
    """Return the images from the cache file `path`, or decode them and write the cache file.

    Processes that start at the same time decode once: the others wait for the cache file of the first.

    Args:
        path: The cache file.
        fingerprint: Identity of the image files and the options; a cache file with another one is replaced.
        decode: Decode the images.
        on_wait: Called before waiting for another process.
        check_size: Called with the number and the shape of the images in the cache before they are read. May raise an
            error, which is raised here.
    """
    images = read_cache(path, fingerprint, check_size)
    if images is not None:
        return Result(images, True, True, "")
    problem = why_not_writable(path.parent)
    if problem:
        return Result(decode(), False, False, problem)
    with locked(path.with_name(path.name + ".lock"), on_wait) as is_alone:
        images = read_cache(path, fingerprint, check_size)
        if images is not None:  # another process has decoded them
            return Result(images, True, True, "")
        if is_alone:
            remove_unfinished(path)
        images = decode()
        problem = write_cache(path, fingerprint, images)
    return Result(images, not problem, False, problem)


def read_cache(path: Path, fingerprint: str, check_size: Callable[[int, Sequence[int]], None]) -> DecodedImages | None:
    """Return the images in a cache file, None if there is none with this fingerprint or it is damaged.

    Args:
        path: The cache file.
        fingerprint: Identity of the image files and the options.
        check_size: Called with the number and the shape of the images before they are read.
    """
    facts = read_member(path, "facts")
    try:
        facts = json.loads(str(facts))
        if facts["fingerprint"] != fingerprint:
            return None
        count, *shape = facts["shape"]
        broken = [(name, reason) for name, reason in facts["broken"]]
        done = facts["done"]
    except (ValueError, TypeError, KeyError):
        return None
    check_size(count, shape)
    x, is_decoded = read_member(path, "x"), read_member(path, "is_decoded")
    return None if x is None or is_decoded is None else DecodedImages(x, is_decoded, broken, done)


def read_member(path: Path, name: str) -> np.ndarray | None:
    """Return an array of an .npz file, None if it cannot be read. Reading verifies the checksums of the zip file."""
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            return archive[name]
    except MemoryError:
        raise
    except Exception:  # zipfile and numpy raise many types; each means that there is no such array
        return None


def remove_unfinished(path: Path) -> None:
    """Remove what processes have left that were killed while they wrote this cache file."""
    for folder in path.parent.glob(f"{unfinished_prefix(path)}*"):
        shutil.rmtree(folder, ignore_errors=True)


def unfinished_prefix(path: Path) -> str:
    """Return how the names of the folders begin in which a cache file is written."""
    return f".writing-{path.stem}-"


def write_cache(path: Path, fingerprint: str, images: DecodedImages) -> str:
    """Write a cache file atomically. Return why it was not written, or an empty text."""
    facts = json.dumps(
        {"fingerprint": fingerprint, "shape": images.x.shape, "broken": images.broken, "done": images.done}
    )
    try:
        with TemporaryDirectory(dir=path.parent, prefix=unfinished_prefix(path)) as temporary:
            partial = Path(temporary, path.name)
            with open(partial, "wb") as file:
                np.savez(file, x=images.x, is_decoded=images.is_decoded, facts=facts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def why_not_writable(folder: Path) -> str:
    """Create a folder. Return why no file can be written to it, or an empty text."""
    try:
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        # The mode is checked explicitly because root can write to read-only folders.
        if not existing.stat().st_mode & 0o222 or not os.access(existing, os.W_OK):
            return "the folder is read-only"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold a file lock and yield True, or yield False if the file system has no locks.

    The operating system releases the lock however the process ends.
    """
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    except (OSError, NotImplementedError):  # file systems without locks: several processes decode the same images
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
