"""Estimates of log p(x) and of how well a latent space is used, for any model with `log_weights`."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.base import evaluating
from models.inputs import evidence_of
from models.networks.layers import lookup

MAX_DECODER_ROWS = (
    2500  # of a fully connected decoder in one pass: memory does not grow with K, and more rows are slower
)
EQUAL_WEIGHTS = 1e-3  # nats between log weights that differ by no more than rounding
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # of matrix products, where they are not that of the weights


class Estimate(NamedTuple):
    """Per-image results of importance sampling, each `(B,)` in float64, in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    elbo: Tensor  # 1/K sum_k log w_k
    ess: Tensor  # (sum w)^2 / sum w^2
    largest: Tensor  # the largest log weights, `(B, tail_size(K) + 1)`


def tail_size(K: int) -> int:
    """How many of K weights are the tail whose shape `pareto_k` estimates (Vehtari et al. 2024)."""
    return int(3 * K**0.5) if K > 225 else K // 5


def importance(
    model, x: Tensor, K: int, chunk: int = 100, y: Tensor | None = None, seed: int = 0, precision: str = "fp32"
) -> Estimate:
    """Importance-sampled log-likelihood, log 1/K sum_k w_k (Burda et al. 2015, eq. 8 with a large K).

    In the mean a lower bound on log p(x), which grows with K.

    The encoder runs once per image; the K samples are drawn `chunk` at a time and their weights summed as they come, so
    memory does not grow with K. Runs in evaluation mode; mode and random state are restored.

    Args:
        model: Anything with `posterior(x, y)` and `log_weights(x, K, y, posterior)`.
        x: Images `(B, C, H, W)`.
        K: Samples per image.
        chunk: Samples per image and pass.
        y: Labels `(B,)`, for conditional models.
        seed: Of the noise.
        precision: fp32, or bf16 for matrix products in 16 bits in all that comes after `posterior(x, y)`: p(x|z) is
            then rounded, and the estimate has a bias. Densities and sums stay in fp32.

    Raises:
        ValueError: K or chunk below 1, another precision, or images and labels that the model refuses.
    """
    rounded = lookup(PRECISIONS, precision, "precision")
    if K < 1 or chunk < 1:
        raise ValueError(f"Importance sampling needs K and chunk of at least 1; got K {K} and chunk {chunk}.")
    x, y = evidence_of(model, x, y)
    log_sum = log_sum_squares = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    largest = torch.empty((0, len(x)), dtype=torch.float64, device=x.device)
    with evaluating(model, seed):
        posterior = model.posterior(x, y)
        with torch.autocast(x.device.type, rounded, enabled=rounded is not None):
            for start in range(0, K, chunk):
                log_w = model.log_weights(x, min(chunk, K - start), y, posterior).double()  # (k, B)
                log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
                log_sum_squares = torch.logaddexp(log_sum_squares, (2 * log_w).logsumexp(0))
                total = total + log_w.sum(0)
                largest = torch.cat([largest, log_w])
                largest = largest.topk(min(len(largest), tail_size(K) + 1), dim=0).values
    ess = (2 * log_sum - log_sum_squares).exp()
    return Estimate(log_sum - math.log(K), total / K, ess, largest.T)


def pareto_k(largest: Tensor, K: int) -> Tensor:
    """The shape k of the tail of K weights, `(B,)` (Vehtari et al. 2024, "Pareto smoothed importance sampling").

    Below 0.7 an importance-sampled mean can be trusted; at 1 and above the weights have no mean that a sample shows.
    NaN with fewer than 25 samples, and 0 where the weights of the tail are all alike.

    Args:
        largest: The largest log weights, `(B, tail_size(K) + 1)`.
        K: Of how many.
    """
    from arviz_stats.base import array_stats  # a second and a half that most commands need not wait

    if tail_size(K) < 5:
        return torch.full((len(largest),), math.nan, dtype=torch.float64)
    found = []
    for tail in largest.cpu().double():
        if tail[0] - tail[-1] < EQUAL_WEIGHTS:
            found.append(0.0)
            continue
        # of all others only their number counts, and that they are smaller
        log_w = torch.cat([tail, tail[-1:].expand(K - len(tail))])
        found.append(float(array_stats.psislw(-log_w.numpy())[1]))  # which takes log p(x|z) for leaving x out: -log w
    return torch.tensor(found, dtype=torch.float64)


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean varies over images: Var_x(E_q[z]) > 0.01 (Burda et al. 2015, section 5.2).

    Args:
        means: Posterior means `(N, d)` of a data set.
        threshold: Least variance of an active unit.
    """
    variance = means.double().var(0, correction=min(1, len(means) - 1))  # of a single image there is none
    return int((variance > threshold).sum())
