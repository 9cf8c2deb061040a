"""p(x|z): which distribution a decoder's output stands for, and which data it is a likelihood of."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from models.distributions import SCALE_LIMIT, bernoulli_image, inverse_soft_clip, normal_image
from models.networks.layers import lookup

DEFAULT_SCALE = 0.5
# The data that each likelihood is a probability (bernoulli) or a density (gaussian) of
PROTOCOLS_OF = {"bernoulli": ("dynamic", "fixed", "threshold", "larochelle"), "gaussian": ("grey",)}


class PixelLikelihood(nn.Module):
    """Bernoulli pixels, or Gaussian ones with one scale for all of them.

    Args:
        likelihood: bernoulli or gaussian.
        scale: Standard deviation of a gaussian likelihood; where it starts if it is learned.
        learn_scale: Whether the scale is a parameter.
    """

    def __init__(self, likelihood: str, scale: float, learn_scale: bool):
        super().__init__()
        lookup(PROTOCOLS_OF, likelihood, "likelihood")
        if not 1 / 256 < scale < 256:
            raise ValueError(f"scale must lie between 1/256, one grey level, and 256; got {scale}.")
        if likelihood != "gaussian" and (scale != DEFAULT_SCALE or learn_scale):
            raise ValueError("scale and learn_scale belong to likelihood gaussian: leave them out with bernoulli.")
        self.likelihood = likelihood
        if likelihood == "gaussian":
            raw_scale = torch.tensor(inverse_soft_clip(math.log(scale), SCALE_LIMIT))
            self.raw_scale = nn.Parameter(raw_scale) if learn_scale else nn.Buffer(raw_scale)

    def forward(self, logits: Tensor) -> Independent:
        """p(x|z) from the output `(..., C, H, W)` of a decoder, batch shape `(...)`."""
        return bernoulli_image(logits) if self.likelihood == "bernoulli" else normal_image(logits, self.raw_scale)

    @property
    def has_learned_scale(self) -> bool:
        """Whether the scale of a gaussian likelihood is a parameter."""
        return self.likelihood == "gaussian" and isinstance(self.raw_scale, nn.Parameter)

    @property
    def is_of_binary_pixels(self) -> bool:
        """Whether it is a probability of pixels that are 0 or 1 alone."""
        return self.likelihood == "bernoulli"

    def check_protocol(self, protocol: str) -> None:
        """ValueError where images of this protocol have no probability under this likelihood."""
        if protocol in PROTOCOLS_OF[self.likelihood]:
            return
        other = "gaussian" if self.likelihood == "bernoulli" else "bernoulli"
        binarizations = " or ".join(name for name in PROTOCOLS_OF[self.likelihood] if name != "larochelle")
        raise ValueError(
            f"A {self.likelihood} likelihood gives {protocol} images no probability: use --data.binarization "
            f"{binarizations}, or --model.likelihood {other}."
        )
