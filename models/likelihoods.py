"""Observation models p(x|z) of pixels, and the protocols of the data that each of them is defined for.

To add one, derive a class from `PixelLikelihood` and add it to `LIKELIHOODS`.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from models.distributions import SCALE_LIMIT, bernoulli_image, inverse_soft_clip, normal_image, soft_clip
from models.inputs import check_binary
from models.networks.layers import lookup

DEFAULT_SCALE = 0.5
# Options of all likelihoods with their defaults; `PixelLikelihood.options` says which of them a likelihood has
OPTION_DEFAULTS: dict[str, Any] = {"scale": DEFAULT_SCALE, "learn_scale": False}


class PixelLikelihood(nn.Module):
    """Base class of likelihoods: p(x|z) of independent pixels, whose parameters are the outputs of a decoder.

    A subclass defines `name`, `protocols`, `forward`, and what differs from the defaults here. Its constructor takes
    the number of channels of the images, and the options that it lists in `options`.

    Args:
        channels: Channels of the images.
    """

    name: ClassVar[str]  # key in the registry
    protocols: ClassVar[tuple[str, ...]]  # of the data; the first is the default of --data.binarization
    options: ClassVar[tuple[str, ...]] = ()  # keys of `OPTION_DEFAULTS`

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    @property
    def output_channels(self) -> int:
        """Number of channels of the decoder's output."""
        return self.channels

    def forward(self, outputs: Tensor) -> Independent:
        """Return p(x|z), batch shape `(...)`, from the outputs `(..., output_channels, H, W)` of a decoder."""
        raise NotImplementedError

    def link(self, mean: Tensor) -> Tensor:
        """Return outputs of the decoder for which p(x|z) has this mean: `(C, ...) -> (output_channels, ...)`.

        They are the values that training starts from. The mean lies between 0 and 1.
        """
        return mean.logit()

    def without_latents(self, mean: Tensor, x: Tensor) -> Independent:
        """Return p(x) of a model without latents: independent pixels at the mean of the training images.

        Args:
            mean: Mean training image `(C, H, W)`.
            x: Training images `(N, C, H, W)`, to which learned parameters other than the mean are fitted.
        """
        return self(self.link(mean))

    @property
    def sigma(self) -> float | None:
        """Standard deviation of Gaussian pixels; None for other likelihoods."""
        return None

    def check_pixels(self, x: Tensor, model: str) -> None:
        """Raise ValueError if this likelihood is not defined for pixel values of images `(B, C, H, W)`.

        Args:
            x: Images with values in [0, 1].
            model: Name of the model, for the message.
        """

    @classmethod
    def check_protocol(cls, protocol: str) -> None:
        """Raise ValueError if this likelihood is not defined for images of this protocol."""
        if protocol in cls.protocols:
            return
        binarizations = " or ".join(name for name in cls.protocols if name != "larochelle")
        others = " or ".join(name for name, other in LIKELIHOODS.items() if protocol in other.protocols)
        raise ValueError(
            f"A {cls.name} likelihood is not defined for {protocol} images: use --data.binarization "
            f"{binarizations}, or --model.likelihood {others}."
        )


class BernoulliLikelihood(PixelLikelihood):
    """Bernoulli pixels; the outputs of the decoder are their logits."""

    name = "bernoulli"
    protocols = ("dynamic", "fixed", "threshold", "larochelle")

    def forward(self, outputs: Tensor) -> Independent:
        return bernoulli_image(outputs)

    def check_pixels(self, x: Tensor, model: str) -> None:
        check_binary(x, model)


class GaussianLikelihood(PixelLikelihood):
    """Gaussian pixels that share one standard deviation; the outputs of the decoder are the logits of their means.

    Args:
        channels: Channels of the images.
        scale: The standard deviation, or its initial value if it is learned.
        learn_scale: Whether the scale is a parameter.
    """

    name = "gaussian"
    protocols = ("grey",)
    options = ("scale", "learn_scale")

    raw_scale: Tensor

    def __init__(self, channels: int, scale: float, learn_scale: bool):
        super().__init__(channels)
        if not 1 / 256 < scale < 256:
            raise ValueError(f"scale must be between 1/256 (one grey level) and 256; got {scale}.")
        raw_scale = torch.tensor(inverse_soft_clip(math.log(scale), SCALE_LIMIT))
        self.raw_scale = nn.Parameter(raw_scale) if learn_scale else nn.Buffer(raw_scale)

    def forward(self, outputs: Tensor) -> Independent:
        return normal_image(outputs, self.raw_scale)

    @property
    def has_learned_scale(self) -> bool:
        """Whether the scale is a parameter."""
        return isinstance(self.raw_scale, nn.Parameter)

    @property
    def sigma(self) -> float:
        return soft_clip(self.raw_scale.detach(), SCALE_LIMIT).exp().item()

    def without_latents(self, mean: Tensor, x: Tensor) -> Independent:
        if not self.has_learned_scale:
            return super().without_latents(mean, x)
        return Independent(Normal(mean, (x - mean).square().mean().sqrt().clamp(min=1e-3)), 3)


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    likelihood.name: likelihood for likelihood in (BernoulliLikelihood, GaussianLikelihood)
}
# Type of the option --model.likelihood
if TYPE_CHECKING:
    LikelihoodName = str
else:
    LikelihoodName = Literal[tuple(LIKELIHOODS)]


def make_likelihood(name: str, image_shape: tuple[int, ...], **options: Any) -> PixelLikelihood:
    """Return the likelihood called `name` for images of shape `(C, H, W)`.

    Args:
        name: Key of `LIKELIHOODS`.
        image_shape: Channels, height and width.
        options: A value for each of `OPTION_DEFAULTS`.

    Raises:
        ValueError: If an option is out of range, or has no effect on this likelihood.
    """
    chosen = lookup(LIKELIHOODS, name, "likelihood")
    for owner in LIKELIHOODS.values():
        unused = [option for option in owner.options if option not in chosen.options]
        if any(options[option] != OPTION_DEFAULTS[option] for option in unused):
            verb, pronoun = ("is", "it") if len(unused) == 1 else ("are", "them")
            raise ValueError(
                f"{' and '.join(unused)} {verb} only for likelihood {owner.name}: remove {pronoun} for {name}."
            )
    return chosen(image_shape[0], **{option: options[option] for option in chosen.options})
