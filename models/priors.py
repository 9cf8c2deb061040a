"""Registry of priors p(z). A prior is a module with its parameters; calling it returns the distribution.

CONTRIBUTING.md shows how to add one.
"""

from collections.abc import Callable
from typing import Literal, Protocol

from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from models.distributions import standard_normal
from models.networks.layers import lookup

PriorName = Literal["standard"]
Encode = Callable[[Tensor], Independent]  # images (N, C, H, W) -> the Gaussians q(z|x), batch shape (N,)


class Prior(nn.Module):
    """Base class of priors.

    Args:
        z_dim: Dimensions of z.
    """

    has_independent_dimensions = False  # whether p(z) is `Independent`, with a closed-form KL per dimension

    def __init__(self, z_dim: int):
        super().__init__()
        self.z_dim = z_dim

    def forward(self, like: Tensor, encode: Encode) -> Distribution:
        """Return p(z), batch shape `()`, with `log_prob`, `sample` and `expand`.

        Args:
            like: A parameter of the model, for the device and the precision of a prior without parameters.
            encode: The posterior of the model, for a prior that is made of posteriors.
        """
        raise NotImplementedError


class StandardPrior(Prior):
    """N(0, I)."""

    has_independent_dimensions = True

    def forward(self, like: Tensor, encode: Encode) -> Independent:
        return standard_normal(self.z_dim, like)


class PriorClass(Protocol):
    """What the registry of priors holds: a class of modules."""

    def __call__(self, z_dim: int) -> Prior: ...


PRIORS: dict[str, PriorClass] = {"standard": StandardPrior}


def make_prior(name: str, z_dim: int) -> Prior:
    """Return a new prior of the registry.

    Args:
        name: Its name.
        z_dim: Dimensions of z.

    Raises:
        ValueError: If the name is unknown, or an option is out of range or has no effect on this prior.
    """
    return lookup(PRIORS, name, "prior")(z_dim)
