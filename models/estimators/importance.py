"""Importance-sampled log p(x) with its diagnostics (ESS, Pareto k-hat), and the number of active units."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.base import evaluating
from models.inputs import evidence_of
from models.networks.layers import lookup

EQUAL_WEIGHTS = 1e-3  # log weights that differ by less, in nats, differ only by rounding
MAX_DECODER_ROWS = 2500  # of a fully connected decoder per pass on a CPU: bounds memory, and more rows are slower
NEGLIGIBLE = 10 * torch.finfo(torch.float64).eps  # weights of a shape that the fit of a tail leaves out
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # autocast type of matrix products; None: that of the weights


class Estimate(NamedTuple):
    """Importance-sampling results per image, each `(B,)` in float64; log p(x) and ELBO in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    elbo: Tensor  # 1/K sum_k log w_k
    ess: Tensor  # (sum w)^2 / sum w^2
    largest: Tensor  # the largest log weights, `(B, tail_size(K) + 1)`


def tail_size(K: int) -> int:
    """Return the number of largest weights, of K, to which `pareto_k` fits the tail (Vehtari et al. 2024)."""
    return int(3 * K**0.5) if K > 225 else K // 5


def importance(
    model, x: Tensor, K: int, chunk: int = 100, y: Tensor | None = None, seed: int = 0, precision: str = "fp32"
) -> Estimate:
    """Return the importance-sampled log-likelihood log 1/K sum_k w_k (Burda et al. 2015, eq. 8) with diagnostics.

    Its expectation is a lower bound on log p(x) that increases with K.

    The encoder runs once per image. The K samples are drawn `chunk` at a time and their weights accumulated, so memory
    does not grow with K. Runs in evaluation mode; the mode and the random state are restored.

    Args:
        model: A model with `posterior(x, y)` and `log_weights(x, K, y, posterior)`.
        x: Images `(B, C, H, W)`.
        K: Samples per image.
        chunk: Samples per image and decoder pass.
        y: Labels `(B,)`, for conditional models.
        seed: Seed of the noise.
        precision: fp32, or bf16 to run `log_weights` under autocast, but not `posterior`. Rounding of p(x|z) biases
            the estimate. Densities and sums are computed in fp32.

    Raises:
        ValueError: K or chunk below 1, unknown precision, or invalid images or labels.
    """
    autocast_dtype = lookup(PRECISIONS, precision, "precision")
    if K < 1 or chunk < 1:
        raise ValueError(f"Importance sampling needs K and chunk of at least 1; got K {K} and chunk {chunk}.")
    x, y = evidence_of(model, x, y)
    log_sum = log_sum_squares = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    largest = torch.empty((0, len(x)), dtype=torch.float64, device=x.device)
    with evaluating(model, seed):
        posterior = model.posterior(x, y)
        with torch.autocast(x.device.type, autocast_dtype, enabled=autocast_dtype is not None):
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
    """Return the Pareto shape k-hat of the tail of K weights, `(B,)` ("PSIS", Vehtari et al. 2024).

    An importance-sampled mean is reliable below 0.7; from 1 on the weights have no finite mean. NaN for fewer than 25
    samples; 0 if all weights in the tail are equal up to rounding.

    On a CPU it is that of arviz, image by image, which takes a millisecond per image. On a GPU all images are fitted at
    once.

    Args:
        largest: The largest log weights in descending order, `(B, tail_size(K) + 1)`.
        K: Number of all weights.
    """
    if tail_size(K) < 5:
        return torch.full((len(largest),), math.nan, dtype=torch.float64)
    if largest.device.type == "cuda":
        return fit_tails(largest)
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
    b = grid / (3 * excess[:, int(n / 4 + 0.5) - 1, None]) + 1 / excess[:, -1:]  # (B, m)
    k = (-b[..., None] * excess[:, None]).log1p().mean(-1)  # (B, m)
    posterior = (n * ((-b / k).log() - k - 1)).softmax(-1)
    posterior = torch.where(posterior >= NEGLIGIBLE, posterior, 0)
    b_mean = (b * posterior).sum(-1, keepdim=True) / posterior.sum(-1, keepdim=True)
    k_hat = (-b_mean * excess).log1p().mean(-1)
    k_hat = (n * k_hat + 10 * 0.5) / (n + 10)
    is_equal = log_w[:, 0] - log_w[:, -1] < EQUAL_WEIGHTS
    return torch.where(is_equal, 0, k_hat)


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Return the number of dimensions with Var_x(E_q[z]) > threshold (Burda et al. 2015, section 5.2).

    Args:
        means: Posterior means `(N, d)` of a data set.
        threshold: Variance above which a unit is active.
    """
    variance = means.double().var(0, correction=min(1, len(means) - 1))  # 0, not NaN, for a single image
    return int((variance > threshold).sum())
