"""An unconditional normalizing flow as a distribution of the latents."""

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

MOMENT_SAMPLES = 2000  # from which mean and variance are estimated


class FlowDistribution(Distribution):
    """The distribution of z = f^-1(e) with e ~ N(0, I), for an autoregressive transformation f of d dimensions.

    The density of given vectors takes one pass through the networks of f, a sample takes d passes. Both are computed
    outside autocast.

    Args:
        flow: A `zuko.distributions.NormalizingFlow`, batch shape `()`.
        like: A parameter of the flow, for the device and the precision.
        batch_shape: Shape of the batch of identical distributions.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, flow: Any, like: Tensor, batch_shape: torch.Size | tuple[int, ...] = ()):
        self.flow, self.like = flow, like
        super().__init__(torch.Size(batch_shape), torch.Size(flow.base.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "FlowDistribution":
        return FlowDistribution(self.flow, self.like, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of vectors `(..., d)` in nats, `(...)`."""
        with torch.autocast(value.device.type, enabled=False):
            return self.flow.log_prob(value.to(self.like.dtype))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return samples `(*sample_shape, *batch_shape, d)`."""
        noise = torch.randn(
            (*sample_shape, *self.batch_shape, *self.event_shape), dtype=self.like.dtype, device=self.like.device
        )
        return self.from_noise(noise)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Return the vectors z with f(z) = `noise (..., d)`."""
        with torch.autocast(noise.device.type, enabled=False):
            return self.flow.transform.inv(noise)

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean and the variance of each dimension, `(d,)`, estimated from samples with fixed noise."""
        noise = torch.randn(MOMENT_SAMPLES, *self.event_shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            z = self.from_noise(noise.to(self.like))
        return z.mean(0), z.var(0)

    @property
    def mean(self) -> Tensor:
        return self.moments[0].expand(*self.batch_shape, *self.event_shape)

    @property
    def variance(self) -> Tensor:
        return self.moments[1].expand(*self.batch_shape, *self.event_shape)
