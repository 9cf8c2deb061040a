"""Pixel values of user files: find out on which scale they are and convert them to uint8 from 0 to 255."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from datamodules.download import DataError

MIN_LARGEST_VALUE = 64  # a smaller maximum (of 255) indicates another scale, such as 0..15 or 0..16
WARN_IF_LARGEST_BELOW = 128  # the images may be on another scale, or just dark
WARN_IF_SMALLEST_FROM = 192  # the images are nearly white, such as masks of 254 and 255
MIN_LARGEST_OF_16_BITS = 2**15  # a smaller maximum indicates fewer bits, such as 12 bits (0..4095)
TOLERANCE = 1e-4  # floats may leave their range by this share of it, because of interpolation and rounding
CHUNK_VALUES = 2**15  # values that are converted at once: they fit the cache of a CPU


class Range(NamedTuple):
    """The smallest and the largest value of an array, both NaN if a value is NaN."""

    low: float
    high: float


class Images(NamedTuple):
    """Images of a user file after conversion.

    Attributes:
        arrays: Contiguous uint8 arrays from 0 to 255, by name.
        read_as: The type and scale in the file, and the rounding error; empty for uint8 from 0 to 255 and booleans.
        messages: Messages for the user.
    """

    arrays: dict[str, np.ndarray]
    read_as: str
    messages: list[str]


def as_uint8(source: str, arrays: dict[str, np.ndarray]) -> Images:
    """Return images as contiguous uint8 arrays from 0 to 255.

    White is 1, 255 or 65535 in the file, the same in all arrays except boolean ones: see `choose_white`. Arrays with a
    small maximum on this scale are refused: they are probably on another scale, and a model would silently be trained
    on nearly black images.

    Args:
        source: The file, for messages.
        arrays: Images by the name of their array.

    Raises:
        DataError: If values have another type or scale.
    """
    ranges = {}
    for name, x in arrays.items():
        if x.dtype.kind not in "biuf":
            raise DataError(f"{source}: {name} must be numbers, not {dtype_name(x)}.")
        if x.dtype.kind != "b":
            ranges[name] = find_range(x)
            if not all(map(math.isfinite, ranges[name])):
                raise DataError(f"{source}: {name} holds NaN or infinite values; replace them first.")
    scaled = {name: arrays[name] for name in ranges}
    are_integers = all(x.dtype.kind in "iu" for x in scaled.values())
    white = choose_white(source, ranges, are_integers)
    messages = []
    for name in ranges:
        messages += check_brightness(source, name, ranges, white)

    images, errors = {}, [0.0]
    for name, x in arrays.items():
        if x.dtype == bool:
            images[name] = np.ascontiguousarray(x).view(np.uint8) * np.uint8(255)
        elif x.dtype == np.uint8 and white == 255:
            images[name] = np.ascontiguousarray(x)
        else:
            images[name], error = scale_to_bytes(x, white)
            errors.append(error)
    if are_integers and white == 1:
        read_as = "masks of 0 and 1"
        messages.append(f"The images in {source} hold only 0 and 1: read as masks, 0 and 255.")
    else:
        read_as = describe(scaled.values(), white, max(errors))
        if read_as:
            messages.insert(0, f"The images in {source} are read as {read_as}.")
    return Images(images, read_as, messages)


def find_range(x: np.ndarray) -> Range:
    """Return the smallest and the largest value of an array, integers exactly."""
    low, high = x.min(), x.max()
    return Range(int(low), int(high)) if x.dtype.kind in "iu" else Range(float(low), float(high))


def choose_white(source: str, ranges: dict[str, Range], are_integers: bool) -> int:
    """Return the value of white: 1, 255, or 65535 for integers that need 16 bits.

    Args:
        source: The file, for messages.
        ranges: Ranges of all arrays that are not boolean, by name.
        are_integers: Whether all these arrays hold integers.

    Raises:
        DataError: If the values are on none of these scales.
    """
    if not ranges:
        return 255
    low, high = min(r.low for r in ranges.values()), max(r.high for r in ranges.values())
    # Images that are black throughout fit every scale.
    white = next((white for white in (1, 255) if 0 < high <= white * (1 + TOLERANCE)), 65535) if high else 255
    if low < -TOLERANCE * min(white, 255):
        raise DataError(f"{source}: {negative_message(low, high, are_integers)}")
    if white == 65535 and (not are_integers or not MIN_LARGEST_OF_16_BITS <= high <= 65535):
        raise DataError(scale_message(source, max(ranges, key=lambda name: ranges[name].high), ranges))
    return white


def check_brightness(source: str, name: str, ranges: dict[str, Range], white: int) -> list[str]:
    """Return warnings about an array that is dark or nearly white on the scale of the file.

    Args:
        source: The file, for messages.
        name: Name of the array.
        ranges: Ranges of all arrays, by name.
        white: The value of white.

    Raises:
        DataError: If the array is probably on another scale.
    """
    low, high = ranges[name]
    level = white / 255
    if 0 < high < MIN_LARGEST_VALUE * level:
        raise DataError(scale_message(source, name, ranges, white))
    if 0 < high < WARN_IF_LARGEST_BELOW * level:
        rounding = " and round" if white > 1 else ""
        return [
            f"warning: the largest value of {name} in {source} is {high:.6g} of {white}: if it is meant to be white, "
            f"multiply {name} by {white / high:.4g}{rounding}."
        ]
    if WARN_IF_SMALLEST_FROM * level <= low < high:
        return [
            f"warning: the smallest value of {name} in {source} is {low:.6g} of {white}, so that all images are nearly "
            f"white: if {low:.6g} is meant to be black, map {low:.6g}..{high:.6g} to 0..{white}."
        ]
    return []


def negative_message(low: float, high: float, are_integers: bool) -> str:
    """Return the end of the error message for images with negative values.

    Args:
        low: Smallest value of all arrays.
        high: Largest value of all arrays.
        are_integers: Whether all arrays hold integers.
    """
    bounds = [bound for bound in (0.5, 1) if max(-low, high) <= bound * (1 + TOLERANCE)]
    black, white = (-bounds[0], bounds[0]) if bounds else (low, high)
    x = "x.astype(float)" if are_integers else "x"  # small integer types overflow
    return (
        f"the images hold values from {low:.6g} to {high:.6g}, but must not be negative: if {black:.9g} is black and "
        f"{white:.9g} is white, save ({x} + {-black:.9g}) / {white - black:.9g}."
    )


def scale_message(source: str, name: str, ranges: dict[str, Range], scale: int = 255) -> str:
    """Return the error message for an array that is on another scale.

    Args:
        source: The file.
        name: Name of the array.
        ranges: Ranges of all arrays, by name.
        scale: The value of white of the other arrays.
    """
    high = ranges[name].high
    others = [f"{other} reaches {r.high:.6g}" for other, r in ranges.items() if other != name and r.high != high]
    contrast = f", while {' and '.join(others)}" if others else ""
    white = high
    if 255 < high < 65535 and high == int(high):
        white = 2 ** int(high).bit_length() - 1  # such as 4095 for images of 12 bits
    return (
        f"{source}: the largest value of {name} is {high:.6g}{contrast}, but white must be 1, 255 or, in 16-bit "
        f"integers, 65535. If {white:.9g} is white, save {conversion_code(name, white, scale if others else 255)}."
    )


def conversion_code(name: str, white: float, scale: int) -> str:
    """Return code that rescales an array such that `white` becomes `scale`: 1, 255 or 65535."""
    if scale == 1:
        return f"{name} / {white:.9g}"
    factor = {1: f" * {scale}", scale: ""}.get(white, f" * ({scale} / {white:.9g})")
    return f"numpy.round({name}{factor}).astype(numpy.{'uint8' if scale == 255 else 'uint16'})"


def scale_to_bytes(x: np.ndarray, white: int) -> tuple[np.ndarray, float]:
    """Return 255 * x / white, rounded to uint8, and the largest rounding error in units of the 256 levels.

    Errors that are due to the precision of a floating-point type are not counted: with white = 1, images k / 255 that
    are stored in this type have the error 0.
    """
    levels = np.empty(x.shape, np.uint8)
    largest_error = 0.0
    for index in chunks(x):
        exact = x[index].astype(np.float64)
        exact *= 255 / white
        rounded = np.rint(exact)
        levels[index] = rounded
        largest_error = max(largest_error, float(np.abs(exact - rounded).max()))
    return levels, largest_error if largest_error > unavoidable_error(x.dtype) else 0.0


def unavoidable_error(dtype: np.dtype) -> float:
    """Return by how much images k / 255 in this type differ from integers after multiplication by 255, at most."""
    eps = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
    # Two units in the last place: k / 255 and k * (1 / 255) are both common. float16 has steps of 1/8 at white.
    return min(512 * max(eps, float(np.finfo(np.float64).eps)), 0.25)


def chunks(x: np.ndarray) -> Iterator[slice]:
    """Yield slices of the first axis that hold about `CHUNK_VALUES` values each."""
    step = max(1, CHUNK_VALUES * len(x) // x.size)
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def describe(arrays: Iterable[np.ndarray], white: int, error: float) -> str:
    """Return type and scale of images in a file, and the rounding error; empty for uint8 from 0 to 255.

    Args:
        arrays: The arrays that are not boolean.
        white: The value of white in the file.
        error: The largest rounding error in units of the 256 levels.
    """
    types = list(dict.fromkeys(dtype_name(x) for x in arrays))
    if white == 255 and set(types) <= {"uint8"}:
        return ""
    precision = f"rounded to 256 levels (by at most {error:.2g} of a level)" if error else "exact in 256 levels"
    return f"{' and '.join(types)} from 0 to {white}, {precision}"


def dtype_name(x: np.ndarray) -> str:
    """Return the type of an array without its byte order, such as float32."""
    return str(x.dtype.newbyteorder("="))
