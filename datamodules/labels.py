"""Labels of user files: validate them and convert them to classes 0, 1, ... with names."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from datamodules.download import DataError

UNLABELLED = {int: -1, str: ""}  # the label of an image without a class, by type of label
MAX_EXACT_FLOAT = 2**53  # larger floats do not hold every integer


def read_labels(source: str, name: str, y: np.ndarray, size: int) -> tuple[np.ndarray, str]:
    """Return the labels in an array as integers or str, in native byte order, and how unlabelled images are marked.

    Args:
        source: The file, for messages.
        name: Name of the array, for messages.
        y: Integers, booleans, whole floats (NaN: unlabelled) or text, (N,) or (N, 1); or one-hot rows (N, C) of 0 and 1
            (only zeros: unlabelled).
        size: The number of images N.

    Returns:
        Labels (N,), and what marks an unlabelled image in the array, for messages.

    Raises:
        DataError: If the array has another type, or does not hold one label per image.
    """
    if y.dtype.kind not in "biufUS":
        raise DataError(f"{source}: {name} must be numbers or text, not {y.dtype}.")
    if y.shape == (size, 1):
        y = y[:, 0]
    if y.ndim == 2 and len(y) == size and y.dtype.kind in "biuf":
        return read_one_hot(source, name, y), "a row of zeros"
    if y.shape != (size,):
        raise DataError(
            f"{source}: {name} must be {size} labels, one per image, or one-hot rows, not an array {y.shape}."
        )
    if y.dtype.kind == "f":
        return read_floats(source, name, y), "-1 or NaN"
    if y.dtype.kind == "U":
        return y.astype(y.dtype.newbyteorder("=")), "an empty text"
    if y.dtype.kind == "S":
        try:
            return np.char.decode(y, "utf-8"), "an empty text"
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: the text in {name} is not UTF-8: save it as numpy.array(..., str).") from error
    if y.dtype.kind == "b":
        return y.astype(np.int64), "-1"
    if y.dtype.kind == "i" and size and y.min() < -1:
        raise DataError(f"{source}: {name} must be 0, 1, ... or -1 for unknown, not {y.min()}.")
    return y.astype(y.dtype.newbyteorder("=")), "-1"


def check_same_form(source: str, labels: dict[str, np.ndarray]) -> None:
    """Raise DataError if some arrays are one-hot and others are not, or have other columns.

    Args:
        source: The file, for messages.
        labels: Arrays as they are in the file, by name.
    """
    columns = {y.shape[1] if y.ndim == 2 else 1 for y in labels.values()}
    if len(columns) > 1:
        shapes = " and ".join(f"{name} {y.shape}" for name, y in labels.items())
        raise DataError(
            f"{source}: {shapes} must both be one label per image, or both be one-hot with the same columns."
        )


def read_one_hot(source: str, name: str, y: np.ndarray) -> np.ndarray:
    """Return the index of the 1 in each row, -1 for rows of zeros.

    Raises:
        DataError: If a row holds anything else.
    """
    is_one = y == 1
    counts = is_one.sum(1)
    if y.shape[1] == 0 or (counts > 1).any() or not (is_one | (y == 0)).all():
        raise DataError(
            f"{source}: the rows of {name} {y.shape} must be one-hot, a single 1 and zeros: save one label per image, "
            f"such as {name}.argmax(1)."
        )
    return np.where(counts == 1, is_one.argmax(1), -1)


def read_floats(source: str, name: str, y: np.ndarray) -> np.ndarray:
    """Return labels that are stored as floats as integers, NaN as -1.

    Raises:
        DataError: If they are not whole numbers of at least -1.
    """
    y = np.where(np.isnan(y), -1, y).astype(np.float64)
    wrong = y[(y != np.rint(y)) | (np.abs(y) > MAX_EXACT_FLOAT) | (y < -1)]
    if wrong.size:
        raise DataError(f"{source}: {name} must be 0, 1, ... or -1 or NaN for unknown, not {wrong[0]:.6g}.")
    return y.astype(np.int64)


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
