"""Your own images, from one .npz file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base import fixed_generator
from .batches import Split
from .files import DataError
from .grey import GreyData

CHANNELS = (1, 3, 4)


class NPZ(GreyData):
    """Your own images, in one .npz file of arrays named x and, if you have them, y, x_test, y_test.

    x and x_test are bytes (N, H, W), (N, C, H, W) or (N, H, W, C) with C one of 1, 3, 4; where both readings
    of four axes are possible, (N, C, H, W) is meant. y and y_test are whole numbers: classes 0, 1, ... or
    -1 for unknown. Without x_test, a tenth of the images, always the same, is put aside for the test.

    Args:
        root: The .npz file.
        val_size: Validation images, taken from the training images; a tenth of them by default.
    """

    def __init__(self, root: str, val_size: int | None = None, **kwargs):
        super().__init__(val_size=val_size, **kwargs)
        self.path = Path(root).expanduser()

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def fetch(self) -> tuple[Split, Split]:
        """Read the arrays."""
        arrays = self._arrays()
        if "x" not in arrays:
            raise DataError(f"{self.path} has no array named x: name the images x when you save them.")
        if "y_test" in arrays and "x_test" not in arrays:
            raise DataError(f"{self.path} has y_test but no x_test: add x_test or leave y_test out.")
        train = Split(self._images("x", arrays), self._labels("y", arrays, len(arrays["x"])))
        if "x_test" in arrays:
            labels = self._labels("y_test", arrays, len(arrays["x_test"]))
            return train, Split(self._images("x_test", arrays), labels)
        size = len(train.y)
        if size < 3:
            raise DataError(f"{self.path} must hold 3 images or more (to train, validate, test), not {size}.")
        order = torch.randperm(size, generator=fixed_generator("test images of an NPZ"))
        aside = max(1, size // 10)
        return train.take(order[aside:]), train.take(order[:aside])

    def _arrays(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            raise DataError(f"{self.path} was not found: root must be the .npz file that holds your images.")
        try:
            # Opened here, since numpy leaves a damaged file open.
            with open(self.path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("x", "y", "x_test", "y_test") if name in arrays}
        except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{self.path} is not a whole .npz file of plain arrays; numpy.savez makes one.") from error

    def _images(self, name: str, arrays: dict[str, np.ndarray]) -> Tensor:
        x = arrays[name]
        if x.dtype == np.uint8 and x.ndim == 3:
            return torch.from_numpy(x).unsqueeze(1)
        if x.dtype == np.uint8 and x.ndim == 4 and x.shape[1] in CHANNELS:
            return torch.from_numpy(x)
        if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in CHANNELS:
            return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        raise DataError(
            f"{self.path}: {name} must be uint8 (N, H, W), (N, C, H, W) or (N, H, W, C)"
            f" with C one of {', '.join(map(str, CHANNELS))}, not {x.dtype} {x.shape}."
        )

    def _labels(self, name: str, arrays: dict[str, np.ndarray], size: int) -> Tensor:
        if name not in arrays:
            return torch.full((size,), -1)
        y = arrays[name]
        if y.dtype.kind not in "iu" or y.shape != (size,):
            raise DataError(f"{self.path}: {name} must be {size} whole numbers, not {y.dtype} {y.shape}.")
        return torch.from_numpy(y.astype(np.int64))
