"""The distributions of all models: torch's own, with event dimensions folded by `Independent`.

`log_prob` of each returns one number per latent vector or image, so that no objective sums over dimensions.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

# Checking arguments costs small networks a third of their speed; the data layer checks ranges once instead.
Distribution.set_default_validate_args(False)

LATENT_LIMIT = 7.0  # sigma of a latent stays within e^-7 ... e^7
SCALE_LIMIT = math.log(256)  # a learned observation scale stays within 1/256 ... 256: one grey level at the least


def bounded(raw: Tensor, limit: float) -> Tensor:
    """A smooth bound: close to `raw` near 0, never beyond +-`limit`; its exponential cannot vanish or overflow."""
    return limit * torch.tanh(raw / limit)


def unbounded(value: float, limit: float) -> float:
    """The raw number whose `bounded` is `value`."""
    return limit * math.atanh(value / limit)


def full(outputs: Tensor) -> Tensor:
    """Outputs of a network at no less than float32: densities need more than 16 bits."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


def diagonal_normal(parameters: Tensor) -> Independent:
    """N(mu, diag(sigma^2)) from `(..., 2 d)` network outputs: mu, then the unbounded log sigma."""
    mu, raw = full(parameters).chunk(2, -1)  # (..., d)
    return Independent(Normal(mu, bounded(raw, LATENT_LIMIT).exp()), 1)


def standard_normal(dim: int, like: Tensor) -> Independent:
    """N(0, I) in `dim` dimensions, on the device of `like`."""
    zero = full(torch.zeros(dim, device=like.device, dtype=like.dtype))
    return Independent(Normal(zero, torch.ones_like(zero)), 1)


def bernoulli_image(logits: Tensor) -> Independent:
    """Independent Bernoulli pixels, from `(..., C, H, W)` logits."""
    return Independent(Bernoulli(logits=full(logits)), 3)


def normal_image(logits: Tensor, raw_scale: Tensor) -> Independent:
    """Independent Gaussian pixels with mean sigmoid(logits) in (0, 1) and one scale, exp(bounded), for all of them."""
    return Independent(Normal(full(logits).sigmoid(), bounded(raw_scale, SCALE_LIMIT).exp()), 3)
