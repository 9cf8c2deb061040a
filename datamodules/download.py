"""Files of published data: find, download, check."""

import gzip
import hashlib
import os
import socket
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_info

DAMAGED = "replace it by the published file, or move it away to have that downloaded."  # for the end of a sentence


GZIP = b"\x1f\x8b"  # how a gzip file begins


class DataError(ValueError):
    """Files that are missing or cannot be used; the message is a sentence to the user."""


def find(folder: Path, name: str) -> Path | None:
    """The file `name` in `folder`, as it is or gzipped, if it is there."""
    # Some unpackers write train-images.idx3-ubyte instead of train-images-idx3-ubyte.
    names = dict.fromkeys((name, name.replace("-idx", ".idx")))
    paths = [folder / f"{each}{suffix}" for suffix in ("", ".gz") for each in names]
    return next((path for path in paths if path.is_file()), None)


def missing(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the files `names` that are not in `folder`."""
    return [name for name in names if find(folder, name) is None]


def advice(folder: Path, names: Sequence[str]) -> str:
    """What to put where, for the end of a sentence."""
    form = "as it is or as .gz" if len(names) == 1 else "as they are or as .gz"
    return f"put {', '.join(names)} into {folder}, {form}."


def read(folder: Path, name: str) -> tuple[Path, bytes]:
    """Which file it is, and its unpacked content.

    Raises:
        DataError: If the file is missing or not a whole gzip file.
    """
    path = find(folder, name)
    if path is None:
        raise DataError(f"{name} was not found in {folder}: {advice(folder, [name])}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.startswith(GZIP):  # whatever its name says: programs that unpack may keep it
        return path, raw
    try:
        return path, gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {DAMAGED}") from error


def md5_of(content: bytes) -> str:
    """The MD5 checksum, by which published files are known."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, content: bytes, md5: str) -> None:
    """Compare a file's unpacked content with the published checksum.

    Raises:
        DataError: If they differ.
    """
    found = md5_of(content)
    if found != md5:
        raise DataError(f"{path} does not have the published content (md5 {found}, published {md5}): {DAMAGED}")


def download(folder: Path, names: Sequence[str], fetch: Callable[[Path], None]) -> None:
    """Have the files `names` in `folder`: those that lack are fetched.

    Processes that share a file system take turns, and a file appears whole or not at all.

    Args:
        folder: Where the files belong.
        names: The files.
        fetch: Downloads them into the empty folder that it is given.

    Raises:
        DataError: If that fails; nothing is left behind then.
    """
    if not missing(folder, names):
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), socket_timeout():
            if missing(folder, names):
                rank_zero_info(f"Downloading to {folder}")
                with TemporaryDirectory(dir=folder, prefix=".download-") as fresh:
                    fetch(Path(fresh))
                    packed = [path.name for path in Path(fresh).glob("*.gz")]  # where the data set keeps them too
                    for name in (*packed, *names):
                        os.replace(Path(fresh, name), folder / name)
    except (OSError, RuntimeError, HTTPException, DataError) as error:
        with suppress(OSError):  # leave no empty folders
            lock.unlink(missing_ok=True)
            for path in made:
                path.rmdir()
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(f"{folder} lacks files and the download failed ({reason}): {advice(folder, names)}") from error


@contextmanager
def socket_timeout(seconds: float = 20) -> Iterator[None]:
    """Connections give up after `seconds`: a machine cut off from the network might wait for minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
