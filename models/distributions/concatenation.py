"""The distribution of a vector whose parts are independent."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from models.distributions.gaussian import is_standard_normal, standard_normal


class Concatenation(Distribution):
    """Distribution of (z_1, ..., z_n) for independent vectors z_i.

    Args:
        parts: Distributions of vectors, with the same batch shape.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, parts: list[Any]):
        self.parts = parts
        self.sizes = [part.event_shape[0] for part in parts]
        super().__init__(parts[0].batch_shape, torch.Size([sum(self.sizes)]))

    @property
    def mean(self) -> Tensor:
        return torch.cat([part.mean for part in self.parts], -1)

    @property
    def variance(self) -> Tensor:
        return torch.cat([part.variance for part in self.parts], -1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Concatenation":
        return Concatenation([part.expand(torch.Size(batch_shape)) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of vectors `(..., d)` in nats, `(...)`."""
        values = value.split(self.sizes, -1)
        return torch.stack([part.log_prob(z) for part, z in zip(self.parts, values, strict=True)]).sum(0)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return samples `(*sample_shape, *batch_shape, d)`."""
        return torch.cat([part.sample(torch.Size(sample_shape)) for part in self.parts], -1)


def concatenated(*parts: Distribution) -> Distribution:
    """Return the distribution of independent vectors, one after the other: N(0, I) if that of each of them is."""
    if all(is_standard_normal(part) for part in parts):
        return standard_normal(sum(part.event_shape[0] for part in parts), like=parts[0].mean)
    return Concatenation(list(parts))
