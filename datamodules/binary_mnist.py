"""MNIST with the fixed binarization published by Larochelle."""

import math
import shutil
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from datamodules.base import ImageData, fixed_generator
from datamodules.batches import Split
from datamodules.cache import load_or_cache
from datamodules.download import DAMAGED, DataError, check_md5, download_missing, read_file

ADDRESS = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"


class BinaryMNIST(ImageData):
    """Binarized MNIST: 50,000 training, 10,000 validation and 10,000 test images, without labels.

    The published test images are sorted by class. Each split is shuffled with a fixed seed, so that its first images
    are a representative sample. The first start writes a compact copy (.amat.npz) next to each file, which later
    starts read faster. No copy is written to a read-only folder.

    Args:
        root: Folder that contains `BinaryMNIST` with the three published .amat files, plain or gzipped. Compact copies
            for faster starts are written there.
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
        """Download missing files."""
        download_missing(self.folder, tuple(self.md5), self._download)

    def load(self) -> tuple[Split, Split, Split]:
        """Return the splits from the published files or their compact copies."""
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
        bits, was_written = load_or_cache(path, self.md5[name], lambda: self._parse(name), pack_bits, unpack_bits)
        if was_written:
            self.note(f"Wrote {path}, a copy of {name} that loads faster.")
        bits = bits[torch.randperm(len(bits), generator=fixed_generator(f"order of {name}")).numpy()]
        x = torch.from_numpy(bits * np.uint8(255)).unsqueeze(1)  # (N, 1, H, W)
        return Split(x, torch.full((len(x),), -1))

    def _parse(self, name: str) -> np.ndarray:
        path, content = read_file(self.folder, name)
        check_md5(path, content, self.md5[name])
        return parse_amat(path, content)


def parse_amat(path: Path, content: bytes) -> np.ndarray:
    """Parse square binary images, one image per line of digits that are separated by spaces.

    Returns:
        Array (N, H, W), uint8, of 0 and 1.

    Raises:
        DataError: If the content has another format.
    """
    line_length = content.find(b"\n") + 1  # a digit and a separator per pixel
    side = math.isqrt(line_length // 2)
    if line_length == 0 or line_length != 2 * side * side or len(content) % line_length:
        raise DataError(f"{path} does not hold one square image per line: {DAMAGED}")
    bits = np.frombuffer(content, np.uint8).reshape(-1, side, side, 2)[..., 0] - ord("0")
    if bits.max() > 1:
        raise DataError(f"{path} holds pixels other than 0 and 1: {DAMAGED}")
    return bits


def pack_bits(bits: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that store an array of 0 and 1 with one bit per pixel."""
    return {"bits": np.packbits(bits), "shape": np.array(bits.shape)}


def unpack_bits(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the array that `pack_bits` packed."""
    shape = arrays["shape"]
    return np.unpackbits(arrays["bits"], count=shape.prod()).reshape(shape)
