"""Registry of posteriors q(z|x): how the outputs of an encoder become a distribution.

CONTRIBUTING.md shows how to add one.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from models.distributions import (
    LATENT_LIMIT,
    FullNormal,
    at_least_float32,
    diagonal_normal,
    inverse_soft_clip,
    soft_clip,
)
from models.distributions.conditional_flow import (
    ConditionalTransform,
    GaussianFlow,
    InvertibleGaussianFlow,
    antithetic_noise,
    make_transform,
)
from models.networks import check_sizes
from models.networks.layers import lookup

PosteriorName = Literal["diagonal", "full", "flow"]
PosteriorFlow = Literal["iaf", "nsf"]
NARROW = 0.1  # scale of q(z|x) at the start of training, with init default
NARROW_RAW = inverse_soft_clip(math.log(NARROW), LATENT_LIMIT)  # output of the encoder for this scale
MOMENT_SAMPLES = 32  # samples that estimate the mean and the variance of a flow

# Defaults of the options of `flow`
FLOW = "iaf"
TRANSFORMS = 2
HIDDEN = (256,)
CONTEXT = 32


class Posterior(nn.Module):
    """Base class of posteriors.

    Args:
        z_dim: Dimensions of z.
    """

    options: ClassVar[tuple[str, ...]] = ()  # options of the model that belong to it: `posterior_<option>`
    has_independent_dimensions = False  # whether q(z|x) is `Independent`, with a closed-form KL per dimension

    def __init__(self, z_dim: int):
        super().__init__()
        self.z_dim = z_dim

    @property
    def num_outputs(self) -> int:
        """Number of outputs of the encoder, the last dimension of the argument of `forward`."""
        raise NotImplementedError

    def forward(self, outputs: Tensor) -> Any:  # Distribution
        """Return q(z|x), batch shape `(...)`, for outputs of the encoder `(..., num_outputs)`.

        A posterior that can be trained on the objectives stl, dreg and piwae has a method `detached()`, which returns
        the same distribution with detached parameters. In M2, ADGM, SDGM and M1M2 it needs a method `at_noise(noise)`,
        which returns the samples at given standard normal noise `(..., z_dim)`, and a function for their log density.
        """
        raise NotImplementedError

    @property
    def has_slow_density(self) -> bool:
        """Whether the density at a given z takes as many passes as z has dimensions."""
        return False

    def start(self, output: Any) -> None:
        """Set the weights of the encoder's output layer to which this posterior gives initial values of its own.

        Args:
            output: The layer, with `num_outputs` output features.
        """

    def start_narrow(self, bias: Tensor) -> None:
        """Set the bias of the encoder's output `(num_outputs,)` so that q(z|x) starts with a scale of `NARROW`."""
        raise NotImplementedError


class DiagonalPosterior(Posterior):
    """N(mu, diag(sigma^2)): the encoder returns mu, then log sigma before clipping."""

    has_independent_dimensions = True

    @property
    def num_outputs(self) -> int:
        return 2 * self.z_dim

    def forward(self, outputs: Tensor) -> Any:  # DiagonalNormal
        return diagonal_normal(outputs)

    @torch.no_grad()
    def start_narrow(self, bias: Tensor) -> None:
        bias[self.z_dim : 2 * self.z_dim].fill_(NARROW_RAW)


class FullPosterior(DiagonalPosterior):
    """N(mu, L L^T) with L = diag(sigma) (I + N) and N strictly lower triangular.

    The encoder returns mu, then log sigma before clipping, then the rows of N.
    """

    has_independent_dimensions = False
    below: Tensor  # indices of N in the flattened matrix

    def __init__(self, z_dim: int):
        super().__init__(z_dim)
        rows, columns = torch.tril_indices(z_dim, z_dim, -1)
        self.register_buffer("below", z_dim * rows + columns, persistent=False)

    @property
    def num_outputs(self) -> int:
        return 2 * self.z_dim + len(self.below)

    def forward(self, outputs: Tensor) -> FullNormal:
        d = self.z_dim
        mu, raw, entries = at_least_float32(outputs).split([d, d, len(self.below)], -1)
        lower = entries.new_zeros(*entries.shape[:-1], d * d).index_copy(-1, self.below, entries)
        return FullNormal(mu, soft_clip(raw, LATENT_LIMIT).exp(), lower.unflatten(-1, (d, d)))

    @torch.no_grad()
    def start(self, output: Any) -> None:
        """Start with independent dimensions: N = 0."""
        for parameter in (output.weight, output.bias):
            parameter[2 * self.z_dim :].zero_()


class FlowPosterior(DiagonalPosterior):
    """z = mu + sigma T(noise; context) with noise ~ N(0, I), for a normalizing flow T that starts as the identity.

    The encoder returns mu, then log sigma before clipping, then the context.

    Args:
        z_dim: Dimensions of z.
        flow: iaf or nsf.
        transforms: Transforms of the flow.
        hidden: Widths of the hidden layers of each transform.
        context: Dimensions of the context.
    """

    options = ("flow", "transforms", "hidden", "context")
    has_independent_dimensions = False

    transform: ConditionalTransform
    moment_noise: Tensor

    def __init__(
        self,
        z_dim: int,
        flow: PosteriorFlow | None = None,
        transforms: int | None = None,
        hidden: Sequence[int] | None = None,
        context: int | None = None,
    ):
        super().__init__(z_dim)
        self.flow = FLOW if flow is None else flow
        lookup({"iaf": GaussianFlow, "nsf": InvertibleGaussianFlow}, self.flow, "posterior_flow")
        self.context_dim = CONTEXT if context is None else context
        number = TRANSFORMS if transforms is None else transforms
        if number < 1 or self.context_dim < 1:
            raise ValueError(
                f"posterior_transforms and posterior_context must be at least 1; got {number} and {self.context_dim}."
            )
        widths = HIDDEN if hidden is None else hidden
        check_sizes(widths, "posterior_hidden")
        if not widths:
            raise ValueError("posterior_hidden must hold at least one size, such as [256].")
        self.transform = make_transform(self.flow, z_dim, self.context_dim, number, widths)
        self.register_buffer("moment_noise", antithetic_noise(MOMENT_SAMPLES, z_dim), persistent=False)

    @property
    def num_outputs(self) -> int:
        return 2 * self.z_dim + self.context_dim

    @property
    def has_slow_density(self) -> bool:
        return self.flow == "iaf"

    def forward(self, outputs: Tensor) -> GaussianFlow:
        parameters, context = at_least_float32(outputs).split([2 * self.z_dim, self.context_dim], -1)
        kind = InvertibleGaussianFlow if self.flow == "nsf" else GaussianFlow
        return kind(diagonal_normal(parameters), context, self.transform, self.moment_noise)


POSTERIORS: dict[str, type[Posterior]] = {
    "diagonal": DiagonalPosterior,
    "full": FullPosterior,
    "flow": FlowPosterior,
}


def make_posterior(name: str, z_dim: int, **options: Any) -> Posterior:
    """Return a new posterior of the registry.

    Args:
        name: Its name.
        z_dim: Dimensions of z.
        options: Options of posteriors by their name without `posterior_`; None for those that are not given.

    Raises:
        ValueError: If the name is unknown, or an option is out of range or has no effect on this posterior.
    """
    chosen: Any = lookup(POSTERIORS, name, "posterior")
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        owners = [owner for owner, kind in POSTERIORS.items() if option in kind.options]
        if name not in owners:
            raise ValueError(
                f"posterior_{option} is only for posterior {' or '.join(owners)}: remove it for posterior {name}."
            )
    return chosen(z_dim, **given)
