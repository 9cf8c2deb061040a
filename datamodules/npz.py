"""User images from one .npz file."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.download import DataError
from datamodules.grayscale import GrayscaleData
from datamodules.labels import as_classes, check_same_form, list_names, read_labels
from datamodules.pixels import as_uint8

COMMON_CHANNELS = (1, 3, 4)
ARRAYS = ("x", "y", "x_test", "y_test")
# Names of these four arrays in the files of other programs. The first row whose images are in the file is used.
NAMES_IN_FILE = (
    ARRAYS,
    ("X", "y", "X_test", "y_test"),
    ("x_train", "y_train", "x_test", "y_test"),  # Keras
    ("X_train", "y_train", "X_test", "y_test"),  # scikit-learn
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
    ("images", "labels", "images_test", "labels_test"),
)
UNNAMED = "arr_0"  # numpy.savez's name of an array without a name
VALIDATION_ARRAYS = ("x_val", "X_val", "val_images", "images_val")
NPY_MAGIC = b"\x93NUMPY"  # first bytes of a .npy file
EXPECTED_FILE = "save it with numpy.savez(path, x=images), and y=labels if there are any"


class NPZ(GrayscaleData):
    """Your own images, in one .npz file of arrays named x and, if you have them, y, x_test, y_test.

    The names x_train, y_train, x_test, y_test (Keras) and train_images, train_labels, test_images, test_labels
    (MedMNIST) are known too; a single array needs no name.

    x and x_test have the shape (N, H, W), (N, C, H, W) or (N, H, W, C). In four dimensions, the channels are the second
    axis if its length is 1, 3 or 4, otherwise the last axis if its length is, otherwise the shorter of the two (the
    second if they are equal). Values are booleans, integers or floats. White is 255; 1 if no value is larger; or 65535
    in 16-bit images, integers whose maximum is at least 32768. Other ranges are refused. Images are rounded to 256
    levels.

    y and y_test hold one label per image, or one-hot rows. Labels are whole numbers or text. Images with the label -1,
    NaN, '' or a row of zeros are unlabelled. The classes are the distinct labels in sorted order. Without x_test, a
    fixed random tenth of the images is the test set.

    Args:
        root: The .npz file: images x and, optionally, labels y, test images x_test and their labels y_test.
        val_size: Validation images, taken from the training images; a tenth of them by default.
    """

    reads_user_files = True

    def __init__(self, root: str, val_size: int | None = None, **kwargs):
        super().__init__(val_size=val_size, **kwargs)
        self.path = Path(root).expanduser()

    @property
    def source(self) -> str:
        """The path of the file."""
        return str(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint stores in addition to the options.

        The class names, a hash of the images, and `images_read_as` unless the file holds uint8 from 0 to 255.
        """
        read_as = {"images_read_as": self.images_read_as} if self.images_read_as else {}
        return {**super().state_dict(), "images_hash": self.images_hash, **read_as}

    def fetch(self) -> tuple[Split, Split]:
        """Return the training and test images of the file.

        Raises:
            DataError: If the file cannot be used.
        """
        arrays = self._read_arrays()
        if "y_test" in arrays and "x_test" not in arrays:
            raise DataError(f"{self.path} has y_test but no x_test: add x_test or leave y_test out.")
        # Images leave `arrays`, so that they are not kept in memory after conversion.
        images = self._read_images({name: arrays.pop(name) for name in ("x", "x_test") if name in arrays})
        classes = self._read_classes(arrays, images)
        train = Split(images["x"], classes["y"])
        size = len(train.y)
        if "x_test" in images:
            if size < 2:
                raise DataError(f"{self.path}: x must hold at least 2 images (to train and validate), not {size}.")
            return train, Split(images["x_test"], classes["y_test"])
        if size < 3:
            raise DataError(f"{self.path} must hold at least 3 images (to train, validate and test), not {size}.")
        order = torch.randperm(size, generator=fixed_generator("test images of an NPZ"))
        test_size = max(1, size // 10)
        return train.subset(order[test_size:]), train.subset(order[:test_size])

    def _read_arrays(self) -> dict[str, np.ndarray]:
        """Return those of the arrays x, y, x_test and y_test that the file contains."""
        try:
            is_file, is_folder = self.path.is_file(), self.path.is_dir()
        except OSError as error:  # such as a folder without permission above it
            raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
        if is_folder:
            raise DataError(
                f"{self.path} is a folder, but NPZ reads one .npz file: {EXPECTED_FILE}. For a folder of image files, "
                "use --data ImageFolder."
            )
        if not is_file:
            raise DataError(f"{self.path} was not found: root must be the .npz file that holds your images.")
        arrays = {}
        name = None
        try:
            # The file is opened here because numpy does not close a damaged file.
            with open(self.path, "rb") as file:
                if file.read(len(NPY_MAGIC)) == NPY_MAGIC:
                    raise DataError(
                        f"{self.path} is a .npy file of one array, but NPZ reads an .npz file: {EXPECTED_FILE}."
                    )
                file.seek(0)
                with np.load(file, allow_pickle=False) as archive:
                    names_in_file = list(archive)
                    for array, name in self._find_names(names_in_file).items():
                        arrays[array] = archive[name]
                        if not isinstance(arrays[array], np.ndarray):  # numpy returns other members as bytes
                            raise DataError(f"{self.path}: {name} is not an array: {EXPECTED_FILE}.")
        except DataError:
            raise
        except MemoryError as error:
            raise DataError(f"{self.path}: {name or 'the file'} does not fit into memory, or is damaged.") from error
        except Exception as error:  # zipfile, its decompressors and numpy raise many types for damaged files
            if isinstance(error, OSError) and error.errno:
                raise DataError(f"{self.path} cannot be read: {error.strerror}.") from error
            if isinstance(error, ValueError) and "allow_pickle" in str(error) and name:
                raise DataError(
                    f"{self.path}: {name} is an array of Python objects: save it as an array of numbers, or of text "
                    "with numpy.array(labels, dtype=str)."
                ) from error
            raise DataError(
                f"{self.path} is not a complete .npz file of plain arrays; numpy.savez makes one."
            ) from error
        if "x" not in arrays:
            contents = f" but {list_names(names_in_file)}" if names_in_file else ""
            raise DataError(f"{self.path} has no array named x{contents}: name the images x when you save them.")
        return arrays

    def _find_names(self, names_in_file: list[str]) -> dict[str, str]:
        """Return the names in the file of those of the arrays x, y, x_test and y_test that it contains."""
        if names_in_file == [UNNAMED]:
            return {"x": UNNAMED}
        rows = [row for row in NAMES_IN_FILE if row[0] in names_in_file]
        found = {
            array: name for array, name in zip(ARRAYS, (rows or [ARRAYS])[0], strict=True) if name in names_in_file
        }
        if renamed := [f"{name} is {array}" for array, name in found.items() if array != name]:
            self.note(f"Arrays of {self.path}: {', '.join(renamed)}.")
        if ignored := [name for name in VALIDATION_ARRAYS if name in names_in_file]:
            self.note(
                f"warning: {ignored[0]} in {self.path} is not used: the validation images are taken from the training "
                "images."
            )
        others = [name for name in names_in_file if name not in (*found.values(), *ignored)]
        if found and others and "y" not in found:
            self.note(
                f"warning: the images in {self.path} are read without labels. Not used: {list_names(others)}. Labels "
                f"of {found['x']} must be named {(rows or [ARRAYS])[0][1]}."
            )
        return found

    def _read_images(self, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
        """Return contiguous images (N, C, H, W), uint8 from 0 to 255, by name."""
        for name, x in arrays.items():
            if x.ndim not in (3, 4) or 0 in x.shape:
                shapes = "(N, H, W), (N, C, H, W) or (N, H, W, C)"
                raise DataError(f"{self.path}: {name} must hold images, {shapes}, not an array {x.shape}.")
        images = as_uint8(str(self.path), arrays)
        self.images_read_as = images.read_as
        for message in images.messages:
            self.note(message)
        return {name: torch.from_numpy(self._to_channels_first(name, x)) for name, x in images.arrays.items()}

    def _to_channels_first(self, name: str, x: np.ndarray) -> np.ndarray:
        """Return images of shape (N, H, W), (N, C, H, W) or (N, H, W, C) as (N, C, H, W)."""
        if x.ndim == 3:
            return x[:, None]
        second, last = x.shape[1], x.shape[3]
        is_ambiguous = {second, last} <= set(COMMON_CHANNELS) and x.shape[1:] != (1, 1, 1)
        if second not in COMMON_CHANNELS and (last in COMMON_CHANNELS or last < second):
            x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
        if is_ambiguous or x.shape[1] not in COMMON_CHANNELS:
            _, channels, height, width = x.shape
            count = "1 channel" if channels == 1 else f"{channels} channels"
            self.note(f"{name} in {self.path} is read as images of {count} and {height} x {width} pixels.")
        return x

    def _read_classes(self, arrays: dict[str, np.ndarray], images: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the classes of y and y_test, -1 for unlabelled images, and set `class_names`."""
        source = str(self.path)
        sizes = {name: len(images[of]) for name, of in (("y", "x"), ("y_test", "x_test")) if of in images}
        unlabelled = {name: torch.full((size,), -1) for name, size in sizes.items()}
        found = {name: arrays[name] for name in sizes if name in arrays}
        if not found:
            return unlabelled
        read = {name: read_labels(source, name, y, sizes[name]) for name, y in found.items()}
        check_same_form(source, found)
        classes, names = as_classes(source, *(labels for labels, _ in read.values()))
        self.class_names = names or None
        for (name, (_, marker)), y in zip(read.items(), classes, strict=True):
            if missing := int((y < 0).sum()):
                self.note(f"{name} in {source}: {missing} of {len(y)} images are unlabelled ({marker}).")
        if names != [str(index) for index in range(len(names))]:
            count = "1 class" if len(names) == 1 else f"{len(names)} classes"
            self.note(f"Labels in {source}: {count}, {list_names(names)}.")
        if names == ["1"] and any((y < 0).any() for y in classes):
            self.note(
                f"warning: labels in {source} are -1 and 1, but -1 means unlabelled: save 0 and 1 for two classes."
            )
        return unlabelled | dict(zip(found, classes, strict=True))
