"""Mixtures of Gaussians over latent vectors, with a density that is fast for hundreds of components."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from models.distributions import at_least_float32

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
ROWS = 1000  # samples at a time of components with full covariance


class GaussianMixture(Distribution):
    """sum_c w_c N(mu_c, S_c) over vectors of d dimensions, batch shape `()` until it is expanded.

    With diagonal covariances no tensor of the shape (samples, components, d) is created: the density consists of two
    matrix products. Their terms cancel, z^2 / s^2 - 2 z mu / s^2 + mu^2 / s^2 = (z - mu)^2 / s^2, and with narrow
    components they are many orders of magnitude larger than their sum: the products are computed in float64. All of it
    is computed outside autocast.

    Args:
        logits: Logits of the weights, `(C,)`.
        components: C Gaussians over vectors, batch shape `(C,)`: `Independent(Normal)` or any other with `log_prob`,
            `sample`, `mean` and `variance`.
        batch_shape: Shape of the batch of identical distributions.
    """

    has_rsample = False

    def __init__(self, logits: Tensor, components: Any, batch_shape: torch.Size | tuple[int, ...] = ()):
        self.log_weights = at_least_float32(logits).log_softmax(-1)  # (C,)
        self.components = components
        super().__init__(torch.Size(batch_shape), components.event_shape)

    @property
    def is_diagonal(self) -> bool:
        return isinstance(self.components, Independent) and isinstance(self.components.base_dist, Normal)

    @property
    def mean(self) -> Tensor:
        mean = self.log_weights.exp() @ self.components.mean
        return mean.expand(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each dimension: the mean variance of the components plus the variance of their means."""
        weights, means = self.log_weights.exp(), self.components.mean
        variance = weights @ (self.components.variance + (means - weights @ means).square())
        return variance.expand(*self.batch_shape, *self.event_shape)

    def expand(self, batch_shape, _instance=None) -> "GaussianMixture":
        return GaussianMixture(self.log_weights, self.components, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of vectors `(..., d)` in nats, `(...)`."""
        with torch.autocast(value.device.type, enabled=False):
            z = at_least_float32(value)
            log_p = self.component_log_prob(z) + self.log_weights
            return log_p.logsumexp(-1).to(z.dtype)

    def component_log_prob(self, z: Tensor) -> Tensor:
        """Return the log density of each component at `z (..., d)`: `(..., C)`, in float64 if they are diagonal."""
        if not self.is_diagonal:
            return self.components.log_prob(z[..., None, :])
        z, normal = z.double(), self.components.base_dist
        mu, log_scale = normal.loc.double(), normal.scale.double().log()  # (C, d)
        precision = (-2 * log_scale).exp()
        scaled = mu * precision
        constant = (-0.5 * mu * scaled - log_scale).sum(-1) - self.event_shape[0] * HALF_LOG_2_PI
        return z @ scaled.T - 0.5 * z.square() @ precision.T + constant

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Return samples `(*sample_shape, *batch_shape, d)`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        index = Categorical(logits=self.log_weights).sample((shape.numel(),))  # (N,)
        if self.is_diagonal:
            normal = self.components.base_dist
            z = torch.normal(normal.loc[index], normal.scale[index])
        else:
            # a sample of every component for each row: only the chosen one is kept
            rows = [self.components.sample((len(part),))[range(len(part)), part] for part in index.split(ROWS)]
            z = torch.cat(rows) if rows else self.components.mean[:0]
        return z.view(*shape, *self.event_shape)

    def marginals(self) -> MixtureSameFamily:
        """Return the distribution of each dimension on its own, batch shape `(d,)`.

        Its `log_prob` of vectors `(..., d)` has the shape `(..., d)`; the sum is not the density of the vector.
        """
        means, scales = self.components.mean.T, self.components.variance.sqrt().T  # (d, C)
        return MixtureSameFamily(Categorical(logits=self.log_weights.expand_as(means)), Normal(means, scales))
