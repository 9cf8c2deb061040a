"""MNIST and the two sets made in its format."""

import contextlib
import gzip
import io
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.batches import Split
from datamodules.download import DAMAGED, DataError, check_md5, download, md5_of, read
from datamodules.grayscale import GreyData

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIZES = {"train": 60_000, "test": 10_000}


class MNIST(GreyData):
    """Handwritten digits, 1x28x28: 60,000 training and 10,000 test images, downloaded where they are missing.

    Args:
        root: Folder that holds `MNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    md5: ClassVar[dict[str, str]] = {  # of the unpacked contents
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
        self._unverified: list[str] = []
        train_x, train_y, test_x, test_y = (self._read(name) for name in FILES)
        if self._unverified:
            self.note(
                f"warning: {', '.join(self._unverified)} in {self.folder}: right in form, but "
                "the contents cannot be verified, since only the .gz files have published checksums. Put those beside "
                "them to be sure."
            )
        return Split(train_x.unsqueeze(1), train_y.long()), Split(test_x.unsqueeze(1), test_y.long())

    def _published(self) -> type:
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    def _download(self, folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            raw = Path(self._published()(folder, download=True).raw_folder)
        for name in FILES:
            os.replace(raw / name, folder / name)
            if name not in self.md5 and (raw / f"{name}.gz").is_file():
                os.replace(raw / f"{name}.gz", folder / f"{name}.gz")  # by which the content is known to be good

    def _read(self, name: str) -> Tensor:
        path, content = read(self.folder, name)
        if name in self.md5:
            check_md5(path, content, self.md5[name])
        array = parse_idx(path, content, dims=3 if "images" in name else 1)
        if name not in self.md5 and not self._is_published(name, path, content):
            check_form(path, array, train=name.startswith("train"))
            self._unverified.append(path.name)
        return array

    def _is_published(self, name: str, path: Path, content: bytes) -> bool:
        """Whether a gzipped file with the published checksum, this one or one beside it, says that this is the content.

        Raises:
            DataError: If it says that this is not the content.
        """
        packed = path if path.suffix == ".gz" else self.folder / f"{name}.gz"
        if not packed.is_file():
            return False
        raw = packed.read_bytes()
        if md5_of(raw) != dict(self._published().resources)[f"{name}.gz"]:
            return False
        if packed != path and gzip.decompress(raw) != content:
            raise DataError(f"{path} differs from the content of {packed}, the published file: move {path.name} away.")
        return True


class FashionMNIST(MNIST):
    """Pieces of clothing, in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that holds `FashionMNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    class_names: ClassVar[list[str]] = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]
    md5: ClassVar[dict[str, str]] = {  # of the unpacked contents
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


class KMNIST(MNIST):
    """Cursive Japanese characters, in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that holds `KMNIST/raw`, with the four published files as they are or gzipped.
        val_size: Validation images, taken from the training images.
    """

    class_names: ClassVar[list[str]] = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    md5: ClassVar[dict[str, str]] = {}  # published for the gzipped files only


def check_form(path: Path, array: Tensor, train: bool) -> None:
    """Check what is known of every file of MNIST's format: sizes, and labels of ten classes.

    Raises:
        DataError: If the array is another one.
    """
    size = SIZES["train" if train else "test"]
    expected = (size, 28, 28) if array.dim() == 3 else (size,)
    if tuple(array.shape) != expected:
        raise DataError(f"{path} holds an array {tuple(array.shape)}, the published one {expected}: {DAMAGED}")
    if array.dim() == 1 and array.bincount(minlength=10).tolist() != [size // 10] * 10:
        raise DataError(f"{path} does not hold {size // 10} labels of each class 0 to 9, as published: {DAMAGED}")


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
