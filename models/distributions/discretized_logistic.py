"""The discretized logistic distribution over the 256 grey levels of a pixel (Kingma et al. 2016, section 5)."""

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

MAX_LEVEL = 255
CHUNK = 15  # thresholds per chunk of the mean


class DiscretizedLogistic(Distribution):
    """Grey levels k of pixels x = k / 255: a logistic distribution, rounded to the nearest level.

        P(x = k / 255) = F((k + 1/2) / 255) - F((k - 1/2) / 255),    F(t) = sigmoid((t - mean) / scale)

    where the first level has all of the lower tail and the last level all of the upper one, so that the probabilities
    sum to 1. All values are in units of pixels, which lie in [0, 1].

    With u = (k + 1/2 - 255 mean) / (255 scale), l = u - d and d = 1 / (255 scale), the difference is

        sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(-d))

    whose logarithm is a sum of three terms that are accurate in float32 for all means and scales, in both tails too.

    Args:
        loc: Mean of the logistic distribution.
        log_scale: Logarithm of its scale, which broadcasts with the mean.
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012  # as in torch
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None):
        self.loc, self.log_scale = loc, log_scale
        super().__init__(torch.broadcast_shapes(loc.shape, log_scale.shape), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(DiscretizedLogistic, _instance)
        new.loc, new.log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        super(DiscretizedLogistic, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x) in nats, for values that are multiples of 1/255 up to rounding."""
        # Computed in units of levels: k + 1/2 is exact, so that neighbouring levels share the same threshold.
        k = (value * MAX_LEVEL).round()
        inverse_scale = torch.exp(-self.log_scale) / MAX_LEVEL  # d
        centred = k - MAX_LEVEL * self.loc
        below = logsigmoid((centred + 0.5) * inverse_scale)
        above = logsigmoid((0.5 - centred) * inverse_scale)
        width = torch.log(-torch.expm1(-inverse_scale))
        is_first, is_last = k <= 0, k >= MAX_LEVEL
        middle = (below + above + width).masked_fill(is_first | is_last, 0.0)
        return middle + below.masked_fill(~is_first, 0.0) + above.masked_fill(~is_last, 0.0)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        """Return pixels k / 255, with the same rounding as a uint8 image divided by 255."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        noise = torch.logit(u, torch.finfo(u.dtype).tiny)
        k = (MAX_LEVEL * (self.loc + self.log_scale.exp() * noise)).round().clamp(0, MAX_LEVEL)
        return k / MAX_LEVEL

    @property
    def mean(self) -> Tensor:
        """The exact mean of the discrete distribution: the sum over all thresholds of P(x above it), over 255."""
        inverse_scale = torch.exp(-self.log_scale) / MAX_LEVEL
        thresholds = torch.arange(MAX_LEVEL, dtype=self.loc.dtype, device=self.loc.device) + 0.5
        total = torch.zeros(self.batch_shape, dtype=self.loc.dtype, device=self.loc.device)
        for part in thresholds.split(CHUNK):
            distance = (MAX_LEVEL * self.loc)[..., None] - part
            total = total + (distance * inverse_scale[..., None]).sigmoid().sum(-1)
        return total / MAX_LEVEL
