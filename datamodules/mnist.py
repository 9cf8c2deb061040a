"""MNIST and the two sets made in its format."""

import contextlib
import io
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from .batches import Split
from .files import DAMAGED, DataError, check_md5, download, read
from .grey import GreyData

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


class MNIST(GreyData):
    """Handwritten digits, 1x28x28: 60,000 training and 10,000 test images, downloaded where they are missing.

    Args:
        root: Folder that holds `MNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def __init__(self, root: str = "data", val_size: int = 5000, **kwargs):
        super().__init__(val_size=val_size, **kwargs)
        self.folder = Path(root).expanduser() / type(self).__name__ / "raw"

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.folder)

    def prepare_data(self) -> None:
        """Download what is missing, with torchvision's downloader."""
        download(self.folder, FILES, self._download)

    def fetch(self) -> tuple[Split, Split]:
        """Read the four files."""
        train_x, train_y, test_x, test_y = (self._read(name) for name in FILES)
        return Split(train_x.unsqueeze(1), train_y.long()), Split(test_x.unsqueeze(1), test_y.long())

    def _published(self) -> type:
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    def _download(self, folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            raw = Path(self._published()(folder, download=True).raw_folder)
        for name in FILES:
            os.replace(raw / name, folder / name)

    def _read(self, name: str) -> Tensor:
        path, content = read(self.folder, name)
        if name in self.md5:
            check_md5(path, content, self.md5[name])
        elif path.suffix == ".gz":
            check_md5(path, path.read_bytes(), dict(self._published().resources)[path.name])
        return parse_idx(path, content, dims=3 if "images" in name else 1)


class FashionMNIST(MNIST):
    """Pieces of clothing, in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that holds `FashionMNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    md5: ClassVar[dict[str, str]] = {}  # published for the gzipped files only


class KMNIST(MNIST):
    """Cursive Japanese characters, in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that holds `KMNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    md5: ClassVar[dict[str, str]] = {}  # published for the gzipped files only


def parse_idx(path: Path, content: bytes, dims: int) -> Tensor:
    """The array in an IDX file: two zero bytes, the type (8: bytes), the number of dimensions, sizes, values.

    Raises:
        DataError: If the content is not a whole file of bytes with `dims` dimensions.
    """
    start = 4 * (1 + dims)
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) < start:
        raise DataError(f"{path} is not an IDX file of bytes in {dims} dimensions: {DAMAGED}")
    shape = np.frombuffer(content, ">i4", count=dims, offset=4).tolist()
    if len(content) != start + int(np.prod(shape)):
        announced = " x ".join(map(str, shape))
        raise DataError(f"{path} is truncated or damaged, its header announcing {announced} bytes: {DAMAGED}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).reshape(shape)
