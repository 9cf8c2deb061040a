"""Pareto k-hat, which tells whether an importance-sampled mean is reliable."""

import math

import torch
from torch import Tensor

EQUAL_WEIGHTS = 1e-3  # log weights that differ by less, in nats, differ only by rounding
LARGEST_SPREAD = 700.0  # nats: weights that are smaller by more than this factor, relative to the largest, round to 0
NEGLIGIBLE = 10 * torch.finfo(torch.float64).eps  # weights of a shape that the fit of a tail leaves out


def tail_size(K: int) -> int:
    """Return the number of largest weights, of K, to which `pareto_k` fits the tail (Vehtari et al. 2024)."""
    return int(3 * K**0.5) if K > 225 else K // 5


def pareto_k(largest: Tensor, K: int) -> Tensor:
    """Return the Pareto shape k-hat of the tail of K weights, `(B,)` ("PSIS", Vehtari et al. 2024).

    An importance-sampled mean is reliable below 0.7; from 1 on the weights have no finite mean. NaN for fewer than 25
    samples; 0 if all weights in the tail are equal up to rounding; inf if a quarter of the tail rounds to 0 relative to
    the largest weight, where no shape can be fitted.

    On a CPU it is that of arviz, image by image, which takes a millisecond per image. On a GPU all images are fitted at
    once.

    Args:
        largest: The largest log weights in descending order, `(B, tail_size(K) + 1)`.
        K: Number of all weights.
    """
    if tail_size(K) < 5:
        return torch.full((len(largest),), math.nan, dtype=torch.float64)
    k_hats = torch.full((len(largest),), math.inf, dtype=torch.float64, device=largest.device)
    has_shape = ~(spread_of_tail(largest) > LARGEST_SPREAD)
    tails = largest[has_shape]
    k_hats[has_shape] = fit_tails(tails) if largest.device.type == "cuda" else fit_tails_by_arviz(tails, K)
    return k_hats


def lower_quartile(n: int) -> int:
    """Return the number of weights, of the n in a tail, up to their lower quartile, which sets the scale of the fit."""
    return int(n / 4 + 0.5)


def spread_of_tail(largest: Tensor) -> Tensor:
    """Return the largest log weight of a tail minus the lower quartile of its log weights, in nats, `(B,)`."""
    n = largest.shape[1] - 1
    return (largest[:, 0] - largest[:, n - lower_quartile(n)]).double()


def fit_tails_by_arviz(largest: Tensor, K: int) -> Tensor:
    """Return k-hat of each image, `(B,)`, as arviz computes it. The arguments are those of `pareto_k`."""
    from arviz_stats.base import array_stats  # imported here because it takes 1.5 s, and most commands do not need it

    k_hats = []
    for tail in largest.cpu().double():
        if tail[0] - tail[-1] < EQUAL_WEIGHTS:
            k_hats.append(0.0)
            continue
        # The fit uses only the tail and the number of smaller weights, so these may have any smaller value.
        log_w = torch.cat([tail, tail[-1:].expand(K - len(tail))])
        # psislw follows the leave-one-out convention and expects -log w.
        k_hats.append(float(array_stats.psislw(-log_w.numpy())[1]))
    return torch.tensor(k_hats, dtype=torch.float64)


def fit_tails(largest: Tensor) -> Tensor:
    """Return k-hat of all rows at once, `(B,)`: the fit of a generalized Pareto distribution in arviz's psislw.

    It is the empirical Bayes estimate of Zhang & Stephens (2009) with the prior of Vehtari et al. (2024). The tests
    compare it with arviz.

    Args:
        largest: The largest log weights in descending order, `(B, n + 1)`; the last one is the cutoff of the tail.
    """
    log_w = largest.double()
    weights = (log_w - log_w[:, :1]).exp()
    excess = (weights[:, :-1] - weights[:, -1:]).flip(1)  # (B, n), in ascending order
    n = excess.shape[1]
    m = 30 + int(n**0.5)  # number of candidates for b = -k / sigma
    grid = 1 - (m / (torch.arange(1, m + 1, dtype=torch.float64, device=largest.device) - 0.5)).sqrt()
    b = grid / (3 * excess[:, lower_quartile(n) - 1, None]) + 1 / excess[:, -1:]  # (B, m)
    k = (-b[..., None] * excess[:, None]).log1p().mean(-1)  # (B, m)
    posterior = (n * ((-b / k).log() - k - 1)).softmax(-1)
    posterior = torch.where(posterior >= NEGLIGIBLE, posterior, 0)
    b_mean = (b * posterior).sum(-1, keepdim=True) / posterior.sum(-1, keepdim=True)
    k_hat = (-b_mean * excess).log1p().mean(-1)
    k_hat = (n * k_hat + 10 * 0.5) / (n + 10)
    is_equal = log_w[:, 0] - log_w[:, -1] < EQUAL_WEIGHTS
    return torch.where(is_equal, 0, k_hat)
