"""The distributions of all models: torch's own, with event dimensions folded by `Independent`.

`log_prob` of each returns one number per latent vector or image, so that no objective sums over dimensions.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Bernoulli, Distribution, Independent, Normal, kl_divergence, register_kl

# Checking arguments costs small networks a third of their speed; the data layer checks ranges once instead.
Distribution.set_default_validate_args(False)

LATENT_LIMIT = 7.0  # sigma of a latent stays within e^-7 ... e^7
MAX_FACTORS = 120  # between 1 and 2 whose product float32 holds
CHUNK_SIZE = 2**19  # numbers that are worked on at a time: two megabytes
LARGE_SIZE = 2**19  # pixels from which on products and pieces pay
MOMENT_SAMPLES = 10_000  # samples of a prior whose mean and variance are not known in closed form
SCALE_LIMIT = math.log(256)  # a learned observation scale stays within 1/256 ... 256: one grey level at the least


def soft_clip(raw: Tensor, limit: float) -> Tensor:
    """A smooth bound: close to `raw` near 0, never beyond +-`limit`; its exponential cannot vanish or overflow."""
    return limit * torch.tanh(raw / limit)


def inverse_soft_clip(value: float, limit: float) -> float:
    """The raw number whose `bounded` is `value`."""
    return limit * math.atanh(value / limit)


def at_least_float32(outputs: Tensor) -> Tensor:
    """Outputs of a network at no less than float32: densities need more than 16 bits."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


class DiagonalNormal(Independent):
    """N(mu, diag(sigma^2)), by a name of its own so that `kl_divergence` finds the short form below."""


def diagonal_normal(parameters: Tensor) -> Independent:
    """N(mu, diag(sigma^2)) from `(..., 2 d)` network outputs: mu, then the unbounded log sigma."""
    mu, raw = at_least_float32(parameters).chunk(2, -1)  # (..., d)
    return DiagonalNormal(Normal(mu, soft_clip(raw, LATENT_LIMIT).exp()), 1)


def detached(q: Independent) -> Independent:
    """The same diagonal Gaussian, whose density has no gradient for its parameters."""
    return Independent(Normal(q.base_dist.loc.detach(), q.base_dist.scale.detach()), 1)


class StandardNormal(Independent):
    """N(0, I), by a name of its own for the same reason."""


def standard_normal(dim: int, like: Tensor) -> Independent:
    """N(0, I) in `dim` dimensions, on the device of `like`."""
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


def kl_per_dimension(q: Independent, p: Distribution) -> Tensor:
    """Return KL(q(z_d) || p(z_d)) for each dimension d, the shape of the mean of `q`.

    Exact if `p` is `Independent` and torch knows a closed form. For any other prior each dimension of `p` is replaced
    by the Gaussian with the same mean and variance.
    """
    if isinstance(p, Independent) and (kl := closed_form_kl(q.base_dist, p.base_dist)) is not None:
        return kl
    try:
        mean, variance = p.mean, p.variance
    except NotImplementedError:
        samples = p.sample((MOMENT_SAMPLES,))
        mean, variance = samples.mean(0), samples.var(0)
    return kl_divergence(q.base_dist, Normal(mean, variance.sqrt()))


@register_kl(DiagonalNormal, StandardNormal)
def kl_to_standard_normal(q: DiagonalNormal, p: StandardNormal) -> Tensor:
    """KL(N(mu, diag(sigma^2)) || N(0, I)) = sum_d (mu^2 + sigma^2 - 1) / 2 - log sigma (Kingma & Welling, app. B)."""
    mu, sigma = q.base_dist.loc, q.base_dist.scale
    return (0.5 * torch.addcmul(mu * mu, sigma, sigma) - sigma.log()).sum(-1) - 0.5 * mu.shape[-1]


def log_bernoulli(logits: Tensor, x: Tensor) -> Tensor:
    """sum_p x_p l_p - log(1 + e^l_p), `(..., P) -> (...)`: log p(x) of pixels from their logits l.

    With log(1 + e^l) = max(l, 0) + log(1 + e^-|l|), and a sum of such logarithms as one of a product, whose factors lie
    between 1 and 2: most logarithms are saved, and float32 holds 120 factors.
    """
    positive = logits.relu()
    factors = torch.sub(logits, positive, alpha=2).exp_().add_(1)  # 1 + e^-|l|
    P = logits.shape[-1]
    size = next(size for size in range(min(P, MAX_FACTORS), 0, -1) if P % size == 0)
    logs = factors.unflatten(-1, (-1, size)).prod(-1).log_()
    return -(positive.addcmul_(x, logits, value=-1).sum(-1) + logs.sum(-1))


def cache_sized_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors `(..., P)`, all cut alike along a dimension before the last, of about `PIECE` numbers each."""
    batch = tensors[0].shape[:-1]
    dim = next((dim for dim, size in enumerate(batch) if size > 1), 0)  # the first that can be cut
    size = max(1, CHUNK_SIZE * batch[dim] // max(1, tensors[0].numel()))
    return zip(*(tensor.split(size, dim) for tensor in tensors), strict=True)


class LogBernoulli(Function):
    """`log_bernoulli` with its gradient, x - sigmoid(l), in pieces that stay in a processor's cache."""

    @staticmethod
    def forward(ctx, logits: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(logits, x)
        log_p = torch.empty(logits.shape[:-1], dtype=logits.dtype)
        for piece, pixels, out in cache_sized_chunks(logits, x, log_p[..., None]):
            out[..., 0] = log_bernoulli(piece, pixels)
        return log_p

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, x = ctx.saved_tensors
        of_logits = torch.empty_like(logits)
        for piece, pixels, g, out in cache_sized_chunks(logits, x, grad[..., None], of_logits):
            torch.sub(pixels, torch.sigmoid(piece, out=out), out=out).mul_(g)
        return of_logits, None


class BernoulliImage(Independent):
    """Independent Bernoulli pixels, from `(..., C, H, W)` logits; `log_prob` of many of them on a CPU is fast."""

    def log_prob(self, value: Tensor) -> Tensor:
        logits = self.base_dist.logits
        few = max(logits.numel(), value.numel()) < LARGE_SIZE or max(logits.ndim, value.ndim) == 3
        if few or value.requires_grad or logits.device.type != "cpu" or torch.compiler.is_compiling():
            return super().log_prob(value)
        shape = torch.broadcast_shapes(logits.shape, value.shape)  # a slow function
        return LogBernoulli.apply(logits.expand(shape).flatten(-3), value.to(logits.dtype).expand(shape).flatten(-3))


def bernoulli_image(logits: Tensor) -> Independent:
    """Independent Bernoulli pixels, from `(..., C, H, W)` logits."""
    return BernoulliImage(Bernoulli(logits=at_least_float32(logits)), 3)


def normal_image(logits: Tensor, raw_scale: Tensor) -> Independent:
    """Independent Gaussian pixels with mean sigmoid(logits) in (0, 1) and one scale, exp(bounded), for all of them."""
    return Independent(Normal(at_least_float32(logits).sigmoid(), soft_clip(raw_scale, SCALE_LIMIT).exp()), 3)
