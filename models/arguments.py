"""Validation and conversion of the arguments that users pass to the methods of a trained model.

Each `as_...` function returns its argument as a tensor in the model's precision and on its device, and raises
ValueError if it is invalid. Not used in training, where the data module validates the data at load time.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-4  # pixel values may leave [0, 1] by this much, because of interpolation and rounding


def as_tensor(values, what: str) -> Tensor:
    """Return a tensor unchanged, or a copy of a NumPy array, since arrays may be read-only or have negative strides.

    Args:
        values: A tensor or a NumPy array of numbers.
        what: Name of the argument, for messages.
    """
    if isinstance(values, Tensor):
        return values
    if not isinstance(values, np.ndarray | np.generic):
        raise ValueError(f"{what} must be a tensor or a NumPy array; got {type(values).__name__}.")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{what} must be numbers; got a NumPy array of {values.dtype}.")
    try:
        return torch.from_numpy(np.array(values, order="C", dtype=values.dtype.newbyteorder("=")))
    except TypeError as error:  # for example float128
        raise ValueError(f"{what} must have a type that PyTorch supports; got a NumPy {values.dtype} array.") from error


def as_real(values: Tensor, like: Tensor) -> Tensor:
    """Return values in the precision of `like` (at least float32) and on its device."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    return values.to(like.device, dtype)


def type_name(values: Tensor) -> str:
    """Return the name of a tensor's dtype, such as float32."""
    return str(values.dtype).removeprefix("torch.")


