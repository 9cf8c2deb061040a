"""Registry of posteriors q(z|x): how the outputs of an encoder become a distribution.

CONTRIBUTING.md shows how to add one.
"""

import math
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from models.distributions import LATENT_LIMIT, diagonal_normal, inverse_soft_clip
from models.networks.layers import lookup

PosteriorName = Literal["diagonal"]
NARROW = 0.1  # scale of q(z|x) at the start of training, with init default


class Posterior(nn.Module):
    """Base class of posteriors.

    Args:
        z_dim: Dimensions of z.
    """

    has_independent_dimensions = False  # whether q(z|x) is `Independent`, with a closed-form KL per dimension

    def __init__(self, z_dim: int):
        super().__init__()
        self.z_dim = z_dim

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the encoder, the last dimension of the argument of `forward`."""
        raise NotImplementedError

    def forward(self, outputs: Tensor) -> Independent:
        """Return q(z|x), batch shape `(...)`, for outputs of the encoder `(..., num_outputs)`.

        A posterior that can be trained on the objectives stl and dreg has a method `detached()`, which returns the same
        distribution with detached parameters.
        """
        raise NotImplementedError

    def start_narrow(self, bias: Tensor) -> None:
        """Set the bias of the encoder's output `(num_outputs,)` so that q(z|x) starts with a scale of `NARROW`."""
        raise NotImplementedError


class DiagonalPosterior(Posterior):
    """N(mu, diag(sigma^2)): the encoder returns mu, then log sigma before clipping."""

    has_independent_dimensions = True

    @property
    def num_outputs(self) -> int:
        return 2 * self.z_dim

    def forward(self, outputs: Tensor) -> Independent:
        return diagonal_normal(outputs)

    @torch.no_grad()
    def start_narrow(self, bias: Tensor) -> None:
        bias[self.z_dim :].fill_(inverse_soft_clip(math.log(NARROW), LATENT_LIMIT))


class PosteriorClass(Protocol):
    """What the registry of posteriors holds: a class of modules."""

    def __call__(self, z_dim: int) -> Posterior: ...


POSTERIORS: dict[str, PosteriorClass] = {"diagonal": DiagonalPosterior}


def make_posterior(name: str, z_dim: int) -> Posterior:
    """Return a new posterior of the registry.

    Args:
        name: Its name.
        z_dim: Dimensions of z.

    Raises:
        ValueError: If the name is unknown, or an option is out of range or has no effect on this posterior.
    """
    return lookup(POSTERIORS, name, "posterior")(z_dim)
