"""The maximum mean discrepancy (MMD) between two sets of samples (Gretton et al. 2012)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.distributions import at_least_float32

Widths = Sequence[float] | Tensor

# Widths of the Gaussian kernels as fractions of the mean of ||x - x'||^2 over the data. On MNIST, where that mean is
# about 105, they are the widths 2, 5, 10, 20, 40 and 80 of Li et al. (2015).
RELATIVE_WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
LEAST_MMD2 = 1e-8  # the root of a smaller MMD^2 is constant: its slope at 0 is infinite, and rounding exceeds it


def widths_for(x: Tensor) -> Tensor:
    """Return `RELATIVE_WIDTHS` times the mean of ||x - x'||^2 over independent samples `x (N, ...)`: `(6,)`."""
    mean_distance = 2 * at_least_float32(x).flatten(1).var(0).sum()  # E ||x - x'||^2 = 2 E ||x - E x||^2
    return mean_distance.clamp(min=1e-6) * torch.tensor(RELATIVE_WIDTHS, device=x.device)  # not 0 for constant data


def widths_without_data(dimensions: int) -> Tensor:
    """Return the widths for independent values uniform on [0, 1], which a model has until it sees data: `(6,)`."""
    return dimensions / 6 * torch.tensor(RELATIVE_WIDTHS)  # E (u - u')^2 = 1/6


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return ||x_i - y_j||^2 for `x (N, d)` and `y (M, d)`: `(N, M)`.

    Samples are centred first, as ||x||^2 + ||y||^2 - 2 <x, y> loses digits if the mean is large against the distances.
    """
    centre = y.detach().mean(0)
    x, y = x - centre, y - centre
    distances = torch.addmm(x.square().sum(1)[:, None] + y.square().sum(1), x, y.T, alpha=-2)
    return distances.clamp(min=0)  # rounding makes small distances negative


def gaussian_kernel(squared: Tensor, widths: Widths) -> Tensor:
    """Return k = sum_s exp(-||x - y||^2 / (2 s)) of squared distances: a mixture of Gaussians, one for each width s."""
    kernel = torch.zeros_like(squared)
    for s in widths:
        kernel = kernel + torch.exp(squared * (-0.5 / s))
    return kernel


def mmd2(x: Tensor, y: Tensor, widths: Widths, unbiased: bool = False) -> Tensor:
    """Return an estimate of MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) from samples.

    The biased estimate is a squared distance and never negative, except for rounding. The unbiased one leaves out the
    pairs of a sample with itself, and is 0 in the mean if both sets have the same distribution.

    Args:
        x: Samples `(N, ...)`.
        y: Samples `(M, ...)`.
        widths: Widths s of the kernel `sum_s exp(-||x - y||^2 / (2 s))`, in squared units of the samples.
        unbiased: Leave out the pairs of a sample with itself; N and M must then be at least 2.

    Raises:
        ValueError: If a set has too few samples.
    """
    if min(len(x), len(y)) < 1 + unbiased:
        raise ValueError(
            f"The {'unbiased' if unbiased else 'biased'} estimate of MMD^2 needs at least {1 + unbiased} samples of "
            f"each kind; got {len(x)} and {len(y)}."
        )
    with torch.autocast(x.device.type, enabled=False):  # products in 16 bits are too imprecise for distances
        x, y = at_least_float32(x).flatten(1), at_least_float32(y).flatten(1)
        k_xx, k_yy, k_xy = (gaussian_kernel(squared_distances(a, b), widths) for a, b in ((x, x), (y, y), (x, y)))
        if not unbiased:
            return k_xx.mean() + k_yy.mean() - 2 * k_xy.mean()
        N, M = len(x), len(y)
        within_x = (k_xx.sum() - k_xx.diagonal().sum()) / (N * (N - 1))
        within_y = (k_yy.sum() - k_yy.diagonal().sum()) / (M * (M - 1))
        return within_x + within_y - 2 * k_xy.mean()


def mmd(x: Tensor, y: Tensor, widths: Widths) -> Tensor:
    """Return the square root of the biased estimate of MMD^2, the loss of Li et al. (2015).

    Its gradient is that of MMD^2 divided by 2 MMD, which grows in proportion while the distributions approach each
    other. Below MMD^2 = `LEAST_MMD2` the gradient is 0 instead of infinite.
    """
    return mmd2(x, y, widths).clamp(min=LEAST_MMD2).sqrt()
