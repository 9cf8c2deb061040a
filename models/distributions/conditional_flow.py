"""Normalizing flows conditioned on a context vector, for posteriors q(z|x)."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.func import functional_call
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

from models.distributions.gaussian import DiagonalNormal

FlowTransform: TypeAlias = MaskedAutoregressiveTransform
SPLINE_BINS = 8  # as in Durkan et al. (2019)


def affine_transform(dim: int, context_dim: int, order: Tensor, hidden: Sequence[int]) -> FlowTransform:
    """Return u_i = exp(a_i) v_i + b_i, where a_i and b_i are functions of v_1 ... v_i-1 and of the context.

    It takes one pass from v to u and `dim` passes back (Kingma et al. 2016).
    """
    shapes = ((), ())
    return FlowTransform(
        dim,
        context_dim,
        order=order,
        univariate=MonotonicAffineTransform,
        shapes=shapes,
        hidden_features=hidden,
        activation=nn.ELU,
    )


def spline_transform(dim: int, context_dim: int, order: Tensor, hidden: Sequence[int]) -> FlowTransform:
    """Return u_i = s_i(v_i) for monotonic rational-quadratic splines s_i on [-5, 5] (Durkan et al. 2019).

    The splines of the first half of the dimensions are functions of the context, those of the other half also of the
    first half: it takes one pass from v to u and two passes back.
    """
    shapes = ((SPLINE_BINS,), (SPLINE_BINS,), (SPLINE_BINS - 1,))
    return FlowTransform(
        dim,
        context_dim,
        passes=2,
        order=order,
        univariate=MonotonicRQSTransform,
        shapes=shapes,
        hidden_features=hidden,
        activation=nn.ELU,
    )


class ConditionalTransform(nn.Module):
    """A bijection of vectors that depends on a context, composed of transforms with alternating order of dimensions.

    It starts as the identity.

    Args:
        transforms: The transforms, in the order in which they are applied.
    """

    def __init__(self, transforms: Sequence[FlowTransform]):
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        for transform in transforms:
            output: Any = transform.hyper[-1]  # nn.Linear
            nn.init.zeros_(output.weight)
            nn.init.zeros_(output.bias)

    def forward(self, v: Tensor, context: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Return T(v) `(..., d)` and log |det dT/dv| `(...)`; or T^-1(v) and log |det dT/du| at u = T^-1(v).

        Args:
            v: Vectors `(..., d)`.
            context: Context `(..., context_dim)`, whose leading dimensions broadcast.
            inverse: Whether to compute the inverse.
        """
        log_det: Any = 0.0
        for lazy in reversed(self.transforms) if inverse else self.transforms:
            transform = lazy(context)
            if inverse:
                v = transform.inv(v)
                part = transform.call_and_ladj(v)[1]
            else:
                v, part = transform.call_and_ladj(v)
            log_det = log_det + part
        return v, log_det


