"""Gaussian distributions of latents and pixels."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from models.distributions.outputs import LATENT_LIMIT, SCALE_LIMIT, at_least_float32, soft_clip

LOG_2PI = math.log(2 * math.pi)


class DiagonalNormal(Independent):
    """N(mu, diag(sigma^2)). Subclassed so that `register_kl` can dispatch on it."""

    def at_noise(self, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the samples mu + sigma noise for `noise (..., d)`, and a function that returns their log density."""
        z = self.base_dist.loc + self.base_dist.scale * noise
        return z, lambda: self.log_prob(z)

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

    def new_noise(self, sample_shape: Any) -> Tensor:
        """Return standard normal noise `(samples..., batch..., d)`."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def at_noise(self, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the samples mu + L noise for `noise (samples..., batch..., d)`, and a function for their log density.

        The density is that of the noise, without solving for it.
        """
        with torch.autocast(noise.device.type, enabled=False):
            products = self.lower @ self.columns(noise)  # (batch..., d, samples)
        z = self.loc + self.scale * (noise + products.movedim(-1, 0).view(noise.shape))
        return z, lambda: self.log_prob_of_noise(noise)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.at_noise(self.new_noise(sample_shape))[0]

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Return samples `(samples..., batch..., d)` and their log density."""
        z, log_q = self.at_noise(self.new_noise(sample_shape))
        return z, log_q()

    def log_prob(self, value: Tensor) -> Tensor:
        difference = (value - self.loc) / self.scale  # (samples..., batch..., d)
        with torch.autocast(difference.device.type, enabled=False):
            noise = torch.linalg.solve_triangular(self.lower, self.columns(difference), upper=False, unitriangular=True)
        return self.log_prob_of_noise(noise.movedim(-1, 0).reshape(difference.shape))


def diagonal_normal(parameters: Tensor) -> Independent:
    """Return N(mu, diag(sigma^2)) from network outputs `(..., 2 d)`: mu, then log sigma before clipping."""
    mu, raw = at_least_float32(parameters).chunk(2, -1)  # (..., d)
    return DiagonalNormal(Normal(mu, soft_clip(raw, LATENT_LIMIT).exp()), 1)


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


def normal_image(logits: Tensor, raw_scale: Tensor) -> Independent:
    """Return independent Gaussian pixels with mean sigmoid(logits) and one scale for all, exp(soft_clip(raw_scale))."""
    return Independent(Normal(at_least_float32(logits).sigmoid(), soft_clip(raw_scale, SCALE_LIMIT).exp()), 3)