def check_image_shape(x: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `x` is a batch of images of this shape, with a hint for common mistakes."""
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
    """Raise ValueError unless `x` is a floating-point batch of this shape. The values are not checked.

    Args:
        x: Images, or feature vectors if `image_shape` has one dimension.
        image_shape: Shape of one image or feature vector.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = type_name(x) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`posterior` needs a tensor of floats in [0, 1]; got {got}. `encode` converts its input.")
    if len(image_shape) == 3:
        check_image_shape(x, image_shape)


def as_images(x, image_shape: tuple[int, ...], like: Tensor, in_unit_interval: bool = True) -> Tensor:
    """Return images `(B, C, H, W)` with values in [0, 1], in the precision and on the device of `like`.

    Values of uint8 are divided by 255, as in the data modules; booleans become 0 and 1.

    Args:
        x: Floats, uint8 or booleans, as a tensor or NumPy array.
        image_shape: Channels, height and width of the model's images.
        like: A parameter of the model.
        in_unit_interval: Whether floats must lie in [0, 1]; they must be finite in any case.

    Raises:
        ValueError: Wrong shape or type, or values that are not finite or outside [0, 1].
    """
    x = as_tensor(x, "Images")
    check_image_shape(x, image_shape)
    if x.dtype == torch.uint8:
        if x.numel() and x.max() == 1:
            raise ValueError(
                "Images of type uint8 have values from 0 to 255, but the largest value here is 1: pass x.astype(bool) "
                "or x.bool() if they are binary."
            )
        return as_real(x.float().div(255), like)
    if x.dtype == torch.bool:
        return as_real(x, like)
    if not x.is_floating_point():
        raise ValueError(
            f"Images must be floats in [0, 1], uint8 from 0 to 255 or booleans; got {type_name(x)}. Convert them first."
        )
    check_range(x, in_unit_interval)
    return as_real(x, like)


def check_range(x: Tensor, in_unit_interval: bool) -> None:
    """Raise ValueError if a value is not finite or, with `in_unit_interval`, outside [0, 1]."""
    if not x.numel():
        return
    low, high = torch.stack(torch.aminmax(x.detach())).tolist()  # NaN if any value is NaN
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("Images must be finite; these have NaN or infinite values.")
    if not in_unit_interval or (low >= -TOLERANCE and high <= 1 + TOLERANCE):
        return
    hint = " Divide them by 255, or pass them as uint8." if low >= 0 and 1 < high <= 255 else ""
    raise ValueError(f"Pixel values must lie in [0, 1]; got values from {low:.4g} to {high:.4g}.{hint}")


def check_binary(x: Tensor, model: str) -> None:
    """Raise ValueError unless all pixels are 0 or 1, as a Bernoulli likelihood requires."""
    if bool(((x == 0) | (x == 1)).all()):
        return
    raise ValueError(
        f"This {model} has a Bernoulli likelihood, which is only defined for pixels 0 and 1, but these images are "
        "grey: binarize them, for example by x.bernoulli(), or train with a gaussian likelihood."
    )


def check_levels(x: Tensor, model: str) -> None:
    """Raise ValueError unless all pixels are multiples of 1/255, as a likelihood of grey levels requires."""
    levels = x * 255
    if bool(((levels - levels.round()).abs() <= 255 * TOLERANCE).all()):
        return
    raise ValueError(
        f"The likelihood of this {model} is only defined for the 256 grey levels 0, 1/255, ..., 1, but these images "
        "have values in between: pass them as uint8, or round them."
    )


def as_features(x, dim: int, like: Tensor) -> Tensor:
    """Return feature vectors `(B, dim)`, the input of models that work on the latents of another model."""
    x = as_tensor(x, "Features")
    if x.ndim != 2 or x.shape[1] != dim or not x.is_floating_point():
        raise ValueError(f"Features must be floats of shape (B, {dim}); got {type_name(x)} of shape {tuple(x.shape)}.")
    return as_real(x, like)


def as_latents(z, dim: int, like: Tensor) -> Tensor:
    """Return latents `(..., dim)`. The values are not checked: a NaN gives images of NaN."""
    z = as_tensor(z, "Latents")
    if not z.ndim or z.shape[-1] != dim:
        raise ValueError(f"Latents must have shape (..., {dim}); got {tuple(z.shape)}.")
    if z.is_complex() or z.dtype == torch.bool:
        raise ValueError(f"Latents must be real numbers; got {type_name(z)}.")
    return as_real(z, like)


def as_labels(y, num_classes: int, like: Tensor, shape: tuple[int, ...], broadcast: bool = False) -> Tensor:
    """Return labels as int64 on the device of `like`.

    Args:
        y: Integers from 0 to num_classes - 1, as a tensor, a NumPy array, a list, or one integer with `broadcast`.
        num_classes: Number of classes of the model.
        like: A parameter of the model.
        shape: Batch shape of the images or latents that the labels belong to.
        broadcast: Whether the labels may have any shape that broadcasts with `shape`.

    Raises:
        ValueError: Not integers, out of range, or of a wrong shape.
    """
    if isinstance(y, Sequence | int) and not isinstance(y, str | bool):
        try:
            y = np.asarray(y)
        except ValueError as error:  # rows of different lengths
            raise ValueError(f"Labels must be integers of shape {shape}; got a ragged list.") from error
    y = as_tensor(y, "Labels")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        is_empty = not y.numel()  # np.asarray([]) is an array of floats
        if not (is_empty and y.is_floating_point()):
            raise ValueError(f"Labels must be integers from 0 to {num_classes - 1}; got {type_name(y)}.")
    if not (broadcasts(y.shape, shape) if broadcast else tuple(y.shape) == shape):
        relation = "broadcast with" if broadcast else "have"
        raise ValueError(f"Labels must {relation} shape {shape}, one per image; got {tuple(y.shape)}.")
    y = y.to(like.device, torch.int64)
    if y.numel():
        low, high = torch.stack(torch.aminmax(y)).tolist()
        if low < 0 or high >= num_classes:
            raise ValueError(f"Labels must be from 0 to {num_classes - 1}; got labels from {low} to {high}.")
    return y


def broadcasts(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two shapes can be broadcast."""
    try:
        torch.broadcast_shapes(shape, other)
    except RuntimeError:
        return False
    return True


def as_count(n, name: str) -> int:
    """Return n as an int. Raise ValueError unless it is an integer of at least 1; `name` is for the message."""
    try:
        count = operator.index(n)
    except TypeError:
        count = 0
    if isinstance(n, bool) or count < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {n!r}.")
    return count


def as_size(size, default: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the images to generate, `default` if `size` is None."""
    if size is None:
        return default
    try:
        height, width = (as_count(side, "size") for side in size)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"size must be two integers of at least 1, height and width, such as (56, 56); got {size!r}."
        ) from error
    return height, width


def evidence_of(model, x, y=None) -> tuple[Tensor, Tensor | None]:
    """Return images and labels as validated by the model's `as_evidence`, unchanged if the model does not define it."""
    return model.as_evidence(x, y) if hasattr(model, "as_evidence") else (x, y)