class GaussianFlow(Distribution):
    """The distribution of z = mu + sigma T(noise; context) with noise ~ N(0, I) and a bijection T.

    While T is the identity, samples and densities of samples are those of N(mu, diag(sigma^2)), to the bit. All
    computations are in float32 at least, outside autocast.

    Args:
        base: N(mu, diag(sigma^2)), batch shape `(...)`.
        context: `(..., context_dim)`.
        transform: T.
        moment_noise: Noise `(S, d)` that estimates mean and variance.
        is_detached: Whether gradients of the density for parameters of T are zero.
    """

    arg_constraints: ClassVar[dict] = {}  # arguments are not validated
    has_rsample = True

    def __init__(
        self,
        base: Independent,
        context: Tensor,
        transform: ConditionalTransform,
        moment_noise: Tensor,
        is_detached: bool = False,
    ):
        super().__init__(base.batch_shape, base.event_shape)
        self.base, self.context, self.transform = base, context, transform
        self.moment_noise, self.is_detached = moment_noise, is_detached

    def apply(self, v: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Apply T or its inverse to `v (samples..., batch..., d)`, as `ConditionalTransform.forward` does."""
        with torch.autocast(v.device.type, enabled=False):
            weights: dict[str, Tensor] = dict(self.transform.named_parameters())
            if self.is_detached:
                weights = {name: weight.detach() for name, weight in weights.items()}
            elif all(weight.dtype == v.dtype for weight in weights.values()):
                return self.transform(v, self.context, inverse)
            weights = {name: weight.to(v.dtype) for name, weight in weights.items()}
            return functional_call(self.transform, weights, (v, self.context, inverse))

    def transformed(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples z that `noise (..., d)` is transformed to, `(..., d)`, and log q(z), `(...)`."""
        mu, sigma = self.base.base_dist.loc, self.base.base_dist.scale
        u, log_det = self.apply(noise)
        start = mu + noise * sigma
        # for the identity the second term is 0, and z has the bits of a sample of the base
        return start + sigma * (u - noise), self.base.log_prob(start) - log_det

    def at_noise(self, noise: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return the samples that `noise (..., d)` is transformed to, and a function that returns their log density."""
        z, log_q = self.transformed(noise)
        return z, lambda: log_q

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Return samples `(samples..., batch..., d)` and their log density, in one pass."""
        mu = self.base.base_dist.loc
        return self.transformed(
            torch.randn(self._extended_shape(torch.Size(sample_shape)), dtype=mu.dtype, device=mu.device)
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample_and_log_prob(sample_shape)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        mu, sigma = self.base.base_dist.loc, self.base.base_dist.scale
        noise, log_det = self.apply((value - mu) / sigma, inverse=True)
        return self.base.log_prob(mu + noise * sigma) - log_det

    def moment_samples(self) -> Tensor:
        """Return the samples `(S, batch..., d)` that estimate mean and variance, with the same noise for each x."""
        mu = self.base.base_dist.loc
        noise = self.moment_noise.to(mu.device, mu.dtype)
        noise = noise.view(-1, *[1] * len(self.batch_shape), noise.shape[-1])
        return self.transformed(noise.expand(-1, *mu.shape))[0]

    @property
    def mean(self) -> Tensor:
        """A Monte Carlo estimate, `(..., d)`."""
        return self.moment_samples().mean(0)

    @property
    def variance(self) -> Tensor:
        """A Monte Carlo estimate, `(..., d)`."""
        return self.moment_samples().var(0, correction=0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GaussianFlow":
        shape = torch.Size(batch_shape)
        return type(self)(
            self.base.expand(shape),
            self.context.expand(*shape, self.context.shape[-1]),
            self.transform,
            self.moment_noise,
            self.is_detached,
        )


class InvertibleGaussianFlow(GaussianFlow):
    """A `GaussianFlow` with a fast inverse of T."""

    def detached(self) -> "InvertibleGaussianFlow":
        """Return the same distribution with detached parameters: its density has no gradient for them."""
        base = self.base.base_dist
        return InvertibleGaussianFlow(
            DiagonalNormal(Normal(base.loc.detach(), base.scale.detach()), 1),
            self.context.detach(),
            self.transform,
            self.moment_noise,
            is_detached=True,
        )


def antithetic_noise(samples: int, dim: int) -> Tensor:
    """Return fixed noise `(samples, dim)`, always the same, for estimates of means and variances.

    One half is the negative of the other, and each dimension has variance 1: estimates are exact for affine functions
    of one dimension.
    """
    noise = torch.randn(samples // 2, dim, generator=torch.Generator().manual_seed(0), device="cpu")
    noise = noise / noise.square().mean(0).sqrt()
    return torch.cat([noise, -noise])


def make_transform(
    name: str, dim: int, context_dim: int, transforms: int, hidden: Sequence[int]
) -> ConditionalTransform:
    """Return a new bijection.

    Args:
        name: `iaf` or `nsf`.
        dim: Dimensions of the vectors.
        context_dim: Dimensions of the context.
        transforms: Number of transforms; every second one has the dimensions in reverse order.
        hidden: Widths of the hidden layers of each transform.
    """
    new = {"iaf": affine_transform, "nsf": spline_transform}[name]
    # zuko computes masks from tensors, which have no values on the meta device, where the size of a model is counted
    with torch.device("cpu"):
        forwards = torch.arange(dim)
        orders = [forwards.flip(0) if i % 2 else forwards for i in range(transforms)]
        return ConditionalTransform([new(dim, context_dim, order, hidden) for order in orders])
