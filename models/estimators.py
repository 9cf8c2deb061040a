"""Estimates of log p(x) and of how well a latent space is used, for any model with `log_weights`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from models.base import evaluating
from models.layers import lookup

ROWS = 2500  # of a fully connected decoder in one pass: memory does not grow with K, and more rows are slower
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # of matrix products, where they are not that of the weights


class Estimate(NamedTuple):
    """Per-image results of importance sampling, each `(B,)` in float64, in nats."""

    log_px: Tensor  # log 1/K sum_k w_k
    elbo: Tensor  # 1/K sum_k log w_k
    ess: Tensor  # (sum w)^2 / sum w^2


def importance(
    model, x: Tensor, K: int, chunk: int = 100, y: Tensor | None = None, seed: int = 0, precision: str = "fp32"
) -> Estimate:
    """Importance-sampled log-likelihood, log 1/K sum_k w_k (Burda et al. 2015, eq. 8 with a large K).

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
        ValueError: K or chunk below 1, or another precision.
    """
    rounded = lookup(PRECISIONS, precision, "precision")
    if K < 1 or chunk < 1:
        raise ValueError(f"Importance sampling needs K and chunk of at least 1; got K {K} and chunk {chunk}.")
    log_sum = log_sum_squares = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with evaluating(model, seed):
        posterior = model.posterior(x, y)
        with torch.autocast(x.device.type, rounded, enabled=rounded is not None):
            for start in range(0, K, chunk):
                log_w = model.log_weights(x, min(chunk, K - start), y, posterior).double()  # (k, B)
                log_sum = torch.logaddexp(log_sum, log_w.logsumexp(0))
                log_sum_squares = torch.logaddexp(log_sum_squares, (2 * log_w).logsumexp(0))
                total = total + log_w.sum(0)
    return Estimate(log_sum - math.log(K), total / K, (2 * log_sum - log_sum_squares).exp())


def over_processes(compute: Callable[[int], dict[str, Tensor]], parts: int) -> dict[str, Tensor]:
    """The results of `compute(0), ..., compute(parts - 1)`, joined in this order, on the CPU.

    The processes of a distributed run share the parts, each of which is computed exactly once, and all of them get all
    results. Where noise is a function of the part, the results are the same to the bit on any number of processes.

    Args:
        compute: Results of a part by their names, each with the part's images as first dimension.
        parts: How many there are, at least 1.
    """
    several = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if several else (0, 1)
    own = {part: {name: values.cpu() for name, values in compute(part).items()} for part in range(rank, parts, world)}
    shares = [own]
    if several:
        shares = [{} for _ in range(world)]
        distributed.all_gather_object(shares, own)
    results = [shares[part % world][part] for part in range(parts)]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def active_units(means: Tensor, threshold: float = 0.01) -> int:
    """Dimensions whose posterior mean varies over images: Var_x(E_q[z]) > 0.01 (Burda et al. 2015, section 5.2).

    Args:
        means: Posterior means `(N, d)` of a data set.
        threshold: Least variance of an active unit.
    """
    return int((means.double().var(0) > threshold).sum())
