"""Bounds on log p(x) as functions of the log weights `log_w (K, B)`, in nats per image; higher is better.

And surrogates, whose values mean nothing, for better gradients of the same bounds.
"""

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

Bound = Callable[[Tensor], Tensor]


def elbo(log_w: Tensor) -> Tensor:
    """Mean of K log weights, `(K, B) -> (B,)`: the evidence lower bound (Kingma & Welling 2013, eq. 2), estimated."""
    return log_w.mean(0)


def iwae(log_w: Tensor) -> Tensor:
    """log 1/K sum_k w_k, `(K, B) -> (B,)`: the importance-weighted bound (Burda et al. 2015, eq. 8)."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def miwae(log_w: Tensor, num_groups: int) -> Tensor:
    """Mean over M groups of the IWAE bound of K/M samples each, `(K, B) -> (B,)` (Rainforth et al. 2018)."""
    return iwae(log_w.unflatten(0, (num_groups, -1)).transpose(0, 1)).mean(0)


def ciwae(log_w: Tensor, beta: float) -> Tensor:
    """beta ELBO + (1 - beta) IWAE, `(K, B) -> (B,)` (Rainforth et al. 2018)."""
    return beta * elbo(log_w) + (1 - beta) * iwae(log_w)


def ess(log_w: Tensor) -> Tensor:
    """Effective sample size (sum w)^2 / sum w^2, `(K, B) -> (B,)`, between 1 and K (Kong 1992)."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


# Surrogates are given `log_w (K, B)` made with the parameters of q(z|x) detached, so that its gradient reaches the
# encoder through `z (K, B, d)` alone, and `log_q (K, B)`, log q(z|x) with the gradient of its parameters at a fixed z.


def stl(log_w: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
    """The ELBO without the score of q, which is 0 in the mean (Roeder et al. 2017): "sticking the landing"."""
    return log_w.mean(0)


def dreg(log_w: Tensor, z: Tensor, log_q: Tensor) -> Tensor:
    """IWAE with the doubly reparameterised gradient of the encoder (Tucker et al. 2018).

    With w the normalised weights: sum_k w_k d log w_k for the decoder, sum_k w_k^2 (d log w_k / d z_k) dz_k for the
    encoder.
    """
    w = log_w.detach().softmax(0)  # (K, B)
    scale_gradient(z, w)
    return (w * log_w).sum(0)


def piwae(log_w: Tensor, z: Tensor, log_q: Tensor, num_groups: int) -> Tensor:
    """IWAE's gradient for the decoder, MIWAE's for the encoder (Rainforth et al. 2018)."""
    w = log_w.detach().softmax(0).clamp(min=1e-30)  # (K, B), of a group far behind the others too
    w_groups = log_w.detach().unflatten(0, (num_groups, -1)).softmax(1).flatten(0, 1) / num_groups
    scale_gradient(z, w_groups / w)
    return (w * log_w).sum(0) - (w_groups * log_q).sum(0)


def scale_gradient(z: Tensor, factor: Tensor) -> None:
    """Lets what flows back through `z (K, B, d)` be multiplied by `factor (K, B)`."""
    if z.requires_grad:
        z.register_hook(lambda gradient: factor[..., None] * gradient)


BOUNDS: dict[str, Callable] = {"elbo": elbo, "iwae": iwae, "miwae": miwae, "ciwae": ciwae}
# Each with the bound that it climbs, which is what is logged
SURROGATES: dict[str, tuple[Callable, str]] = {"stl": (stl, "elbo"), "dreg": (dreg, "iwae"), "piwae": (piwae, "iwae")}
OF_GROUPS = ("miwae", "piwae")


def make_bound(objective: str, num_groups: int | None, ciwae_beta: float | None) -> Bound:
    """The bound `(K, B) -> (B,)` that an objective climbs."""
    name = SURROGATES[objective][1] if objective in SURROGATES else objective
    if name == "miwae":
        return partial(miwae, num_groups=num_groups)
    return partial(ciwae, beta=ciwae_beta) if name == "ciwae" else BOUNDS[name]


def make_surrogate(objective: str, num_groups: int | None) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """The surrogate `(log_w, z, log_q) -> (B,)` of an objective; none of one that is its own."""
    if objective not in SURROGATES:
        return None
    surrogate = SURROGATES[objective][0]
    return partial(surrogate, num_groups=num_groups) if objective in OF_GROUPS else surrogate


def check_objective(objective: str, num_samples: int, num_groups: int | None, ciwae_beta: float | None) -> None:
    """ValueError, in a sentence, for options of an objective outside their range and for those that do nothing."""
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}.")
    if objective not in OF_GROUPS and num_groups is not None:
        raise ValueError(f"num_groups belongs to objectives miwae and piwae: leave it out with objective {objective}.")
    if objective in OF_GROUPS and (num_groups is None or num_groups < 1 or num_samples % num_groups):
        raise ValueError(
            f"Objective {objective} needs num_groups, into which num_samples are divided evenly: {num_samples} do not "
            f"go into {num_groups or 'no'} groups."
        )
    if objective != "ciwae" and ciwae_beta is not None:
        raise ValueError(f"ciwae_beta belongs to objective ciwae: leave it out with objective {objective}.")
    if objective == "ciwae" and (ciwae_beta is None or not 0 <= ciwae_beta <= 1):
        raise ValueError(f"Objective ciwae needs ciwae_beta, the ELBO's share between 0 and 1; got {ciwae_beta}.")
