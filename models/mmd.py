"""The maximum mean discrepancy (MMD) between two sets of samples (Gretton et al. 2012)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return ||x_i - y_j||^2 for `x (N, d)` and `y (M, d)`: `(N, M)`."""
    products = x @ y.T
    distances = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * products
    return distances.clamp(min=0)  # rounding makes small distances negative


def gaussian_kernel(squared: Tensor, widths: Sequence[float]) -> Tensor:
    """Return k = sum_s exp(-||x - y||^2 / (2 s)) of squared distances, for each width s: a mixture of Gaussians."""
    return torch.stack([torch.exp(-squared / (2 * s)) for s in widths]).sum(0)


def mmd2(x: Tensor, y: Tensor, widths: Sequence[float], unbiased: bool = False) -> Tensor:
    """Return an estimate of MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) from samples.

    The biased estimate is a squared distance and never negative; the unbiased one leaves out the pairs of a sample with
    itself, and is 0 in the mean if both sets have the same distribution.

    Args:
        x: Samples `(N, ...)`.
        y: Samples `(M, ...)`.
        widths: Widths s of the kernel `sum_s exp(-||x - y||^2 / (2 s))`.
        unbiased: Leave out the pairs of a sample with itself; N and M must then be at least 2.
    """
    x, y = x.flatten(1), y.flatten(1)
    k_xx, k_yy, k_xy = (gaussian_kernel(squared_distances(a, b), widths) for a, b in ((x, x), (y, y), (x, y)))
    if not unbiased:
        return k_xx.mean() + k_yy.mean() - 2 * k_xy.mean()
    N, M = len(x), len(y)
    within_x = (k_xx.sum() - k_xx.diagonal().sum()) / (N * (N - 1))
    within_y = (k_yy.sum() - k_yy.diagonal().sum()) / (M * (M - 1))
    return within_x + within_y - 2 * k_xy.mean()
