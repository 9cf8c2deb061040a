"""Find, download and verify the files of published data sets."""

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
from urllib.error import HTTPError

from filelock import FileLock
from pytorch_lightning.utilities import rank_zero_info

DAMAGED = "replace it by the published file, or move it away to download it again."  # end of an error message
GZIP_MAGIC = b"\x1f\x8b"  # first bytes of a gzip file


class DataError(ValueError):
    """Files are missing or cannot be used. The message is a sentence for the user."""


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of the file `name` in `folder`, plain or gzipped, or None."""
    # Some unpackers write train-images.idx3-ubyte instead of train-images-idx3-ubyte.
    names = dict.fromkeys((name, name.replace("-idx", ".idx")))
    paths = [folder / f"{each}{suffix}" for suffix in ("", ".gz") for each in names]
    return next((path for path in paths if path.is_file()), None)


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Return those of the files `names` that are not in `folder`."""
    return [name for name in names if find_file(folder, name) is None]


def install_instruction(folder: Path, names: Sequence[str], origin: str = "") -> str:
    """Return the end of an error message: which files (of which address) to put into which folder."""
    source = f" from {origin}" if origin else ""
    return f"put {', '.join(names)}{source} into {folder}, plain or as .gz."


def read_file(folder: Path, name: str) -> tuple[Path, bytes]:
    """Return the path of a file in `folder` and its decompressed content.

    Raises:
        DataError: If the file is missing, unreadable or a damaged gzip file.
    """
    path = find_file(folder, name)
    if path is None:
        raise DataError(f"{name} was not found in {folder}: {install_instruction(folder, [name])}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.startswith(GZIP_MAGIC):  # the suffix does not tell: some programs keep .gz after decompression
        return path, raw
    try:
        return path, gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {DAMAGED}") from error


def md5_of(content: bytes) -> str:
    """Return the MD5 checksum as hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def check_md5(path: Path, content: bytes, md5: str) -> None:
    """Raise DataError if the decompressed content of a file does not have the published checksum."""
    actual = md5_of(content)
    if actual != md5:
        raise DataError(f"{path} does not have the published content (md5 {actual}, published {md5}): {DAMAGED}")


def download_missing(folder: Path, names: Sequence[str], fetch: Callable[[Path], None], origin: str = "") -> None:
    """Download the files that are missing from `folder`.

    A file lock serialises processes that share the file system, and files are moved into place atomically.

    Args:
        folder: Target folder.
        names: Names of the files.
        fetch: Download the files into the empty folder that it is given.
        origin: Where the files are published, for messages.

    Raises:
        DataError: If the download fails. New files and folders are removed.
    """
    if not missing_files(folder, names):
        return
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock), socket_timeout():
            if missing_files(folder, names):
                rank_zero_info(f"Downloading to {folder}")
                with TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
                    fetch(Path(temporary))
                    compressed = [path.name for path in Path(temporary).glob("*.gz")]  # KMNIST keeps these too
                    for name in (*compressed, *names):
                        os.replace(Path(temporary, name), folder / name)
    except (OSError, RuntimeError, HTTPException, DataError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        with suppress(OSError):  # leave no empty folders
            lock.unlink(missing_ok=True)
            for path in new_folders:
                path.rmdir()
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"{folder} lacks files and the download failed ({reason}): {install_instruction(folder, names, origin)}"
        ) from error


@contextmanager
def socket_timeout(seconds: float = 20) -> Iterator[None]:
    """Set the default socket timeout, so that an offline machine fails after seconds instead of minutes."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
