"""Labels of user files: validate them and convert them to classes 0, 1, ... with names."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.download import DataError

UNLABELLED = {int: -1, str: ""}  # the label of an image without a class, by type of label


def read_labels(source: str, name: str, y: np.ndarray, size: int) -> np.ndarray:
    """Return the labels in an array as integers or str, in native byte order.

    Args:
        source: The file, for messages.
        name: Name of the array, for messages.
        y: Integers, booleans or text, (N,).
        size: The number of images N.

    Raises:
        DataError: If the array has another type, or does not hold one label per image.
    """
    if y.shape == (size, 1):
        raise DataError(f"{source}: {name} must be {size} labels in one axis, not {y.shape}: save {name}.reshape(-1).")
    if y.ndim == 2 and len(y) == size:
        raise DataError(
            f"{source}: {name} must be one label per image, not {y.shape}: save {name}.argmax(1) if it is one-hot."
        )
    if y.shape != (size,):
        raise DataError(f"{source}: {name} must be {size} labels, one per image, not an array {y.shape}.")
    if y.dtype.kind == "f":
        raise DataError(
            f"{source}: {name} must be integers or text, not {y.dtype}: save {name}.astype(int) if all are integers."
        )
    if y.dtype.kind not in "biuUS":
        raise DataError(f"{source}: {name} must be integers or text, not {y.dtype}.")
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
    """Number the distinct labels of all arrays in sorted order: 0, 1, ..., and -1 for unlabelled.

    Labels 0, 1, ... without a gap keep their numbers. Text that consists of integers is sorted numerically.

    Args:
        source: The file, for messages.
        labels: Arrays that `read_labels` returned.

    Returns:
        The classes of each array, int64, and the names of the classes.

    Raises:
        DataError: If one array holds text and another one numbers.
    """
    if len({y.dtype.kind == "U" for y in labels}) > 1:
        raise DataError(f"{source}: y and y_test must both be integers or both be text.")
    unique_labels = [np.unique(y, return_inverse=True) for y in labels]
    values = {value for distinct, _ in unique_labels for value in distinct.tolist()}
    class_values = sort_labels(value for value in values if value != UNLABELLED[type(value)])
    class_index = {value: index for index, value in enumerate(class_values)}
    classes = []
    for distinct, inverse in unique_labels:
        indices = np.array([class_index.get(value, -1) for value in distinct.tolist()], np.int64)
        classes.append(torch.from_numpy(indices[inverse.reshape(-1)]))
    return classes, [str(value) for value in class_values]


def sort_labels(values: Iterable[int | str]) -> list[int | str]:
    """Return sorted labels; text that consists of integers only is sorted numerically."""
    values = sorted(values)
    if all(isinstance(value, str) and value.isdecimal() for value in values):
        values.sort(key=int)
    return values


def list_names(names: Sequence[str], limit: int = 10) -> str:
    """Return the names separated by commas; of more than `limit` names, the first ones and the last."""
    if len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[: limit - 1])}, ... {names[-1]}"
