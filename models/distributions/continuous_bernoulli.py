"""The continuous Bernoulli distribution (Loaiza-Ganem & Cunningham 2019), accurate for all logits."""

import torch
from torch import Tensor
from torch.distributions import ContinuousBernoulli

SMALL = 1.0  # logits below which series replace differences of nearly equal numbers


def log_sinhc(y: Tensor) -> Tensor:
    """Return log(sinh(y) / y) for |y| up to 1/2, by its Taylor series."""
    y2 = y * y
    return y2 * (1 / 6 - y2 * (1 / 180 - y2 * (1 / 2835 - y2 / 37800)))


def log_normaliser(logits: Tensor) -> Tensor:
    """Return log C for logits l, where C = l / tanh(l / 2), and 2 at l = 0 (eq. 8).

    The density is C times the Bernoulli probability. torch.distributions computes C from probabilities, which round to
    0 or 1 in float32 for logits beyond 16.
    """
    size = logits.abs()
    is_small = size < SMALL
    small, large = torch.where(is_small, size, 0.0), torch.where(is_small, SMALL, size)
    ratio = torch.where(
        is_small,
        small / 2 - log_sinhc(small / 2),
        large.log() - torch.log(-torch.expm1(-large)),
    )  # log(|l| / (1 - exp(-|l|)))
    return ratio + torch.log1p(torch.exp(-size))


def mean_of(logits: Tensor) -> Tensor:
    """Return the mean of the density, 1/2 + (coth(l/2) - 2/l) / 2 for logits l."""
    y = logits / 2
    is_small = y.abs() < SMALL / 2
    small, large = torch.where(is_small, y, 0.0), torch.where(is_small, 1.0, y)
    series = small * (1 / 3 - small.square() * (1 / 45 - small.square() * (2 / 945 - small.square() / 4725)))
    return 0.5 + 0.5 * torch.where(is_small, series, 1 / torch.tanh(large) - 1 / large)


def logits_of(mean: Tensor) -> Tensor:
    """Return the logits for which the density has these means, by bisection in float64.

    Means are clipped to [1/512, 511/512], the means of a dequantised black and white pixel.
    """
    target = mean.double().clamp(1 / 512, 511 / 512)
    low, high = torch.full_like(target, -1024.0), torch.full_like(target, 1024.0)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = mean_of(middle) < target
        low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
    return ((low + high) / 2).to(mean.dtype)


class AccurateContinuousBernoulli(ContinuousBernoulli):
    """Continuous Bernoulli pixels in [0, 1] with the given logits, whose normaliser, mean and samples are accurate."""

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(AccurateContinuousBernoulli, _instance))

    def _cont_bern_log_norm(self) -> Tensor:
        return log_normaliser(self.logits)

    @property
    def mean(self) -> Tensor:
        return mean_of(self.logits)

    @property
    def variance(self) -> Tensor:
        raise NotImplementedError

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile x with P(pixel < x) = value."""
        size = self.logits.abs().clamp(min=1e-6)
        # -log(1 - p (1 - exp(-|l|))) / |l| is the quantile p of the density that decreases, for logits -|l|
        p = torch.where(self.logits > 0, 1 - value, value)
        quantile = -torch.log1p(p * torch.expm1(-size)) / size
        return torch.where(self.logits > 0, 1 - quantile, quantile).clamp(0, 1)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        return self.rsample(sample_shape)

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))
