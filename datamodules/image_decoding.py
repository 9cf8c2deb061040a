"""Decode image files to uint8 arrays."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

# Only these decoders are used, whatever the suffix of a file says
PIL_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr")
GREY_16_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N")
ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION_TAG = 0x0112  # of EXIF and TIFF
BITS_TAG, PHOTOMETRIC_TAG, PLANAR_TAG = 258, 262, 284  # of TIFF

Background = Literal["white", "black"]
# What was done to an image, for messages
SCALED, COMPOSITED, CONVERTED, TURNED, FIRST_FRAME = "16 bit", "transparent", "CMYK", "orientation", "frames"


class Header(NamedTuple):
    """What the header of an image file says."""

    height: int
    width: int
    channels: int  # 1 if the image is grey for certain, otherwise 3


class Decoding(NamedTuple):
    """How images are decoded."""

    size: int | None = None  # side of the square images after resizing and cropping
    channels: int | None = None  # 1 or 3; by default 1 for grey images and 3 for colour images
    background: Background = "white"  # of transparent images


class UnsupportedPixels(ValueError):
    """A file holds an image of a type that is not supported. The message is the reason."""


def read_header(path: Path) -> Header:
    """Return size and number of channels of an image, without decoding it.

    Raises:
        Exception: Of any type, if the file is not an image that can be decoded.
    """
    with open_image(path) as image:
        check_mode(image)
        width, height = image.size
        if image.format != "TIFF" and orientation(image) >= 5:  # the size of a TIFF image is that after turning it
            width, height = height, width
        is_grey = image.mode in GREY_MODES + GREY_16_BIT_MODES or raw_mode(image).startswith("LA")
        return Header(height, width, 1 if is_grey else 3)


def decode(path: Path, decoding: Decoding) -> tuple[np.ndarray, set[str]]:
    """Return an image as uint8, (H, W) if it is grey and (H, W, 3) otherwise, and what was done to it.

    Raises:
        Exception: Of any type, if the file is not an image that can be decoded.
    """
    done = set()
    with open_image(path) as image:
        check_mode(image)
        if getattr(image, "is_animated", False):
            done.add(FIRST_FRAME)
            image.seek(0)
        if image.mode == "CMYK":
            done.add(CONVERTED)
        stored_turn = orientation(image)
        pixels, alpha = read_pixels(path, image)
        # Read again: a PNG file may have it after the pixels, and a TIFF image is upright once Pillow has decoded it.
        turn = orientation(image)
    if pixels.dtype == np.uint16:
        done.add(SCALED)
    white = np.iinfo(pixels.dtype).max
    if alpha is not None and (alpha != white).any():
        done.add(COMPOSITED)
        pixels = composite(pixels, alpha, white if decoding.background == "white" else 0)
    if pixels.dtype == np.uint16:
        pixels = scale_to_8_bits(pixels)
    if turn != 1 or stored_turn != 1:
        done.add(TURNED)
        pixels = apply_orientation(pixels, turn)
    pixels = convert_channels(pixels, decoding.channels)
    if decoding.size is not None:
        pixels = resize_and_crop(pixels, decoding.size)
    return np.ascontiguousarray(pixels), done


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open an image file without decoding it."""
    # Given a path, Pillow 13 maps uncompressed TIFF files into memory, and then turns them wrongly.
    with open(path, "rb") as file, Image.open(file, formats=PIL_FORMATS) as image:
        yield image


def check_mode(image: Image.Image) -> None:
    """Raise UnsupportedPixels if an image has pixels of another type than those that are supported."""
    if image.mode not in GREY_MODES + COLOUR_MODES + GREY_16_BIT_MODES:
        kinds = {"F": "floating-point numbers", "I": "32-bit or signed integers"}
        raise UnsupportedPixels(
            f"its pixels are {kinds.get(image.mode, f'of mode {image.mode}')}; allowed are grey levels and colours of "
            "8 or 16 bits"
        )
    if image.format == "TIFF":
        bits = image.tag_v2.get(BITS_TAG, (1,))[0]
        if bits > 8 and image.mode in GREY_16_BIT_MODES and bits != 16:
            raise UnsupportedPixels(f"its pixels have {bits} bits; allowed are 8 and 16")
        # of other 16-bit images, Pillow returns 8 bits or wrong values
        is_planar = image.tag_v2.get(PLANAR_TAG, 1) != 1
        if bits > 8 and image.mode not in GREY_16_BIT_MODES and (is_planar or not has_16_bit_colours(image)):
            raise UnsupportedPixels("its 16-bit pixels are stored in an unusual way; save it as 16-bit RGB or as PNG")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 is upright."""
    if image.format == "TIFF":
        value = image.tag_v2.get(ORIENTATION_TAG, 1)
    elif "exif" in image.info:
        try:
            value = image.getexif().get(ORIENTATION_TAG, 1)
        except Exception:  # damaged EXIF data do not make an image unusable
            value = 1
    else:
        value = 1
    return value if value in range(1, 9) else 1


def raw_mode(image: Image.Image) -> str:
    """Return how pixels are stored in the file, in Pillow's terms, such as RGB;16B."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return name if isinstance(name, str) else ""


