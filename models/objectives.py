"""Bounds on log p(x) as functions of the log weights `log_w (K, B)`, in nats per image; higher is better."""

import math
from collections.abc import Callable

from torch import Tensor


def elbo(log_w: Tensor) -> Tensor:
    """Mean of K log weights, `(K, B) -> (B,)`: the evidence lower bound (Kingma & Welling 2013, eq. 2), estimated."""
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    """log 1/K sum_k w_k, `(K, B) -> (B,)`: the importance-weighted bound (Burda et al. 2015, eq. 8)."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2, `(K, B) -> (B,)`, between 1 and K (Kong 1992)."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {"elbo": elbo, "iwae": iwae}
