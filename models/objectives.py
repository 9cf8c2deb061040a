"""Bounds on log p(x) as functions of the log weights `log_w (K, B)`, in nats per image; higher is better.

Surrogate objectives are only differentiated: their gradients estimate the gradient of a bound with less noise, and
their values are never logged.
"""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

Bound = Callable[[Tensor], Tensor]


def elbo(log_w: Tensor) -> Tensor:
    """Return 1/K sum_k log w_k, `(K, B) -> (B,)`: an estimate of the ELBO (Kingma & Welling 2013, eq. 2)."""
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    """Return log 1/K sum_k w_k, `(K, B) -> (B,)`: the importance-weighted bound (Burda et al. 2015, eq. 8)."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def miwae(log_w: Tensor, num_groups: int) -> Tensor:
    """Return the mean over M groups of the IWAE bound of K/M samples, `(K, B) -> (B,)` (Rainforth et al. 2018)."""
    return iwae(log_w.unflatten(0, (num_groups, -1)).transpose(0, 1)).mean(0)


def ciwae(log_w: Tensor, beta: float) -> Tensor:
    """Return beta ELBO + (1 - beta) IWAE, `(K, B) -> (B,)` (Rainforth et al. 2018)."""
    return beta * elbo(log_w) + (1 - beta) * iwae(log_w)


def ess(log_w: Tensor) -> Tensor:
    """Return the effective sample size (sum w)^2 / sum w^2, `(K, B) -> (B,)`, between 1 and K (Kong 1992)."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


# Arguments of the surrogates: `log_w (K, B)`, computed with the parameters of q(z|x) detached, so that its gradient
# reaches the encoder only through `z (K, B, d)`; and `log_q (K, B)`, log q(z|x) as a function of the parameters of q at
# a fixed z, whose gradient is the score; only piwae uses it.


def stl(log_w: Tensor, z: Tensor, log_q: Tensor | None = None) -> Tensor:
    """Return the ELBO without the score of q, whose expectation is 0: "sticking the landing" (Roeder et al. 2017)."""
    return log_w.mean(0)


def dreg(log_w: Tensor, z: Tensor, log_q: Tensor | None = None) -> Tensor:
    """Return the surrogate of IWAE with the doubly reparameterised gradient of the encoder (Tucker et al. 2018).

    With normalised weights w_k, the gradient is sum_k w_k d log w_k for the decoder, and
    sum_k w_k^2 (d log w_k / d z_k) dz_k for the encoder.
    """
    w = log_w.detach().softmax(0)  # (K, B)
    scale_gradient(z, w)
    return (w * log_w).sum(0)


def piwae(log_w: Tensor, z: Tensor, log_q: Tensor, num_groups: int) -> Tensor:
    """Return the surrogate with IWAE's gradient for the decoder, MIWAE's for the encoder (Rainforth et al. 2018)."""
    w = log_w.detach().softmax(0).clamp(min=1e-30)  # (K, B); clamped because of the division by w below
    w_groups = log_w.detach().unflatten(0, (num_groups, -1)).softmax(1).flatten(0, 1) / num_groups
    scale_gradient(z, w_groups / w)
    return (w * log_w).sum(0) - (w_groups * log_q).sum(0)


def scale_gradient(z: Tensor, factor: Tensor) -> None:
    """Multiply the gradient that flows back through `z (K, B, d)` by `factor (K, B)`."""
    if z.requires_grad:
        z.register_hook(lambda gradient: factor[..., None] * gradient)


BOUNDS: dict[str, Callable] = {"elbo": elbo, "iwae": iwae, "miwae": miwae, "ciwae": ciwae}
# Surrogate -> (function, bound whose gradient it estimates); the bound is what is logged
SURROGATES: dict[str, tuple[Callable, str]] = {"stl": (stl, "elbo"), "dreg": (dreg, "iwae"), "piwae": (piwae, "iwae")}
NEEDS_SCORE = ("piwae",)  # surrogates that use the score of q
OF_GROUPS = ("miwae", "piwae")


def make_bound(objective: str, num_groups: int | None, ciwae_beta: float | None) -> Bound:
    """Return the bound `(K, B) -> (B,)` that an objective maximises."""
    name = SURROGATES[objective][1] if objective in SURROGATES else objective
    if name == "miwae":
        return partial(miwae, num_groups=num_groups)  # type: ignore[arg-type]  # not None: see check_objective
    if name == "ciwae":
        return partial(ciwae, beta=ciwae_beta)  # type: ignore[arg-type]
    return BOUNDS[name]


def make_surrogate(objective: str, num_groups: int | None) -> Callable[..., Tensor] | None:
    """Return the surrogate `(log_w, z, log_q) -> (B,)` of an objective, or None if it has none."""
    if objective not in SURROGATES:
        return None
    surrogate = SURROGATES[objective][0]
    return partial(surrogate, num_groups=num_groups) if objective in OF_GROUPS else surrogate


def check_objective(objective: str, num_samples: int, num_groups: int | None, ciwae_beta: float | None) -> None:
    """Raise ValueError if an option of an objective is missing, out of range, or has no effect on this objective."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    if objective not in OF_GROUPS and num_groups is not None:
        raise ValueError(f"num_groups is only for objectives miwae and piwae: remove it for objective {objective}.")
    if objective in OF_GROUPS and (num_groups is None or num_groups < 1 or num_samples % num_groups):
        raise ValueError(
            f"Objective {objective} needs num_groups, a divisor of num_samples: got num_samples {num_samples} and "
            f"num_groups {num_groups}."
        )
    if objective != "ciwae" and ciwae_beta is not None:
        raise ValueError(f"ciwae_beta is only for objective ciwae: remove it for objective {objective}.")
    if objective == "ciwae" and (ciwae_beta is None or not 0 <= ciwae_beta <= 1):
        raise ValueError(f"Objective ciwae needs ciwae_beta, the weight of the ELBO, in [0, 1]; got {ciwae_beta}.")
