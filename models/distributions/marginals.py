"""Distributions of single latent dimensions: in closed form, or estimated from samples.

They are for figures and statistics per dimension. Bounds and likelihoods use the joint densities only.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

SEED = 0  # of all samples that are drawn here
SAMPLES = 10_000  # samples of a prior for its quantiles and variances
DENSITY_SAMPLES = 4000  # for densities of its marginals: 10 s of one core for a flow of 40 dimensions
POSTERIOR_SAMPLES = 128  # samples of q(z|x) per image, for the entropies of its marginals
SAMPLES_PER_PASS = 16  # of a posterior: bounds the memory of a normalizing flow
SPACING = 2  # m of the m-spacing estimate of an entropy
GRID = 4096  # points of the grid of a density estimate
TABLE = 1024  # points at which a known density is tabulated for many values
ROWS = 256  # points per pass when a density is tabulated: bounds the memory of a mixture of many components
BANDWIDTHS = 16  # candidates for the bandwidth of a density estimate
NARROWEST, WIDEST = 0.01, 0.5  # the first and the last of them, in standard deviations
NEGLIGIBLE = 1e-12  # share of the largest value below which a Fourier transform leaves only rounding errors
PROBES = 32  # points at which two densities must be equal for an estimate to be reused
MAX_CACHED = 4  # estimates that are kept


class Marginals(Protocol):
    """Independent distributions of numbers, one for each latent dimension."""

    def log_prob(self, value: Tensor, /) -> Tensor:
        """Return the log density of each number `(..., d)`, in nats."""


@contextmanager
def fixed_noise() -> Iterator[None]:
    """Draw noise from a fixed seed within the context; restore the random state afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []):
        torch.manual_seed(SEED)
        yield


WITHOUT_ESTIMATES = ContextVar("WITHOUT_ESTIMATES", default=False)


@contextmanager
def without_estimates() -> Iterator[None]:
    """Let KL divergences without a closed form be NaN within the context, for callers that need posterior means only.

    Samples of a normalizing flow may take seconds.
    """
    token = WITHOUT_ESTIMATES.set(True)
    try:
        yield
    finally:
        WITHOUT_ESTIMATES.reset(token)


# Marginals


def closed_form_marginals(p: Any) -> Any | None:
    """Return the marginals of a distribution over vectors, or None if they are not known in closed form.

    Args:
        p: Distribution with batch shape `(...)` and event shape `(d,)`. Its method `marginals()`, if it has one,
            returns them, or None.

    Returns:
        Distribution of numbers with batch shape `(..., d)`, or None.
    """
    if hasattr(p, "marginals"):
        return p.marginals()
    if isinstance(p, Independent) and p.reinterpreted_batch_ndims == 1:
        return p.base_dist
    if isinstance(p, MultivariateNormal):
        return Normal(p.loc, p.variance.sqrt())
    if isinstance(p, MixtureSameFamily):
        parts = closed_form_marginals(p.component_distribution)
        if isinstance(parts, Normal):
            loc, scale = parts.loc.transpose(-1, -2), parts.scale.transpose(-1, -2)  # (..., d, C)
            logits = p.mixture_distribution.logits.unsqueeze(-2).expand(loc.shape)
            return MixtureSameFamily(Categorical(logits=logits), Normal(loc, scale))
    return None


def prior_marginals(p: Any) -> Marginals:
    """Return the marginals of a prior: in closed form if it is known, else estimated from samples."""
    known = closed_form_marginals(p)
    return estimated_marginals(p) if known is None else known


@torch.no_grad()
def prior_samples(p: Any, n: int = SAMPLES) -> Tensor:
    """Return n samples of a prior `(n, d)`, always with the same noise."""
    with fixed_noise():
        return p.sample((n,))


# Density estimates


