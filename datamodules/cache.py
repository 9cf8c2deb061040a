"""Cache files of arrays that take long to parse."""

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np


def load_or_cache(path: Path, md5: str, parse: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """Load a binary array from the cache file `path`, or parse the source and write the cache file.

    Args:
        path: The cache file.
        md5: Checksum of the source; a cache file of another source is replaced.
        parse: Return the array from the source.

    Returns:
        The array, and whether the cache file was written by this call.
    """
    # Any failure is a cache miss. Reading also verifies the checksums of the zip file.
    with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile), open(path, "rb") as file:
        cache = np.load(file)
        if str(cache["md5"]) == md5:
            shape = cache["shape"]
            return np.unpackbits(cache["bits"], count=shape.prod()).reshape(shape), False
    bits = parse()
    # The mode is checked explicitly because root can write to read-only folders.
    if path.parent.stat().st_mode & 0o222:
        with suppress(OSError), TemporaryDirectory(dir=path.parent, prefix=".cache-") as temporary:
            np.savez(Path(temporary, path.name), bits=np.packbits(bits), shape=bits.shape, md5=md5)
            os.replace(Path(temporary, path.name), path)
            return bits, True
    return bits, False
