"""Cache files of arrays that take long to parse."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np

Content = TypeVar("Content")


def load_or_cache(
    path: Path,
    key: str,
    parse: Callable[[], Content],
    pack: Callable[[Content], Mapping[str, np.ndarray]],
    unpack: Callable[[Mapping[str, np.ndarray]], Content],
) -> tuple[Content, bool]:
    """Load arrays from the cache file `path`, or parse the source and write the cache file.

    Args:
        path: The cache file, an .npz file.
        key: Checksum of the source, and of anything else that the content depends on. A cache file with another key is
            replaced.
        parse: Return the content from the source.
        pack: Return the arrays to store, by name. The name `md5` is reserved for the key.
        unpack: Return the content from the stored arrays.

    Returns:
        The content, and whether the cache file was written by this call.
    """
    # Any failure is a cache miss. Reading also verifies the checksums of the zip file.
    with suppress(Exception), open(path, "rb") as file:
        cache = np.load(file)
        if str(cache["md5"]) == key:
            return unpack(cache), False
    content = parse()
    # The mode is checked explicitly because root can write to read-only folders.
    if path.parent.stat().st_mode & 0o222:
        with suppress(OSError), TemporaryDirectory(dir=path.parent, prefix=".cache-") as temporary:
            arrays: dict[str, Any] = {"md5": key, **pack(content)}
            np.savez(Path(temporary, path.name), **arrays)
            os.replace(Path(temporary, path.name), path)
            return content, True
    return content, False
