"""Importance-sampled log p(x), with its effective sample size."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from models.arguments import evidence_of
from models.base import evaluating
from models.estimators.pareto import tail_size
from models.networks.layers import lookup

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # autocast type of matrix products; None: that of the weights


class Estimate(NamedTuple):
    """Importance-sampling results per image, each `(B,)` in float64; log p(x) and ELBO in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    elbo: Tensor  # 1/K sum_k log w_k
    ess: Tensor  # (sum w)^2 / sum w^2
    largest: Tensor  # the largest log weights, `(B, tail_size(K) + 1)`


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
