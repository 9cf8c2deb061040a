"""MNIST, and Fashion-MNIST and KMNIST, which use its file format."""

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
from datamodules.download import DAMAGED, DataError, check_md5, download_missing, md5_of, read_file
from datamodules.grayscale import GrayscaleData

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SIZES = {"train": 60_000, "test": 10_000}


class MNIST(GrayscaleData):
    """Handwritten digits, 1x28x28: 60,000 training and 10,000 test images, downloaded if missing.

    Args:
        root: Folder that contains `MNIST/raw` with the four published files, plain or gzipped.
        val_size: Validation images, taken from the training images.
    """

    md5: ClassVar[dict[str, str]] = {  # of the decompressed files
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
        """The folder of the files."""
        return str(self.folder)

    def prepare_data(self) -> None:
        """Download missing files with torchvision."""
        download_missing(self.folder, FILES, self._download)

    def fetch(self) -> tuple[Split, Split]:
        """Return the training and test images from the four files."""
        self._unverified: list[str] = []  # file names
        train_x, train_y, test_x, test_y = (self._read(name) for name in FILES)
        if self._unverified:
            self.note(
                f"warning: the contents of {', '.join(self._unverified)} in {self.folder} cannot be verified, since "
                "only the .gz files have published checksums. Put the .gz files into the same folder to verify them."
            )
        return Split(train_x.unsqueeze(1), train_y.long()), Split(test_x.unsqueeze(1), test_y.long())

    def _torchvision_class(self) -> type:
        from torchvision import datasets

        return getattr(datasets, type(self).__name__)

    def _download(self, folder: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            raw = Path(self._torchvision_class()(folder, download=True).raw_folder)
        for name in FILES:
            os.replace(raw / name, folder / name)
            if name not in self.md5 and (raw / f"{name}.gz").is_file():
                os.replace(raw / f"{name}.gz", folder / f"{name}.gz")  # needed to verify the content

    def _read(self, name: str) -> Tensor:
        path, content = read_file(self.folder, name)
        if name in self.md5:
            check_md5(path, content, self.md5[name])
        array = parse_idx(path, content, dims=3 if "images" in name else 1)
        if name not in self.md5 and not self._is_verified_by_gzip(name, path, content):
            check_shape_and_classes(path, array, train=name.startswith("train"))
            self._unverified.append(path.name)
        return array

    def _is_verified_by_gzip(self, name: str, path: Path, content: bytes) -> bool:
        """Return whether a .gz file with the published checksum holds this content.

        Args:
            name: Published name of the file.
            path: The file that was read, the .gz file itself or a decompressed one next to it.
            content: Its decompressed content.

        Raises:
            DataError: If the .gz file has the published checksum, but other content.
        """
        gzipped = path if path.suffix == ".gz" else self.folder / f"{name}.gz"
        if not gzipped.is_file():
            return False
        raw = gzipped.read_bytes()
        if md5_of(raw) != dict(self._torchvision_class().resources)[f"{name}.gz"]:
            return False
        if gzipped != path and gzip.decompress(raw) != content:
            raise DataError(f"{path} differs from the content of {gzipped}, the published file: move {path.name} away.")
        return True


class FashionMNIST(MNIST):
    """Images of clothing in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that contains `FashionMNIST/raw` with the four published files, plain or gzipped.
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
    md5: ClassVar[dict[str, str]] = {  # of the decompressed files
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }


class KMNIST(MNIST):
    """Cursive Japanese characters in MNIST's format: 1x28x28, ten classes.

    Args:
        root: Folder that contains `KMNIST/raw` with the four published files, plain or gzipped.
        val_size: Validation images, taken from the training images.
    """

    class_names: ClassVar[list[str]] = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    md5: ClassVar[dict[str, str]] = {}  # published for the gzipped files only


def check_shape_and_classes(path: Path, array: Tensor, train: bool) -> None:
    """Raise DataError if an array does not have the size, or labels do not have the class counts, of MNIST."""
    size = SIZES["train" if train else "test"]
    expected = (size, 28, 28) if array.dim() == 3 else (size,)
    if tuple(array.shape) != expected:
        raise DataError(f"{path} holds an array {tuple(array.shape)}, the published one is {expected}: {DAMAGED}")
    if array.dim() == 1 and array.bincount(minlength=10).tolist() != [size // 10] * 10:
        raise DataError(f"{path} does not hold {size // 10} labels of each class 0 to 9, as published: {DAMAGED}")


def parse_idx(path: Path, content: bytes, dims: int) -> Tensor:
    """Return the uint8 array in an IDX file.

    The format is two zero bytes, the data type (8: uint8), the number of dimensions, the sizes (big-endian int32) and
    the values.

    Raises:
        DataError: If the content is not a complete IDX file of uint8 with `dims` dimensions.
    """
    header_size = 4 * (1 + dims)
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) < header_size:
        raise DataError(f"{path} is not an IDX file of bytes in {dims} dimensions: {DAMAGED}")
    shape = np.frombuffer(content, ">i4", count=dims, offset=4).tolist()
    if len(content) != header_size + int(np.prod(shape)):
        expected = " x ".join(map(str, shape))
        raise DataError(f"{path} is truncated or damaged (its header specifies {expected} bytes): {DAMAGED}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header_size).copy()).reshape(shape)