def read_pixels(path: Path, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the pixels of an open image, (H, W) or (H, W, 3), and alpha (H, W) or None, all uint8 or all uint16."""
    if image.mode in GREY_16_BIT_MODES:
        inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC_TAG) == 0  # 0 is white; Pillow ignores it
        key = image.info.get("transparency")
        grey = np.asarray(image).astype(np.uint16)
        alpha = None if key is None else np.where(grey == key, 0, 65535).astype(np.uint16)
        return (65535 - grey if inverted else grey), alpha
    if has_16_bit_colours(image):
        return read_16_bit_colours(path, image)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        return drop_equal_channels(rgba[..., :3]), rgba[..., 3]
    if image.mode in GREY_MODES:
        return np.asarray(image if image.mode == "L" else image.convert("L")), None
    return drop_equal_channels(np.asarray(image if image.mode == "RGB" else image.convert("RGB"))), None


def read_16_bit_colours(path: Path, image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """Return colours and alpha of an open file with 16 bits per channel as uint16.

    Pillow returns only the high byte of each value. Reading the file a second time in the other byte order gives the
    low bytes.
    """
    mode, key = raw_mode(image), image.info.get("transparency")
    if mode == "LA;16B":  # Pillow knows no other byte order for it, but 4 bytes per pixel are read as they are
        set_raw_mode(image, "RGBA")
        pairs = np.asarray(image).astype(np.uint16)  # (H, W, 4): high and low byte of the grey level, and of alpha
        pixels = pairs[..., ::2] << 8 | pairs[..., 1::2]
    else:
        other_order = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
        with open_image(path) as again:
            set_raw_mode(again, mode[:-1] + other_order[mode[-1]])
            pixels = np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)
    if pixels.shape[2] in (2, 4):
        pixels, alpha = pixels[..., :-1], pixels[..., -1]
    elif key is not None:
        alpha = np.where((pixels == np.asarray(key, np.uint16)).all(-1), 0, 65535).astype(np.uint16)
    else:
        alpha = None
    return drop_equal_channels(pixels), alpha


def has_16_bit_colours(image: Image.Image) -> bool:
    """Return whether an open image has colours of 16 bits that `read_16_bit_colours` can read."""
    return raw_mode(image)[:-1] in ("LA;16", "RGB;16", "RGBX;16", "RGBA;16")


def set_raw_mode(image: Image.Image, mode: str) -> None:
    """Change how an open image is decoded, in Pillow's terms."""
    image.tile = [
        tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode) for tile in image.tile
    ]


def drop_equal_channels(pixels: np.ndarray) -> np.ndarray:
    """Return an image (H, W, C) as (H, W) if all channels are equal."""
    first = pixels[..., 0]
    is_grey = all(np.array_equal(first, pixels[..., channel]) for channel in range(1, pixels.shape[2]))
    return first if is_grey else pixels


def composite(pixels: np.ndarray, alpha: np.ndarray, background: int) -> np.ndarray:
    """Return an image on a background of one grey level, rounded to the nearest level."""
    white = np.iinfo(pixels.dtype).max
    weight = (alpha if pixels.ndim == 2 else alpha[..., None]).astype(np.int64)
    return ((weight * pixels + (white - weight) * background + white // 2) // white).astype(pixels.dtype)


def scale_to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Return 16-bit levels v as 8 bits: v / 257, rounded to the nearest level, so that 65535 becomes 255."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def apply_orientation(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Return an image (H, W, ...) turned and mirrored to upright, given its EXIF orientation."""
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def convert_channels(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """Return an image with the number of channels; colours become grey by the luma of ITU-R BT.601."""
    if channels == 1 and pixels.ndim == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))
    return pixels


def resize_and_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """Return the central square of an image, resized to `size` by antialiased bicubic interpolation.

    This is resizing of the shorter side followed by a centre crop, in an order that resizes fewer pixels.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels = pixels[top : top + side, left : left + side]
    if side == size:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def failure_reason(error: Exception) -> str:
    """Return why a file cannot be decoded, without its path."""
    if isinstance(error, UnsupportedPixels):
        return str(error)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else f"{text[:97]}..."
