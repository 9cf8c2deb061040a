"""The published binarization of MNIST by Larochelle."""

import math
import os
import shutil
import urllib.request
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import torch

from datamodules.base import ImageData, fixed_generator
from datamodules.batches import Split
from datamodules.download import DAMAGED, DataError, check_md5, download, read

ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


class BinaryMNIST(ImageData):
    """MNIST drawn once for everybody: 50,000 training, 10,000 validation, 10,000 test images; no labels.

    The published test images are sorted by class: the first thousand are zeros. Each split is put into one mixed order,
    always the same, so that its first images speak for all of it. The first start writes a compact copy of each file
    beside it (.amat.npz), from which later starts read faster; not if the folder is marked read-only.

    Args:
        root: Folder that holds `BinaryMNIST`, with the three published .amat files as they are or gzipped. Compact
            copies of them, for faster starts, are written there.
        batch_size: Images per batch and device.
    """

    protocol = "larochelle"
    md5: ClassVar[dict[str, str]] = {  # training, validation, test
        "binarized_mnist_train.amat": "db28b1a6ae0fe70cbd3da91acf46e477",
        "binarized_mnist_valid.amat": "bf37822a04e94123630de6a7dfd9c9ef",
        "binarized_mnist_test.amat": "14e41ae11040adba6ab8cb291eda0dd8",
    }

    def __init__(self, root: str = "data", batch_size: int = 100):
        super().__init__(batch_size)
        self.folder = Path(root).expanduser() / "BinaryMNIST"

    def prepare_data(self) -> None:
        """Download what is missing."""
        download(self.folder, tuple(self.md5), self._download)

    def load(self) -> tuple[Split, Split, Split]:
        """Read the three files, or what was cached of them."""
        train, val, test = (self._read(name) for name in self.md5)
        self.label_indices = torch.empty(0, dtype=torch.int64)
        return train, val, test

    def _download(self, folder: Path) -> None:
        for name, md5 in self.md5.items():
            with urllib.request.urlopen(ADDRESS + name) as response, open(folder / name, "wb") as file:
                shutil.copyfileobj(response, file)
            check_md5(folder / name, (folder / name).read_bytes(), md5)

    def _read(self, name: str) -> Split:
        path = self.folder / f"{name}.npz"
        bits, is_new = cached(path, self.md5[name], lambda: self._parse(name))
        if is_new:
            self.note(f"Wrote {path}, a copy of {name} that is read faster.")
        bits = bits[torch.randperm(len(bits), generator=fixed_generator(f"order of {name}")).numpy()]
        x = torch.from_numpy(bits * np.uint8(255)).unsqueeze(1)  # (N, 1, H, W)
        return Split(x, torch.full((len(x),), -1))

    def _parse(self, name: str) -> np.ndarray:
        path, content = read(self.folder, name)
        check_md5(path, content, self.md5[name])
        return parse_amat(path, content)


def parse_amat(path: Path, content: bytes) -> np.ndarray:
    """Square images from lines of zeros and ones, one image a line: (N, H, W) of 0 and 1.

    Raises:
        DataError: If the content is anything else.
    """
    length = content.find(b"\n") + 1  # a digit and a separator for each pixel
    side = math.isqrt(length // 2)
    if length == 0 or length != 2 * side * side or len(content) % length:
        raise DataError(f"{path} does not hold one square image a line: {DAMAGED}")
    bits = np.frombuffer(content, np.uint8).reshape(-1, side, side, 2)[..., 0] - ord("0")
    if bits.max() > 1:
        raise DataError(f"{path} holds pixels other than 0 and 1: {DAMAGED}")
    return bits


def cached(path: Path, md5: str, make: Callable[[], np.ndarray]) -> tuple[np.ndarray, bool]:
    """The array of 0 and 1 packed at `path`, made anew unless that is an undamaged copy for `md5`.

    Returns:
        The array, and whether it has been written to `path` now.
    """
    # Reading compares the zip's checksums.
    with suppress(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile), open(path, "rb") as file:
        copy = np.load(file)
        if str(copy["md5"]) == md5:
            shape = copy["shape"]
            return np.unpackbits(copy["bits"], count=shape.prod()).reshape(shape), False
    bits = make()
    # Root may write anywhere; a folder marked read-only is left alone all the same.
    if path.parent.stat().st_mode & 0o222:
        with suppress(OSError), TemporaryDirectory(dir=path.parent, prefix=".cache-") as fresh:
            np.savez(Path(fresh, path.name), bits=np.packbits(bits), shape=bits.shape, md5=md5)
            os.replace(Path(fresh, path.name), path)
            return bits, True
    return bits, False
