"""What models share that sum a label out of their likelihood."""

import math

import torch
from torch import Tensor
from torch.distributions import Independent


class MarginalLabel:
    """p(x|z) = sum_y p(y) p(x|y,z) with p(y) uniform, for annealed importance sampling.

    A subclass defines `px_classes(z)`, p(x|y,z) of every class for latents `(..., B, d)`, with batch shape
    `(..., C, B)`; and `ais_prior()`, if that is not its `prior()`.
    """

    def log_py(self) -> float:
        """log p(y), uniform over classes."""
        return -math.log(self.hparams.num_classes)

    def ais_prior(self) -> Independent:
        """The distribution of all latents but the label."""
        return self.prior()

    def ais_log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x|z) for latents `(..., B, d)`, the label summed out: `(..., B)`."""
        return self.px_classes(z).log_prob(x).logsumexp(-2) + self.log_py()

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """An image x ~ p(x|y,z) with y ~ p(y) for each of the latents `(B, d)`."""
        x = self.px_classes(z).sample()  # (C, B, ...)
        drawn = torch.randint(len(x), (len(z),), device=z.device)
        return x[drawn, torch.arange(len(z), device=z.device)]
