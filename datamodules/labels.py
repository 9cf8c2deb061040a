"""Labels as they are found in a file, as classes 0, 1, ... with names."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.download import DataError

UNKNOWN = {int: -1, str: ""}  # the label of an image whose class is not known


def read_labels(source: str, name: str, y: np.ndarray, size: int) -> np.ndarray:
    """Return the labels in an array as int or str, in the machine's byte order.

    Args:
        source: The file, for messages.
        name: The array's name, for messages.
        y: The array: whole numbers, truth values or text.
        size: The number of images.

    Raises:
        DataError: If it is anything else, or not one label for each image.
    """
    if y.shape == (size, 1):
        raise DataError(f"{source}: {name} must be {size} labels in one axis, not {y.shape}: save {name}.reshape(-1).")
    if y.ndim == 2 and len(y) == size:
        raise DataError(
            f"{source}: {name} must be one label for each image, not {y.shape}: save {name}.argmax(1) if it is one-hot."
        )
    if y.shape != (size,):
        raise DataError(f"{source}: {name} must be {size} labels, one for each image, not an array {y.shape}.")
    if y.dtype.kind == "f":
        raise DataError(
            f"{source}: {name} must be whole numbers or text, not {y.dtype}: save {name}.astype(int) if all are whole."
        )
    if y.dtype.kind not in "biuUS":
        raise DataError(f"{source}: {name} must be whole numbers or text, not {y.dtype}.")
    if y.dtype.kind == "S":
        try:
            return np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: the text in {name} is not UTF-8: save it as numpy.array(..., str).") from error
    if y.dtype.kind == "b":
        return y.astype(np.int64)
    if y.dtype.kind == "i" and size and y.min() < -1:
        raise DataError(f"{source}: {name} must be 0, 1, ... or -1 for unknown, not {y.min()}.")
    return y.astype(y.dtype.newbyteorder("="))


def as_classes(source: str, *labels: np.ndarray) -> tuple[list[Tensor], list[str]]:
    """Number the distinct labels of all arrays in sorted order: 0, 1, ..., and -1 for unknown.

    Labels 0, 1, ... without a gap keep their numbers. Text that is all whole numbers is sorted as numbers.

    Args:
        source: The file, for messages.
        labels: What `read_labels` returns.

    Returns:
        The classes of each array, int64, and the names of the classes.

    Raises:
        DataError: If one array holds text and another one numbers.
    """
    if len({y.dtype.kind == "U" for y in labels}) > 1:
        raise DataError(f"{source}: y and y_test must both be whole numbers or both be text.")
    found = [np.unique(y, return_inverse=True) for y in labels]
    values = {value for distinct, _ in found for value in distinct.tolist()}
    known = ordered(value for value in values if value != UNKNOWN[type(value)])
    number = {value: index for index, value in enumerate(known)}
    classes = []
    for distinct, inverse in found:
        numbers = np.array([number.get(value, -1) for value in distinct.tolist()], np.int64)
        classes.append(torch.from_numpy(numbers[inverse.reshape(-1)]))
    return classes, [str(value) for value in known]


def ordered(values) -> list:
    """Sort numbers, or text; text that is all whole numbers as numbers."""
    values = sorted(values)
    if all(isinstance(value, str) and value.isdecimal() for value in values):
        values.sort(key=int)
    return values


def shortened(names: Sequence[str], most: int = 10) -> str:
    """The names in a sentence, of many the first ones and the last."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])}, ... {names[-1]}"
