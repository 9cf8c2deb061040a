"""Your own images, from one .npz file."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.download import DataError
from datamodules.grayscale import GreyData
from datamodules.labels import as_classes, read_labels, shortened
from datamodules.pixels import as_bytes

USUAL_CHANNELS = (1, 3, 4)
NPY = b"\x93NUMPY"  # how a .npy file begins
FORM = "a file made by numpy.savez(path, x=images), with y=labels if there are any"


class NPZ(GreyData):
    """Your own images, in one .npz file of arrays named x and, if you have them, y, x_test, y_test.

    x and x_test are bytes from 0 to 255, or truth values, (N, H, W), (N, C, H, W) or (N, H, W, C). Of four axes, the
    second is the channels if it has length 1, 3 or 4, else the last if that has, else the shorter of the two, the
    second if they are equal. Images of 0 and 1 only are read as masks, 0 and 255; other small ranges are refused.

    y and y_test are whole numbers, with -1 for unknown, or text, with '' for unknown. Their distinct values in sorted
    order are the classes. Without x_test, a tenth of the images, always the same, is put aside for the test.

    Args:
        root: The .npz file: images x (uint8) and, if there are any, labels y, test images x_test, their labels y_test.
        val_size: Validation images, taken from the training images; a tenth of them by default.
    """

    def __init__(self, root: str, val_size: int | None = None, **kwargs):
        super().__init__(val_size=val_size, **kwargs)
        self.path = Path(root).expanduser()

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data besides the options: a file is known by its images, not its path."""
        return {**super().state_dict(), "images_hash": self.images_hash}

    def fetch(self) -> tuple[Split, Split]:
        """Read the arrays."""
        arrays = self._arrays()
        if "y_test" in arrays and "x_test" not in arrays:
            raise DataError(f"{self.path} has y_test but no x_test: add x_test or leave y_test out.")
        images = self._images({name: arrays[name] for name in ("x", "x_test") if name in arrays})
        classes = self._classes(arrays)
        train = Split(images["x"], classes["y"])
        if "x_test" in images:
            if len(train.y) < 2:
                raise DataError(
                    f"{self.path}: x must hold 2 images or more (to train and validate), not {len(train.y)}."
                )
            return train, Split(images["x_test"], classes["y_test"])
        size = len(train.y)
        if size < 3:
            raise DataError(f"{self.path} must hold 3 images or more (to train, validate, test), not {size}.")
        order = torch.randperm(size, generator=fixed_generator("test images of an NPZ"))
        aside = max(1, size // 10)
        return train.take(order[aside:]), train.take(order[:aside])

    def _arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the file that have a meaning here."""
        if self.path.is_dir():
            raise DataError(f"{self.path} is a folder, and NPZ reads one .npz file: {FORM}.")
        if not self.path.is_file():
            raise DataError(f"{self.path} was not found: root must be the .npz file that holds your images.")
        found = {}
        name = None
        try:
            # Opened here, since numpy leaves a damaged file open.
            with open(self.path, "rb") as file:
                if file.read(len(NPY)) == NPY:
                    raise DataError(f"{self.path} is a .npy file of one array, and NPZ reads an .npz file: {FORM}.")
                file.seek(0)
                with np.load(file, allow_pickle=False) as arrays:
                    names = list(arrays)
                    for name in ("x", "y", "x_test", "y_test"):
                        if name in arrays:
                            found[name] = arrays[name]
        except DataError:
            raise
        except (EOFError, TypeError, zipfile.BadZipFile, zlib.error, ValueError, OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno:
                raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
            if isinstance(error, ValueError) and "allow_pickle" in str(error) and name:
                raise DataError(
                    f"{self.path}: {name} is an array of Python objects: save it as an array of numbers, or of text "
                    "with numpy.array(labels, dtype=str)."
                ) from error
            raise DataError(f"{self.path} is not a whole .npz file of plain arrays; numpy.savez makes one.") from error
        if "x" not in found:
            holds = f" but {shortened(names)}" if names else ""
            raise DataError(f"{self.path} has no array named x{holds}: name the images x when you save them.")
        return found

    def _images(self, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Images (N, C, H, W), uint8 from 0 to 255, contiguous."""
        for name, x in arrays.items():
            if x.ndim not in (3, 4) or 0 in x.shape:
                forms = "(N, H, W), (N, C, H, W) or (N, H, W, C)"
                raise DataError(f"{self.path}: {name} must hold images, {forms}, not an array {x.shape}.")
        arrays, remarks = as_bytes(str(self.path), arrays)
        for remark in remarks:
            self.note(remark)
        return {name: torch.from_numpy(self._channels_second(name, x)) for name, x in arrays.items()}

    def _channels_second(self, name: str, x: np.ndarray) -> np.ndarray:
        """Images (N, C, H, W), of which the third to last axis may be missing or last."""
        if x.ndim == 3:
            return x[:, None]
        second, last = x.shape[1], x.shape[3]
        if second not in USUAL_CHANNELS and (last in USUAL_CHANNELS or last < second):
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        if x.shape[1] not in USUAL_CHANNELS:
            _, channels, height, width = x.shape
            self.note(f"{name} in {self.path} is read as images of {channels} channels and {height} x {width} pixels.")
        return x

    def _classes(self, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """The classes of y and y_test, -1 where there are no labels, and their names in `class_names`."""
        sizes = {name: len(arrays[images]) for name, images in (("y", "x"), ("y_test", "x_test")) if images in arrays}
        classes = {name: torch.full((size,), -1) for name, size in sizes.items()}
        given = {
            name: read_labels(str(self.path), name, arrays[name], size)
            for name, size in sizes.items()
            if name in arrays
        }
        if not given:
            return classes
        numbers, names = as_classes(str(self.path), *given.values())
        self.class_names = names or None
        if names != [str(index) for index in range(len(names))]:
            number = "1 class" if len(names) == 1 else f"{len(names)} classes"
            self.note(f"Labels in {self.path}: {number}, {shortened(names)}.")
        if names == ["1"] and any((part < 0).any() for part in numbers):
            self.note(
                f"warning: labels in {self.path} are -1 and 1, and -1 means unknown: save 0 and 1 for two classes."
            )
        return classes | dict(zip(given, numbers, strict=True))
