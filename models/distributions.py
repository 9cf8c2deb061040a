"""Distributions of latents and images: torch.distributions, with the event dimensions declared by `Independent`.

`log_prob` returns one number, in nats, per latent vector or image: the objectives never sum over dimensions.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence, register_kl
from torch.nn.functional import binary_cross_entropy_with_logits

from models.marginals import (
    WITHOUT_ESTIMATES,
    closed_form_marginals,
    entropy_from_samples,
    marginal_log_prob,
    posterior_samples,
)

# Argument validation costs small networks a third of their speed. The data modules validate ranges once, at load time.
Distribution.set_default_validate_args(False)

LATENT_LIMIT = 7.0  # bounds the standard deviation of a latent to [e^-7, e^7]
MAX_FACTORS = 120  # max. number of factors in [1, 2] whose product fits float32
CHUNK_SIZE = 2**19  # elements per chunk: 2 MiB of float32, which fits a CPU cache
LARGE_SIZE = 2**19  # number of pixels from which the chunked Bernoulli likelihood is faster than torch's
LOG_2PI = math.log(2 * math.pi)
QUADRATURE_NODES = 32  # of the mean of log p(z_d) under a Gaussian
SCALE_LIMIT = math.log(256)  # bounds a learned observation scale to [1/256, 256]; 1/256 is one grey level


def soft_clip(raw: Tensor, limit: float) -> Tensor:
    """Return limit * tanh(raw / limit): about `raw` near 0, within +-`limit`, so that its exponential is finite."""
    return limit * torch.tanh(raw / limit)


def inverse_soft_clip(value: float, limit: float) -> float:
    """Return the inverse of `soft_clip` at `value`."""
    return limit * math.atanh(value / limit)


def at_least_float32(outputs: Tensor) -> Tensor:
    """Return the outputs of a network in float32 if they have 16 bits, which are too few for log densities."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


class DiagonalNormal(Independent):
    """N(mu, diag(sigma^2)). Subclassed so that `register_kl` can dispatch on it."""

    def detached(self) -> Independent:
        """Return the same distribution with detached parameters: its density has no gradient for them."""
        return DiagonalNormal(Normal(self.base_dist.loc.detach(), self.base_dist.scale.detach()), 1)


