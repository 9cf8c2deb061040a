"""Decode all image files of a folder into one array, in parallel."""

import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from datamodules.download import DataError
from datamodules.image_decoding import Decoding, Header, decode, failure_reason, read_header
from datamodules.memory import free_memory

FILES_PER_TASK = 32  # a task per file would take longer to schedule than to run
MAX_SIZES_LISTED = 5
COLOUR = "colour"  # marks images whose channels differ
MEMORY_FRACTION = 0.5  # of the free memory that the decoded images may take: the splits are copies of them


class DecodedImages(NamedTuple):
    """The images of a folder."""

    x: np.ndarray  # (N, C, H, W) uint8
    is_decoded: np.ndarray  # (number of files,) bool, False for broken files, which are not in x
    broken: list[tuple[str, str]]  # name and reason of each broken file
    done: dict[str, int]  # number of images by what was done to them


class Failure(NamedTuple):
    """Why a file cannot be decoded."""

    reason: str


def decode_files(root: Path, names: Sequence[str], options: Decoding) -> DecodedImages:
    """Decode image files. All headers are read first, so that a folder that cannot be used is refused early.

    Args:
        root: Folder of the images.
        names: Paths of the files, relative to the folder.
        options: How to decode them.

    Raises:
        DataError: If the images differ in size or would take too much memory.
    """
    with warnings.catch_warnings():  # those of Pillow, about unusual metadata
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        headers = dict(zip(names, run_in_threads(lambda name: read_header(root / name), names, "headers"), strict=True))
        failures = {name: header.reason for name, header in headers.items() if isinstance(header, Failure)}
        readable = {name: header for name, header in headers.items() if isinstance(header, Header)}
        height, width = common_size(root, readable, options)
        channels = options.channels or max((header.channels for header in readable.values()), default=1)
        check_memory(root, len(readable), (channels, height, width))

        x = np.empty((len(readable), channels, height, width), np.uint8)
        row = {name: index for index, name in enumerate(readable)}

        def decode_into_row(name: str) -> set[str]:
            pixels, done = decode(root / name, options)
            if pixels.shape[:2] != (height, width):  # metadata after the pixels may turn an image
                raise ValueError(f"it is {size_text(pixels.shape)} pixels large, not {height} x {width}")
            x[row[name]] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            return done | ({COLOUR} if pixels.ndim == 3 else set())

        results = dict(zip(readable, run_in_threads(decode_into_row, list(readable), "images"), strict=True))
    failures |= {name: result.reason for name, result in results.items() if isinstance(result, Failure)}
    done = Counter(kind for result in results.values() if not isinstance(result, Failure) for kind in result)
    if len(failures) > len(names) - len(readable):
        x = x[[index for name, index in row.items() if name not in failures]]
    if channels == 3 and not done.pop(COLOUR, 0) and options.channels is None:
        x = np.ascontiguousarray(x[:, :1])
    is_decoded = np.array([name not in failures for name in names])
    broken = [(name, failures[name]) for name in names if name in failures]
    return DecodedImages(x, is_decoded, broken, dict(done))


def run_in_threads(function: Callable[[str], Any], names: Sequence[str], description: str) -> list[Any]:
    """Return function(name) for each name, or a `Failure` if it raises an error. Pillow decodes without Python's lock.

    Args:
        function: Called for each name, by several threads.
        names: Names of files.
        description: Text of the progress bar, which is shown on terminals only.
    """

    def run_task(start: int) -> list[Any]:
        return [attempt(function, name) for name in names[start : start + FILES_PER_TASK]]

    hidden = True if rank_zero_only.rank else None  # None: shown on terminals
    results = []
    with (
        tqdm(total=len(names), unit="image", desc=description, disable=hidden, leave=False) as bar,
        thread_pool() as pool,
    ):
        for part in pool.map(run_task, range(0, len(names), FILES_PER_TASK)):
            results += part
            bar.update(len(part))
    return results


def attempt(function: Callable[[str], Any], name: str) -> Any:
    """Return function(name), or a `Failure` if it raises an error."""
    try:
        return function(name)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise errors of many types for damaged files
        return Failure(failure_reason(error))


@contextmanager
def thread_pool() -> Iterator[ThreadPoolExecutor]:
    """Return a pool of a thread per CPU core. After an error or Ctrl-C, tasks that have not started are dropped."""
    pool = ThreadPoolExecutor(cpu_count())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def cpu_count() -> int:
    """Return the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def common_size(root: Path, headers: dict[str, Header], options: Decoding) -> tuple[int, int]:
    """Return height and width of all images after decoding.

    Raises:
        DataError: If the images differ in size and are not resized.
    """
    if options.size is not None:
        return options.size, options.size
    first: dict[tuple[int, int], str] = {}
    counts: Counter[tuple[int, int]] = Counter()
    for name, (height, width, _) in headers.items():
        first.setdefault((height, width), name)
        counts[height, width] += 1
    if len(counts) > 1:
        common = [
            f"{size_text(size)} ({count:,}, such as {first[size]})"
            for size, count in counts.most_common(MAX_SIZES_LISTED)
        ]
        more = f" and {len(counts) - MAX_SIZES_LISTED} other sizes" if len(counts) > MAX_SIZES_LISTED else ""
        proposal = min(min(size) for size in counts)
        raise DataError(
            f"The images in {root} have different sizes (height x width): {', '.join(common)}{more}. Set --data.size, "
            f"such as {proposal}, to resize and crop all of them to squares."
        )
    return next(iter(counts), (1, 1))


def size_text(size: Sequence[int]) -> str:
    """Return height and width as text."""
    return f"{size[0]} x {size[1]}"


def check_memory(root: Path, count: int, shape: Sequence[int]) -> None:
    """Raise DataError if decoded images would take more than half of the free memory.

    Args:
        root: Folder of the images.
        count: Number of images.
        shape: Shape of an image (C, H, W).
    """
    free, needed = free_memory(), count * math.prod(shape)
    if free is None or needed <= MEMORY_FRACTION * free:
        return
    channels, height, width = shape
    raise DataError(
        f"The {count:,} images in {root} ({height} x {width} pixels, {channels} channel{'s' * (channels > 1)}) take "
        f"{needed / 1e9:,.1f} GB, more than half of the free memory ({free / 1e9:,.1f} GB): set a smaller "
        "--data.size, or use fewer images."
    )