class DensityEstimate:
    """Kernel density estimates of numbers, one for each dimension.

    The kernel is Gaussian. The bandwidth of each dimension maximises the likelihood of each sample under the estimate
    from the other samples, which up to a constant is minus the KL divergence from the true density to the estimate.
    A rule of thumb from the standard deviation would blur the modes of a mixture. Where there are no samples a kernel
    density estimate falls to 0 much too fast: one of n + 1 parts of the estimate is therefore the Gaussian with the
    mean and the variance of the samples. The log density is tabulated and interpolated linearly.

    Args:
        samples: `(n, d)`.
    """

    def __init__(self, samples: Tensor):
        # on the CPU, since some devices have no float64
        z = samples.detach().cpu().double().T.contiguous()  # (d, n)
        finite = z.isfinite().all(1, keepdim=True)
        z = torch.where(finite, z, 0.0)
        n = z.shape[1]
        mean, scale = z.mean(1, keepdim=True), z.std(1, keepdim=True).clamp(min=1e-6)
        margin = 4 * WIDEST * scale  # so that the ends do not meet in the circular convolution
        low, high = z.amin(1, keepdim=True) - margin, z.amax(1, keepdim=True) + margin
        step = (high - low) / (GRID - 1)
        grid = low + step * torch.arange(GRID, dtype=z.dtype)  # (d, GRID)
        counts = torch.zeros_like(grid).scatter_add_(1, ((z - low) / step).round().long(), torch.ones_like(z))
        tails = Normal(mean, scale)
        tail_density = tails.log_prob(grid).exp()
        transform = torch.fft.rfft(counts)
        frequency = 2 * math.pi * torch.fft.rfftfreq(GRID, dtype=z.dtype) / step  # (d, GRID / 2 + 1)
        best, table = torch.full_like(scale, -math.inf), torch.empty_like(grid)
        for share in torch.logspace(math.log10(NARROWEST), math.log10(WIDEST), BANDWIDTHS, dtype=z.dtype):
            width = share * scale
            kernels = torch.fft.irfft(transform * torch.exp(-((frequency * width) ** 2) / 2), GRID) / step
            kernels = torch.where(kernels > NEGLIGIBLE * kernels.amax(1, keepdim=True), kernels, 0.0)
            own = 1 / (width * math.sqrt(2 * math.pi))  # the kernel of a sample at this sample
            others = ((kernels - own).clamp(min=0) + tail_density) / n
            score = torch.where(counts > 0, counts * others.log(), 0.0).sum(1, keepdim=True)
            density = ((kernels + tail_density) / (n + 1)).log()
            table = torch.where(score > best, density, table)
            best = torch.maximum(score, best)
        table, mean = torch.where(finite, table, math.nan), torch.where(finite, mean, math.nan)
        self.outside = -math.log(n + 1)  # log weight of the Gaussian
        like = samples[0]
        self.low, self.step = low[:, 0].to(like), step[:, 0].to(like)
        self.tails = Normal(mean[:, 0].to(like), scale[:, 0].to(like))
        self.table = table.to(like)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of each number `(..., d)`, in nats."""
        position = (value - self.low) / self.step
        inside = (position >= 0) & (position <= GRID - 1)
        return torch.where(inside, interpolated(self.table, position), self.outside + self.tails.log_prob(value))


def interpolated(table: Tensor, position: Tensor) -> Tensor:
    """Return the values of a table `(d, n)` at positions `(..., d)` from 0 to n - 1, interpolated linearly."""
    left = position.nan_to_num(0).clamp(0, table.shape[1] - 2).long()  # (..., d)
    rows = torch.arange(len(table), device=table.device)
    return torch.lerp(table[rows, left], table[rows, left + 1], position - left)


CACHE: dict[tuple, DensityEstimate] = {}


@torch.no_grad()
def estimated_marginals(p: Any) -> DensityEstimate:
    """Return density estimates of the single dimensions of a distribution over vectors `(d,)`, from its samples.

    A normalizing flow may sample slowly. Therefore an estimate is reused as long as the density at fixed points has the
    same bits: statistics over many batches need a single estimate.
    """
    with fixed_noise():
        first = p.sample((1,))
        log_p = p.log_prob(torch.randn(PROBES, first.shape[-1]).to(first))
    key = (str(first.device), *first[0].tolist(), *log_p.tolist())  # NaN is never equal
    if key not in CACHE:
        while len(CACHE) >= MAX_CACHED:
            del CACHE[next(iter(CACHE))]
        CACHE[key] = DensityEstimate(prior_samples(p, DENSITY_SAMPLES))
    return CACHE[key]


def marginal_log_prob(p: Any, z: Tensor) -> Tensor:
    """Return log p(z_d) of each latent dimension `(..., d)`, in nats, from the marginals of a prior.

    Of many values a density of batch shape `(d,)` is tabulated between the smallest and the largest, and interpolated:
    a mixture may have hundreds of components, and the error is far below that of a figure.
    """
    p_d: Any = prior_marginals(p)
    values = z.numel() // z.shape[-1]
    if isinstance(p_d, DensityEstimate | Normal) or p_d.batch_shape != z.shape[-1:] or values <= TABLE:
        return p_d.log_prob(z)
    flat = z.flatten(0, -2)
    low, high = flat.amin(0), flat.amax(0)
    step = ((high - low) / (TABLE - 1)).clamp(min=torch.finfo(z.dtype).tiny)
    grid = low + step * torch.arange(TABLE, device=z.device, dtype=z.dtype)[:, None]  # (TABLE, d)
    table = torch.cat([p_d.log_prob(part) for part in grid.split(ROWS)])
    return interpolated(table.T, (z - low) / step)


# Posteriors


def posterior_samples(q: Any, n: int = POSTERIOR_SAMPLES) -> Tensor:
    """Return n samples of q(z|x) per image `(n, B, d)`, always with the same noise."""
    with fixed_noise():
        return torch.cat([q.sample((min(SAMPLES_PER_PASS, n - start),)) for start in range(0, n, SAMPLES_PER_PASS)])


def entropy_from_samples(z: Tensor) -> Tensor:
    """Return the differential entropy of each dimension, in nats, from samples `(n, ..., d)`: `(..., d)`.

    It is the m-spacing estimate (Vasicek 1976), corrected by a constant so that it is exact in expectation for a
    Gaussian.
    """
    return spacing_entropy(z) - spacing_bias(len(z))


def spacing_entropy(z: Tensor) -> Tensor:
    """Return the mean log gap between sorted samples `(n, ..., d)` that are m ranks apart, plus log n: `(..., d)`."""
    ordered = z.sort(0).values
    gaps = ordered[SPACING:] - ordered[:-SPACING]
    rounding = torch.finfo(z.dtype).eps * ordered.abs().amax(0)  # equal samples would have a logarithm of -inf
    return torch.maximum(gaps, rounding).log().mean(0) + math.log(len(z))


@cache
def spacing_bias(n: int) -> float:
    """Return the mean of `spacing_entropy` of n samples of N(0, 1), minus their entropy."""
    z = torch.randn(n, 4000, generator=torch.Generator().manual_seed(SEED))
    return spacing_entropy(z).mean().item() - 0.5 * math.log(2 * math.pi * math.e)