class FullNormal(Distribution):
    """N(mu, L L^T) with L = diag(sigma) (I + N), for a strictly lower triangular N.

    N is the part of L below the diagonal in units of the diagonal: narrowing sigma narrows the whole distribution.
    All computations are in the precision of the parameters, outside autocast.

    Args:
        loc: The mean mu, `(..., d)`.
        scale: sigma, the diagonal of L, `(..., d)`.
        lower: N, `(..., d, d)`.
    """

    arg_constraints: ClassVar[dict] = {}  # arguments are not validated
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, lower: Tensor):
        super().__init__(loc.shape[:-1], loc.shape[-1:])
        self.loc, self.scale, self.lower = loc, scale, lower

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 + self.lower.square().sum(-1))

    @property
    def scale_tril(self) -> Tensor:
        """L, `(..., d, d)`."""
        return torch.diag_embed(self.scale) + self.scale[..., None] * self.lower

    def marginals(self) -> Normal:
        """Return the distribution of each dimension, batch shape `(..., d)`."""
        return Normal(self.loc, self.stddev)

    def detached(self) -> "FullNormal":
        """Return the same distribution with detached parameters: its density has no gradient for them."""
        return FullNormal(self.loc.detach(), self.scale.detach(), self.lower.detach())

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FullNormal":
        d = self.event_shape[0]
        shape = torch.Size(batch_shape)
        return FullNormal(self.loc.expand(*shape, d), self.scale.expand(*shape, d), self.lower.expand(*shape, d, d))

    def columns(self, vectors: Tensor) -> Tensor:
        """Return vectors `(samples..., batch..., d)` as columns `(batch..., d, samples)` of one matrix per image.

        A product with L would otherwise copy L for each sample.
        """
        leading = vectors.ndim - self.loc.ndim
        return vectors.flatten(0, leading - 1).movedim(0, -1) if leading else vectors[..., None]

    def log_det(self) -> Tensor:
        """Return log det L, `(...)`."""
        return self.scale.log().sum(-1)

    def log_prob_of_noise(self, noise: Tensor) -> Tensor:
        """Return log q(mu + L noise) for `noise (..., d)`."""
        return -0.5 * (noise.square().sum(-1) + self.event_shape[0] * LOG_2PI) - self.log_det()

    def rsample_with_noise(self, sample_shape: Any) -> tuple[Tensor, Tensor]:
        """Return samples z = mu + L noise and their noise, both `(samples..., batch..., d)`."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
        )
        with torch.autocast(noise.device.type, enabled=False):
            products = self.lower @ self.columns(noise)  # (batch..., d, samples)
        return self.loc + self.scale * (noise + products.movedim(-1, 0).view(noise.shape)), noise

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample_with_noise(sample_shape)[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Return samples `(samples..., batch..., d)` and their log density, without solving for the noise."""
        z, noise = self.rsample_with_noise(sample_shape)
        return z, self.log_prob_of_noise(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        difference = (value - self.loc) / self.scale  # (samples..., batch..., d)
        with torch.autocast(difference.device.type, enabled=False):
            noise = torch.linalg.solve_triangular(self.lower, self.columns(difference), upper=False, unitriangular=True)
        return self.log_prob_of_noise(noise.movedim(-1, 0).reshape(difference.shape))


def diagonal_normal(parameters: Tensor) -> Independent:
    """Return N(mu, diag(sigma^2)) from network outputs `(..., 2 d)`: mu, then log sigma before clipping."""
    mu, raw = at_least_float32(parameters).chunk(2, -1)  # (..., d)
    return DiagonalNormal(Normal(mu, soft_clip(raw, LATENT_LIMIT).exp()), 1)


def rsample_with_log_prob(q: Any, K: int) -> tuple[Tensor, Callable[[], Tensor]]:
    """Return K samples z `(K, B, d)` of q(z|x), and a function that returns log q(z|x) `(K, B)`.

    A normalizing flow computes both in one pass; the density of a given z may take it many passes. Other densities are
    computed when the function is called: gradients are summed in the reverse order of the terms of a loss, and runs
    give the same bits only if this order stays the same.
    """
    if hasattr(q, "rsample_and_log_prob"):
        z, log_q = q.rsample_and_log_prob((K,))
        return z, lambda: log_q
    z = q.rsample((K,))
    return z, lambda: q.log_prob(z)


def rsample_with_kl(q: Any, p: Distribution, K: int) -> tuple[Tensor, Tensor]:
    """Return K samples z of q `(K, ..., d)`, and KL(q || p) in nats, the batch shape of q.

    The KL is in closed form if there is one, else the mean over these samples of log q(z) - log p(z).
    """
    z, log_q = rsample_with_log_prob(q, K)
    kl = closed_form_kl(q, p)
    return z, (log_q() - p.log_prob(z)).mean(0) if kl is None else kl


class StandardNormal(Independent):
    """N(0, I). Subclassed so that `register_kl` can dispatch on it."""


def standard_normal(dim: int, like: Tensor) -> Independent:
    """Return N(0, I) in `dim` dimensions, on the device and in the precision of `like` (at least float32)."""
    zero = at_least_float32(torch.zeros(dim, device=like.device, dtype=like.dtype))
    return StandardNormal(Normal(zero, torch.ones_like(zero)), 1)


def is_standard_normal(p: Distribution) -> bool:
    """Return whether `p` is N(0, I) over vectors."""
    if isinstance(p, StandardNormal):
        return True
    if not isinstance(p, Independent) or not isinstance(p.base_dist, Normal):
        return False
    return bool((p.base_dist.loc == 0).all() and (p.base_dist.scale == 1).all())


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p), or None if torch knows no closed form for this pair of distributions."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def kl_per_dimension(q: Any, p: Any) -> Tensor:
    """Return KL(q(z_d) || p(z_d)) between the marginals of each dimension d, `(B, d)`, in nats.

    They say which dimensions are used. They sum to the rate KL(q(z|x) || p(z)) only if the dimensions are independent
    under q(z|x) and p(z); the rate itself is computed by `rate_distortion`.

    The KL is exact if torch knows a closed form. Otherwise the expectation of log p(z_d) is a Gauss-Hermite quadrature
    for Gaussian marginals of q, and a mean over samples with fixed noise for any other q. `models.marginals` says how
    marginals without a closed form are estimated.

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


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """Return log p(x) = sum_p x_p l_p - log(1 + e^l_p) for logits l, `(..., P) -> (...)`, in nats.

    Uses log(1 + e^l) = max(l, 0) + log(1 + e^-|l|). The factors 1 + e^-|l| lie in [1, 2], so the logarithms of up to
    120 pixels are computed as one logarithm of a product, without overflow of float32.
    """
    positive = logits.relu()
    factors = torch.sub(logits, positive, alpha=2).exp_().add_(1)  # 1 + e^-|l|
    P = logits.shape[-1]
    size = next(size for size in range(min(P, MAX_FACTORS), 0, -1) if P % size == 0)
    logs = factors.unflatten(-1, (-1, size)).prod(-1).log_()
    return -(positive.addcmul_(x, logits, value=-1).sum(-1) + logs.sum(-1))


def cache_sized_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors `(..., P)` along the same leading dimension into chunks of about `CHUNK_SIZE` elements."""
    batch = tensors[0].shape[:-1]
    dim = next((dim for dim, size in enumerate(batch) if size > 1), 0)  # the first dimension that can be split
    size = max(1, CHUNK_SIZE * batch[dim] // max(1, tensors[0].numel()))
    return zip(*(tensor.split(size, dim) for tensor in tensors), strict=True)


class LogBernoulli(Function):
    """`log_bernoulli` with its gradient x - sigmoid(l), computed in chunks that fit a CPU cache."""

    @staticmethod
    def forward(ctx, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        log_p = torch.empty(logits.shape[:-1], dtype=logits.dtype)
        for logits_chunk, x_chunk, out in cache_sized_chunks(logits, x, log_p[..., None]):
            out[..., 0] = log_bernoulli(logits_chunk, x_chunk)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        grad_logits = torch.empty_like(logits)
        for logits_chunk, x_chunk, grad_chunk, out in cache_sized_chunks(logits, x, grad[..., None], grad_logits):
            torch.sub(x_chunk, torch.sigmoid(logits_chunk, out=out), out=out).mul_(grad_chunk)
        return grad_logits, None


class BernoulliImage(Independent):
    """Independent Bernoulli pixels with logits `(..., C, H, W)`, with a fast `log_prob` for large inputs on a CPU."""

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.base_dist.logits
        is_small = max(logits.numel(), value.numel()) < LARGE_SIZE or max(logits.ndim, value.ndim) == 3
        is_transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if is_small or value.requires_grad or logits.device.type != "cpu" or is_transformed:
            logits, value = torch.broadcast_tensors(logits, value)
            # torch's Bernoulli negates each pixel, a sixth of the time; negating the sum gives the same bits
            return -binary_cross_entropy_with_logits(logits, value, reduction="none").flatten(-3).sum(-1)
        shape = torch.broadcast_shapes(logits.shape, value.shape)  # slow, hence only for large inputs
        return LogBernoulli.apply(logits.expand(shape).flatten(-3), value.to(logits.dtype).expand(shape).flatten(-3))


def bernoulli_image(logits: Tensor) -> Independent:
    """Return independent Bernoulli pixels with logits `(..., C, H, W)`, batch shape `(...)`."""
    return BernoulliImage(Bernoulli(logits=at_least_float32(logits)), 3)


def normal_image(logits: Tensor, raw_scale: Tensor) -> Independent:
    """Return independent Gaussian pixels with mean sigmoid(logits) and one scale for all, exp(soft_clip(raw_scale))."""
    return Independent(Normal(at_least_float32(logits).sigmoid(), soft_clip(raw_scale, SCALE_LIMIT).exp()), 3)
