"""Observation models p(x|z), and the binarization protocols that each of them can be trained on."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from models.distributions import SCALE_LIMIT, bernoulli_image, inverse_soft_clip, normal_image
from models.networks.layers import lookup

DEFAULT_SCALE = 0.5
# Protocols of the data that each likelihood is a probability (bernoulli) or a density (gaussian) of
PROTOCOLS_OF = {"bernoulli": ("dynamic", "fixed", "threshold", "larochelle"), "gaussian": ("grey",)}


class PixelLikelihood(nn.Module):
    """Independent Bernoulli pixels, or Gaussian pixels that share one standard deviation.

    Args:
        likelihood: bernoulli or gaussian.
        scale: Standard deviation of a gaussian likelihood, or its initial value if it is learned.
        learn_scale: Whether the scale is a parameter.
    """

    raw_scale: Tensor  # only for gaussian

    def __init__(self, likelihood: str, scale: float, learn_scale: bool):
        super().__init__()
        lookup(PROTOCOLS_OF, likelihood, "likelihood")
        if not 1 / 256 < scale < 256:
            raise ValueError(f"scale must be between 1/256 (one grey level) and 256; got {scale}.")
        if likelihood != "gaussian" and (scale != DEFAULT_SCALE or learn_scale):
            raise ValueError("scale and learn_scale are only for likelihood gaussian: remove them for bernoulli.")
        self.likelihood = likelihood
        if likelihood == "gaussian":
            raw_scale = torch.tensor(inverse_soft_clip(math.log(scale), SCALE_LIMIT))
            self.raw_scale = nn.Parameter(raw_scale) if learn_scale else nn.Buffer(raw_scale)

    def forward(self, logits: Tensor) -> Independent:
        """Return p(x|z), batch shape `(...)`, from the outputs `(..., C, H, W)` of a decoder."""
        return bernoulli_image(logits) if self.likelihood == "bernoulli" else normal_image(logits, self.raw_scale)

    @property
    def has_learned_scale(self) -> bool:
        """Whether the scale of a gaussian likelihood is a parameter."""
        return self.likelihood == "gaussian" and isinstance(self.raw_scale, nn.Parameter)

    @property
    def is_of_binary_pixels(self) -> bool:
        """Whether pixels must be 0 or 1."""
        return self.likelihood == "bernoulli"

    def check_protocol(self, protocol: str) -> None:
        """Raise ValueError if this likelihood is not defined for images of this protocol."""
        if protocol in PROTOCOLS_OF[self.likelihood]:
            return
        other = "gaussian" if self.likelihood == "bernoulli" else "bernoulli"
        binarizations = " or ".join(name for name in PROTOCOLS_OF[self.likelihood] if name != "larochelle")
        raise ValueError(
            f"A {self.likelihood} likelihood is not defined for {protocol} images: use --data.binarization "
            f"{binarizations}, or --model.likelihood {other}."
        )
