"""Kullback-Leibler divergences KL(q || p): in closed form, of single dimensions, or from samples."""

import math
from collections.abc import Callable
from typing import Any

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence, register_kl

from models.distributions.gaussian import DiagonalNormal, FullNormal, StandardNormal
from models.distributions.marginals import (
    WITHOUT_ESTIMATES,
    closed_form_marginals,
    entropy_from_samples,
    marginal_log_prob,
    posterior_samples,
)

QUADRATURE_NODES = 32  # of the mean of log p(z_d) under a Gaussian


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p), or None if torch knows no closed form for this pair of distributions."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


@register_kl(DiagonalNormal, StandardNormal)
def kl_to_standard_normal(q: DiagonalNormal, p: StandardNormal) -> Tensor:
    """Return sum_d (mu_d^2 + sigma_d^2 - 1) / 2 - log sigma_d, in nats (Kingma & Welling 2013, appendix B)."""
    mu, sigma = q.base_dist.loc, q.base_dist.scale
    return (0.5 * torch.addcmul(mu * mu, sigma, sigma) - sigma.log()).sum(-1) - 0.5 * mu.shape[-1]


@register_kl(FullNormal, StandardNormal)
def kl_of_full_to_standard_normal(q: FullNormal, p: StandardNormal) -> Tensor:
    """Return (tr(L L^T) + |mu|^2 - d) / 2 - log det L, in nats."""
    trace = q.variance.sum(-1)
    return 0.5 * (trace + q.loc.square().sum(-1) - q.event_shape[0]) - q.log_det()


def rsample_with_log_prob(q: Any, K: int, noise: Tensor | None = None) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return K samples z `(K, B, d)` of q(z|x), and a function that returns log q(z|x) `(K, B)`.

    A normalizing flow computes both in one pass; the density of a given z may take it many passes. Other densities are
    computed when the function is called: gradients are summed in the reverse order of the terms of a loss, and runs
    give the same bits only if this order stays the same.

    Args:
        q: q(z|x), batch shape `(B,)`.
        K: Number of samples.
        noise: Noise `(K, B, d)` of the samples, standard normal; drawn by q if it is None.
    """
    if noise is not None:
        return q.at_noise(noise)
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob((K,))
        return z, lambda: log_q
    z = q.rsample((K,))
    return z, lambda: q.log_prob(z)


def rsample_with_kl(q: Any, p: Distribution, K: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return K samples z of q `(K, ..., d)`, and KL(q || p) in nats, the batch shape of q.

    The KL is in closed form if there is one, else the mean over these samples of log q(z) - log p(z).

    Args:
        q: q(z|x).
        p: p(z).
        K: Number of samples.
        noise: Noise of the samples `(K, ..., d)`, as in `rsample_with_log_prob`.
    """
    z, log_q = rsample_with_log_prob(q, K, noise)
    kl = closed_form_kl(q, p)
    return z, (log_q() - p.log_prob(z)).mean(0) if kl is None else kl


def kl_per_dimension(q: Any, p: Any) -> Tensor:
    """Return KL(q(z_d) || p(z_d)) between the marginals of each dimension d, `(B, d)`, in nats.

    They say which dimensions are used. They sum to the rate KL(q(z|x) || p(z)) only if the dimensions are independent
    under q(z|x) and p(z); the rate itself is computed by `rate_distortion`.

    The KL is exact if torch knows a closed form. Otherwise the expectation of log p(z_d) is a Gauss-Hermite quadrature
    for Gaussian marginals of q, and a mean over samples with fixed noise for any other q.
    `models.distributions.marginals` says how marginals without a closed form are estimated.

    Args:
        q: Posterior over vectors, batch shape `(B,)`.
        p: Prior over vectors, batch shape `()`, or `(B,)` if its marginals have a closed form.
    """
    q_d, p_d = closed_form_marginals(q), closed_form_marginals(p)
    if q_d is not None and p_d is not None and (kl := closed_form_kl(q_d, p_d)) is not None:
        return kl
    if WITHOUT_ESTIMATES.get():
        return torch.full_like(q.mean, math.nan)
    if isinstance(q_d, Normal):
        return -q_d.entropy() - expected_log_prob(q_d, p)
    return sampled_kl_per_dimension(q, p, posterior_samples(q))


def sampled_kl_per_dimension(q: Any, p: Any, z: Tensor) -> Tensor:
    """Return KL(q(z_d) || p(z_d)) between the marginals of each dimension d from samples `(K, B, d)` of q: `(B, d)`."""
    if WITHOUT_ESTIMATES.get():
        return torch.full_like(z[0], math.nan)
    q_d, log_p = closed_form_marginals(q), marginal_log_prob(p, z)
    if q_d is None:
        return -entropy_from_samples(posterior_samples(q)) - log_p.mean(0)
    return (q_d.log_prob(z) - log_p).mean(0)


def expected_log_prob(q_d: Normal, p: Any) -> Tensor:
    """Return the mean of log p(z_d) under Gaussian marginals `(B, d)` of q, by Gauss-Hermite quadrature: `(B, d)`."""
    nodes, weights = (torch.from_numpy(part).to(q_d.loc) for part in hermegauss(QUADRATURE_NODES))
    z = q_d.loc + q_d.scale * nodes.view(-1, *[1] * q_d.loc.ndim)
    return torch.einsum("s,s...->...", weights / weights.sum(), marginal_log_prob(p, z))
