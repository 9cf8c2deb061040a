"""The values of images found in a file: checked, and as bytes 0..255."""

import numpy as np

from datamodules.download import DataError

REFUSED_BELOW = 64  # a largest value below a quarter of 255 is another scale, such as 0..1, 0..15 or 0..16
DOUBTED_BELOW = 128  # images that reach no middle grey may just be dark
DOUBTED_FROM = 192  # images without a darker pixel, such as masks of 254 and 255


def as_bytes(source: str, arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return images as uint8 from 0 to 255, contiguous, and what is to be said about them.

    Truth values, and bytes of which none is above 1, are masks: they become 0 and 255. Bytes whose largest value is
    small are on another scale and are refused, since a model would be trained on nearly black images without a sign.

    Args:
        source: The file, for messages.
        arrays: Images by the name of their array.

    Raises:
        DataError: If values are of another type or scale.
    """
    largest = {name: int(x.max(initial=0)) for name, x in arrays.items() if x.dtype == np.uint8}
    # Masks are 0 and 1 in all arrays. All-black images are on any scale.
    are_masks = bool(largest) and max(largest.values()) == 1
    images, remarks = {}, []
    for name, x in arrays.items():
        if x.dtype == bool:
            x = x.view(np.uint8) * np.uint8(255)
        elif x.dtype != np.uint8:
            kind = x.dtype.newbyteorder("=")
            raise DataError(f"{source}: {name} must be uint8 from 0 to 255, not {kind}: {remedy(name, x)}")
        elif are_masks:
            x = x * np.uint8(255)
        elif 0 < largest[name] < REFUSED_BELOW:
            raise DataError(scale_message(source, name, largest))
        elif 0 < largest[name] < DOUBTED_BELOW:
            remarks.append(
                f"warning: the largest value of {name} in {source} is {largest[name]} of 255: if it is meant to be "
                f"white, multiply {name} by {255 / largest[name]:.4g} and round."
            )
        elif x.size and DOUBTED_FROM <= (smallest := int(x.min())) < largest[name]:
            remarks.append(
                f"warning: the smallest value of {name} in {source} is {smallest} of 255, so that all images are "
                f"nearly white: if {smallest} is meant to be black, map {smallest}..{largest[name]} to 0..255."
            )
        images[name] = np.ascontiguousarray(x)
    if are_masks:
        remarks.append(f"The images in {source} hold 0 and 1 only: read as masks, 0 and 255.")
    return images, remarks


def scale_message(source: str, name: str, largest: dict[str, int]) -> str:
    """A sentence for an array that is not on the scale 0..255."""
    value = largest[name]
    others = [f"{other} reaches {most}" for other, most in largest.items() if other != name and most != value]
    contrast = f", while {' and '.join(others)}" if others else ""
    return (
        f"{source}: the largest value of {name} is {value}{contrast}, and images must be uint8 from 0 to 255: if "
        f"{value} is white, multiply by {255 / value:.4g}: {conversion(name, value)}."
    )


def conversion(name: str, white: float) -> str:
    """What to save so that this value becomes 255."""
    factor = {1: " * 255", 255: ""}.get(white, f" * (255 / {white:.9g})")
    return f"save numpy.round({name}{factor}).astype(numpy.uint8)"


def remedy(name: str, x: np.ndarray) -> str:
    """What to do about images of another type, for the end of a sentence."""
    if x.dtype.kind not in "iuf":
        return "save numbers."
    if not x.size:
        return "save images."
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        return "it holds values that are NaN or infinite; replace them first."
    low, high = x.min().item(), x.max().item()
    found = f"its values run from {low:.6g} to {high:.6g}"
    if low < 0:
        return f"{found}; map them to 0..255 and save them as uint8."
    if x.dtype.kind == "f" and high <= 1:
        white = 1
    elif high < REFUSED_BELOW:
        white = high
    else:
        white = next((bound for bound in (255, 65535) if high <= bound), high)
    return f"{found}; if {white:.9g} is white, {conversion(name, white)}."
