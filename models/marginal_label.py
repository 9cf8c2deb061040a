"""The part that M2, M1M2, ADGM and SDGM share: an unknown label that is summed out of the likelihood."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from models.latent_variable import LatentVariableModel


class MarginalLabel(LatentVariableModel):
    """A model with p(x|z) = sum_y p(y) p(x|y,z), where p(y) is uniform.

    A subclass defines `px_classes(z)`, and `ais_prior` if the latents that it takes have another prior than `prior`.
    """

    required_methods = ("px_classes",)

    def px_classes(self, z: Tensor) -> Distribution:
        """Return p(x|y,z) of every class for latents `(..., B, d)`, batch shape `(..., C, B)`."""
        raise NotImplementedError

    def log_py(self) -> float:
        """Return log p(y), uniform over classes."""
        return -math.log(self.hparams.num_classes)

    def log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) for latents `(..., B, d)`, with the label summed out: `(..., B)`."""
        return self.px_classes(z).log_prob(x).logsumexp(-2) + self.log_py()

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return an image x ~ p(x|y,z) with y ~ p(y) for each of the latents `(B, d)`."""
        x = self.px_classes(z).sample()  # (C, B, ...)
        drawn = torch.randint(len(x), (len(z),), device=z.device)
        return x[drawn, torch.arange(len(z), device=z.device)]
