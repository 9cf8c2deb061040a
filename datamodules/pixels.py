"""Pixel values of user files: validate them and convert them to uint8 from 0 to 255."""

import numpy as np

from datamodules.download import DataError

MIN_LARGEST_VALUE = 64  # a smaller maximum indicates another scale, such as 0..1, 0..15 or 0..16
WARN_IF_LARGEST_BELOW = 128  # the images may be on another scale, or just dark
WARN_IF_SMALLEST_FROM = 192  # the images are nearly white, such as masks of 254 and 255


def as_uint8(source: str, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return images as contiguous uint8 arrays from 0 to 255, and messages about how they were read.

    Boolean arrays and uint8 arrays of 0 and 1 are masks and become 0 and 255. An uint8 array with a small maximum is
    refused: it is probably on another scale, and a model would silently be trained on nearly black images.

    Args:
        source: The file, for messages.
        arrays: Images by the name of their array.

    Returns:
        The converted images by name, and messages for the user.

    Raises:
        DataError: If values have another type or scale.
    """
    largest = {name: int(x.max(initial=0)) for name, x in arrays.items() if x.dtype == np.uint8}
    # Masks are 0 and 1 in all arrays. All-black images fit any scale.
    are_masks = bool(largest) and max(largest.values()) == 1
    images, messages = {}, []
    for name, x in arrays.items():
        if x.dtype == bool:
            x = x.view(np.uint8) * np.uint8(255)
        elif x.dtype != np.uint8:
            dtype = x.dtype.newbyteorder("=")
            raise DataError(f"{source}: {name} must be uint8 from 0 to 255, not {dtype}: {suggest_conversion(name, x)}")
        elif are_masks:
            x = x * np.uint8(255)
        elif 0 < largest[name] < MIN_LARGEST_VALUE:
            raise DataError(scale_message(source, name, largest))
        elif 0 < largest[name] < WARN_IF_LARGEST_BELOW:
            messages.append(
                f"warning: the largest value of {name} in {source} is {largest[name]} of 255: if it is meant to be "
                f"white, multiply {name} by {255 / largest[name]:.4g} and round."
            )
        elif x.size and WARN_IF_SMALLEST_FROM <= (smallest := int(x.min())) < largest[name]:
            messages.append(
                f"warning: the smallest value of {name} in {source} is {smallest} of 255, so that all images are "
                f"nearly white: if {smallest} is meant to be black, map {smallest}..{largest[name]} to 0..255."
            )
        images[name] = np.ascontiguousarray(x)
    if are_masks:
        messages.append(f"The images in {source} hold only 0 and 1: read as masks, 0 and 255.")
    return images, messages


def scale_message(source: str, name: str, largest: dict[str, int]) -> str:
    """Return the error message for an array that is not on the scale 0..255.

    Args:
        source: The file.
        name: Name of the array.
        largest: Largest value of each array.
    """
    value = largest[name]
    others = [f"{other} reaches {maximum}" for other, maximum in largest.items() if other != name and maximum != value]
    contrast = f", while {' and '.join(others)}" if others else ""
    return (
        f"{source}: the largest value of {name} is {value}{contrast}, but images must be uint8 from 0 to 255. If "
        f"{value} is white, {conversion_code(name, value)}."
    )


def conversion_code(name: str, white: float) -> str:
    """Return the instruction to save an array rescaled such that `white` becomes 255."""
    factor = {1: " * 255", 255: ""}.get(white, f" * (255 / {white:.9g})")
    return f"save numpy.round({name}{factor}).astype(numpy.uint8)"


def suggest_conversion(name: str, x: np.ndarray) -> str:
    """Return the end of an error message: how to convert images of another type."""
    if x.dtype.kind not in "iuf":
        return "save numbers."
    if not x.size:
        return "save images."
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        return "it holds NaN or infinite values; replace them first."
    low, high = x.min().item(), x.max().item()
    value_range = f"its values range from {low:.6g} to {high:.6g}"
    if low < 0:
        return f"{value_range}; map them to 0..255 and save them as uint8."
    if x.dtype.kind == "f" and high <= 1:
        white = 1
    elif high < MIN_LARGEST_VALUE:
        white = high
    else:
        white = next((bound for bound in (255, 65535) if high <= bound), high)
    return f"{value_range}; if {white:.9g} is white, {conversion_code(name, white)}."
