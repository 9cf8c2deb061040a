"""Cache of decoded images in one file."""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from datamodules.image_reading import DecodedImages


class Result(NamedTuple):
    """Decoded images, and whether later starts can read them from the cache."""

    images: DecodedImages
    is_cached: bool
    was_read: bool  # from the cache
    problem: str  # why there is no cache file; empty if there is one


def load_or_decode(
    path: Path, fingerprint: str, decode: Callable[[], DecodedImages], on_wait: Callable[[], None]
) -> Result:
    """Return the images from the cache file `path`, or decode them and write the cache file.

    Processes that start at the same time decode once: the others wait for the cache file of the first.

    Args:
        path: The cache file.
        fingerprint: Identity of the image files and the options; a cache file with another one is replaced.
        decode: Decode the images.
        on_wait: Called before waiting for another process.
    """
    images = read_cache(path, fingerprint)
    if images is not None:
        return Result(images, True, True, "")
    problem = why_not_writable(path.parent)
    if problem:
        return Result(decode(), False, False, problem)
    with locked(path.with_name(path.name + ".lock"), on_wait):
        images = read_cache(path, fingerprint)
        if images is not None:  # another process has decoded them
            return Result(images, True, True, "")
        images = decode()
        problem = write_cache(path, fingerprint, images)
    return Result(images, not problem, False, problem)


def read_cache(path: Path, fingerprint: str) -> DecodedImages | None:
    """Return the images in a cache file, None if there is none with this fingerprint or it is damaged."""
    # Reading verifies the checksums of the zip file.
    with (
        suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error),
        open(path, "rb") as file,
        np.load(file) as archive,
    ):
        facts = json.loads(str(archive["facts"]))
        if facts["fingerprint"] == fingerprint:
            broken = [(name, reason) for name, reason in facts["broken"]]
            return DecodedImages(archive["x"], archive["is_decoded"], broken, facts["done"])
    return None


def write_cache(path: Path, fingerprint: str, images: DecodedImages) -> str:
    """Write a cache file atomically. Return why it was not written, or an empty text."""
    facts = json.dumps({"fingerprint": fingerprint, "broken": images.broken, "done": images.done})
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".writing-") as temporary:
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
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        # The mode is checked explicitly because root can write to read-only folders.
        if not existing.stat().st_mode & 0o222 or not os.access(existing, os.W_OK):
            return "the folder is read-only"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a file lock; the operating system releases it however the process ends. Without locks, do nothing."""
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            lock.acquire()
    except (OSError, NotImplementedError):  # file systems without locks: several processes decode the same images
        yield
        return
    try:
        yield
    finally:
        lock.release()
