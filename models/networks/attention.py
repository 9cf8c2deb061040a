"""Differentiable attention of DRAW: a grid of N x N Gaussian filters on an image (Gregor et al. 2015, section 3.2)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.distributions import at_least_float32, inverse_soft_clip, soft_clip

NUM_PARAMETERS = 5  # of one grid
PARAMETER_LIMIT = 10.0  # bounds the logarithms of variance, stride and gain
EPSILON = 1e-8  # least sum of the weights of a filter before they are normalised


class Grid(NamedTuple):
    """A grid of N x N filters, in units of pixels, each `(...)`. The first pixel of an image has its centre at 1."""

    x: Tensor  # centre of the grid
    y: Tensor
    stride: Tensor  # delta, the distance between neighbouring filters
    variance: Tensor  # sigma^2 of each filter
    gain: Tensor  # gamma, the factor of what is read


def make_grid(parameters: Tensor, N: int, height: int, width: int) -> Grid:
    """Return the grid with g_X = (A + 1) / 2 (g~_X + 1) and delta = (max(A, B) - 1) / (N - 1) delta~ (eq. 22-24).

    Args:
        parameters: g~_X, g~_Y, and the logarithms of sigma^2, delta~ and gamma before clipping, `(..., 5)`.
        N: Filters per side, 2 or more.
        height: B, the height of the image in pixels.
        width: A, its width.
    """
    parameters = at_least_float32(parameters)
    x, y = parameters[..., 0], parameters[..., 1]
    variance, stride, gain = soft_clip(parameters[..., 2:], PARAMETER_LIMIT).exp().unbind(-1)
    stride = (max(width, height) - 1) / (N - 1) * stride
    return Grid((width + 1) / 2 * (x + 1), (height + 1) / 2 * (y + 1), stride, variance, gain)


def covering_parameters(N: int, height: int, width: int, gain: float) -> list[float]:
    """Return parameters of a grid that covers an image: N x N cells, with a filter at the centre of each.

    The stride is a cell of the longer side, the standard deviation of a filter half of it. With all parameters at 0 a
    grid of 2 x 2 filters would be the corner pixels of the image, from which nothing is learned.

    Args:
        N: Filters per side.
        height: Height of the image in pixels.
        width: Its width.
        gain: gamma.
    """
    size = max(height, width)
    stride = size / N
    logs = math.log((stride / 2) ** 2), math.log(stride * (N - 1) / max(size - 1, 1)), math.log(gain)
    most = 0.9 * PARAMETER_LIMIT
    return [0.0, 0.0, *(inverse_soft_clip(min(max(log, -most), most), PARAMETER_LIMIT) for log in logs)]


def filterbank(centre: Tensor, stride: Tensor, variance: Tensor, N: int, size: int) -> Tensor:
    """Return F[i, a] = exp(-(a - mu_i)^2 / (2 sigma^2)) / Z_i along one axis of an image, `(..., N, size)`.

    mu_i = g + (i - N / 2 - 0.5) delta (eq. 19), i = 1 ... N, a = 1 ... size, and Z_i is the sum over a (eq. 25-26). A
    filter with Z_i below `EPSILON` fades to 0: one far outside the image, or so narrow that it falls between pixels.

    Args:
        centre: g, `(...)`.
        stride: delta.
        variance: sigma^2.
        N: Number of filters.
        size: Number of pixels.
    """
    offsets = torch.arange(N, device=centre.device, dtype=centre.dtype) - (N - 1) / 2
    pixels = torch.arange(1, size + 1, device=centre.device, dtype=centre.dtype)
    mu = centre[..., None] + offsets * stride[..., None]  # (..., N)
    weights = ((pixels - mu[..., None]).square() / (-2 * variance[..., None, None])).exp()
    return weights / weights.sum(-1, keepdim=True).clamp(min=EPSILON)


def filterbanks(grid: Grid, N: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the filters along both axes, F_Y `(..., N, H)` and F_X `(..., N, W)`."""
    if height != width:
        F_Y = filterbank(grid.y, grid.stride, grid.variance, N, height)
        return F_Y, filterbank(grid.x, grid.stride, grid.variance, N, width)
    centres = torch.stack([grid.y, grid.x], -1)
    both = filterbank(centres, grid.stride[..., None], grid.variance[..., None], N, height)  # (..., 2, N, H)
    return both[..., 0, :, :], both[..., 1, :, :]


def read_patch(images: Tensor, F_Y: Tensor, F_X: Tensor) -> Tensor:
    """Return F_Y x F_X^T of each channel, `(..., C, H, W) -> (..., C, N, N)`."""
    rows = torch.einsum("...chw,...nw->...chn", images, F_X)
    return torch.einsum("...mh,...chn->...cmn", F_Y, rows)


def write_patch(patch: Tensor, F_Y: Tensor, F_X: Tensor) -> Tensor:
    """Return F_Y^T w F_X of each channel, `(..., C, N, N) -> (..., C, H, W)`."""
    rows = torch.einsum("...cmn,...nw->...cmw", patch, F_X)
    return torch.einsum("...mh,...cmw->...chw", F_Y, rows)
