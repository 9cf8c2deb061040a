"""Checks and conversions of what users pass to the methods of a trained model.

Each function returns its argument as a tensor that the model can compute with, on the model's device, or raises a
ValueError that names what is expected. Training does not come here: its data are checked when they are read.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4  # of pixel values beyond [0, 1]: what interpolation and rounding add


def as_tensor(values, what: str) -> Tensor:
    """A tensor as it is, or a copy of a NumPy array, which may be read-only or have negative strides."""
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray | np.generic):
        raise ValueError(f"{what} must be a tensor or a NumPy array; got {type(values).__name__}.")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{what} must be numbers; got a NumPy array of {values.dtype}.")
    try:
        return torch.from_numpy(np.array(values, order="C", dtype=values.dtype.newbyteorder("=")))
    except TypeError as error:  # such as a float of 128 bits
        raise ValueError(f"{what} must be numbers that PyTorch knows; got a NumPy array of {values.dtype}.") from error


def as_real(values: Tensor, like: Tensor) -> Tensor:
    """Numbers in the precision of `like`, at least float32, on its device."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return values.to(like.device, dtype)


def type_name(values: Tensor) -> str:
    """The name of a tensor's type, such as float32."""
    return str(values.dtype).removeprefix("torch.")


def check_image_shape(x: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `x` is a batch of images of this shape, with a hint where the intent is plain."""
    if x.ndim == len(image_shape) + 1 and tuple(x.shape[1:]) == image_shape:
        return
    channels, height, width = image_shape
    hint = ""
    if tuple(x.shape) == image_shape:
        hint = " For a single image pass x[None]."
    elif channels == 1 and x.ndim == 3 and tuple(x.shape[1:]) == (height, width):
        hint = " For images without a channel dimension pass x[:, None]."
    elif channels == 1 and tuple(x.shape) == (height, width):
        hint = " For a single image without a channel dimension pass x[None, None]."
    elif x.ndim == 4 and tuple(x.shape[1:]) == (height, width, channels):
        hint = " Channels come first: pass x of shape (B, H, W, C) with its last dimension moved to position 1."
    raise ValueError(
        f"Images must have shape (B, C, H, W) = (B, {channels}, {height}, {width}); got {tuple(x.shape)}.{hint}"
    )


def check_form(x, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `x` is a floating-point batch of this shape: without a look at values.

    Args:
        x: Images, or feature vectors where `image_shape` has one dimension.
        image_shape: Of one of them.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = type_name(x) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"The posterior takes a tensor of floats in [0, 1]; got {got}. `encode` converts its input.")
    if len(image_shape) == 3:
        check_image_shape(x, image_shape)


def as_images(x, image_shape: tuple[int, ...], like: Tensor, in_unit_interval: bool = True) -> Tensor:
    """Images `(B, C, H, W)` with values in [0, 1], in the precision and on the device of `like`.

    Bytes are divided by 255 as the data modules do; booleans become 0 and 1.

    Args:
        x: Floats, bytes or booleans, as a tensor or NumPy array.
        image_shape: Channels, height and width of the model's images.
        like: A parameter of the model.
        in_unit_interval: Whether values must lie in [0, 1]; they must be finite in any case.

    Raises:
        ValueError: Another shape or type, or values that are not finite or outside [0, 1].
    """
    x = as_tensor(x, "Images")
    check_image_shape(x, image_shape)
    if x.dtype == torch.uint8:
        if x.numel() and x.max() == 1:
            raise ValueError(
                "Images of uint8 hold values from 0 to 255, and the largest of these is 1: pass x.astype(bool) or "
                "x.bool() if they are binary."
            )
        return as_real(x.float().div(255), like)
    if x.dtype == torch.bool:
        return as_real(x, like)
    if not x.is_floating_point():
        raise ValueError(
            f"Images must be floats in [0, 1], uint8 from 0 to 255 or booleans; got {type_name(x)}. Convert them to "
            "one of these."
        )
    check_range(x, in_unit_interval)
    return as_real(x, like)


def check_range(x: Tensor, in_unit_interval: bool) -> None:
    """Raise ValueError where floats are not finite or, if they must be pixels, outside [0, 1]."""
    if not x.numel():
        return
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()  # NaN if one value is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("Images must be finite; these hold NaN or infinite values.")
    if not in_unit_interval or (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        return
    hint = " Divide them by 255, or pass them as uint8." if low >= 0 and 1 < high <= 255 else ""
    raise ValueError(f"Pixel values must lie in [0, 1]; got values from {low:.4g} to {high:.4g}.{hint}")


def check_binary(x: Tensor, model: str) -> None:
    """Raise ValueError unless all pixels are 0 or 1, as a Bernoulli likelihood needs them."""
    if bool(((x == 0) | (x == 1)).all()):
        return
    raise ValueError(
        f"This {model} has a Bernoulli likelihood, which is a probability of pixels that are 0 or 1 alone, and these "
        "are grey: binarize them, for example by x.bernoulli(), or train with a gaussian likelihood."
    )


def as_features(x, dim: int, like: Tensor) -> Tensor:
    """Feature vectors `(B, dim)`, as models take them that work on another model's latents."""
    x = as_tensor(x, "Features")
    if x.ndim != 2 or x.shape[1] != dim or not x.is_floating_point():
        raise ValueError(f"Features must be floats of shape (B, {dim}); got {type_name(x)} of shape {tuple(x.shape)}.")
    return as_real(x, like)


def as_latents(z, dim: int, like: Tensor) -> Tensor:
    """Latents `(..., dim)`. Their values may be anything: a NaN gives images of NaN."""
    z = as_tensor(z, "Latents")
    if not z.ndim or z.shape[-1] != dim:
        raise ValueError(f"Latents must have shape (..., {dim}); got {tuple(z.shape)}.")
    if z.is_complex() or z.dtype == torch.bool:
        raise ValueError(f"Latents must be real numbers; got {type_name(z)}.")
    return as_real(z, like)


def as_labels(y, num_classes: int, like: Tensor, shape: tuple[int, ...], broadcast: bool = False) -> Tensor:
    """Labels as int64 on the device of `like`.

    Args:
        y: Integers from 0 to num_classes - 1: a tensor, a NumPy array, a list, or a single one where they broadcast.
        num_classes: Of the model.
        like: A parameter of the model.
        shape: Of the images or latents that they belong to, without their own dimensions.
        broadcast: Whether a shape that broadcasts with `shape` will do.
    """
    if isinstance(y, Sequence | int) and not isinstance(y, str | bool):
        try:
            y = np.asarray(y)
        except ValueError as error:  # rows of different lengths
            raise ValueError(f"Labels must be integers of shape {shape}; got a ragged list.") from error
    y = as_tensor(y, "Labels")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        empty = not y.numel()  # an empty list has no type
        if not (empty and y.is_floating_point()):
            raise ValueError(f"Labels must be integers from 0 to {num_classes - 1}; got {type_name(y)}.")
    if not (fits(y.shape, shape) if broadcast else tuple(y.shape) == shape):
        how = "broadcast with" if broadcast else "have"
        raise ValueError(f"Labels must {how} shape {shape}, one for each image; got {tuple(y.shape)}.")
    y = y.to(like.device, torch.int64)
    if y.numel():
        low, high = torch.stack(torch.aminmax(y)).tolist()
        if low < 0 or high >= num_classes:
            raise ValueError(f"Labels must lie between 0 and {num_classes - 1}; got labels from {low} to {high}.")
    return y


def fits(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes broadcast."""
    try:
        torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return False
    return True


def as_count(n, name: str) -> int:
    """A whole number of at least 1."""
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if isinstance(n, bool) or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1; got {n!r}.")
    return count


def as_size(size, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image to draw, `default` where there is none."""
    if size is None:
        return default
    try:
        height, width = (as_count(side, "size") for side in size)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"size must be two whole numbers of at least 1, height and width, such as (56, 56); got {size!r}."
        ) from error
    return height, width


def evidence_of(model, x, y=None) -> tuple[Tensor, Tensor | None]:
    """Images and labels as the model's likelihood takes them; as they are where the model does not say."""
    return model.as_evidence(x, y) if hasattr(model, "as_evidence") else (x, y)
