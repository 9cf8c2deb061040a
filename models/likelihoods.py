"""Observation models p(x|z) of pixels, and the protocols of the data that each of them is defined for.

To add one, derive a class from `PixelLikelihood` and add it to `LIKELIHOODS`.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from models.arguments import check_binary, check_levels
from models.distributions import (
    SCALE_LIMIT,
    at_least_float32,
    bernoulli_image,
    inverse_soft_clip,
    normal_image,
    soft_clip,
)
from models.distributions.continuous_bernoulli import AccurateContinuousBernoulli, logits_of
from models.distributions.discretized_logistic import DiscretizedLogistic
from models.networks.layers import lookup

DEFAULT_SCALE = 0.5  # the largest deviation that values in [0, 1] can have
LEAST_START = 0.01  # of a learned scale; also for images that are all the same
# Options of all likelihoods with their defaults; `PixelLikelihood.options` says which of them a likelihood has
OPTION_DEFAULTS: dict[str, Any] = {
    "scale": DEFAULT_SCALE,
    "learn_scale": False,
    "logistic_scale": None,
    "logistic_components": None,
}
LogisticScale = Literal["per_image", "shared"] | float | None  # type of the option logistic_scale
LOGISTIC_LIMIT = 8.0  # bounds the scale of a logistic to [e^-8, e^8]; e^-8 is a twelfth of a grey level
INITIAL_LOGISTIC_SCALE = 0.05  # of scales that are learned
DEFAULT_COMPONENTS = 5
COMPONENT_SPREAD = 0.5  # initial logits of the means of a mixture lie within this distance of the mean image's
PIXEL_TENSORS = 6  # see `PixelLikelihood.pixel_tensors`
FITTED_SCALES = 40  # scales that are tried for a model without latents, from 0.001 to 1


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

    @property
    def pixel_tensors(self) -> int:
        """Number of tensors of the size of the images that `log_prob` keeps at the same time, at most."""
        return PIXEL_TENSORS

    def forward(self, outputs: Tensor) -> Independent:
        """Return p(x|z), batch shape `(...)`, from the outputs `(..., output_channels, H, W)` of a decoder."""
        raise NotImplementedError

    def link(self, mean: Tensor) -> Tensor:
        """Return outputs of the decoder for which p(x|z) has this mean: `(C, ...) -> (output_channels, ...)`.

        They are the values that training starts from. The mean lies between 0 and 1. Likelihoods of grey levels match
        the mean before clipping to [0, 1], which is slightly different close to 0 and 1.
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

    @property
    def has_learned_scale(self) -> bool:
        """Whether all pixels share a Gaussian scale that is a parameter."""
        return False

    def start_at_deviation(self, deviation: float) -> None:
        """Set where a learned scale starts. It is called before training if `has_learned_scale`.

        Args:
            deviation: Standard deviation of the training pixels around the mean training image.
        """

    def check_pixels(self, x: Tensor, model: str) -> None:
        """Raise ValueError if this likelihood is not defined for pixel values of images `(B, C, H, W)`.

        Args:
            x: Images with values in [0, 1].
            model: Name of the model, for the message.
        """

    @classmethod
    def check_protocol(cls, protocol: str) -> None:
        """Raise ValueError if this likelihood is not defined for this protocol of the data."""
        if protocol in cls.protocols:
            return
        binarizations = " or ".join(name for name in cls.protocols if name != "larochelle")
        others = " or ".join(name for name, other in LIKELIHOODS.items() if protocol in other.protocols)
        # images of protocol larochelle are stored binarized, without an option of the data set
        remedy = (
            "choose data with grey values" if protocol == "larochelle" else f"use --data.binarization {binarizations}"
        )
        raise ValueError(
            f"A {cls.name} likelihood is not defined for the protocol {protocol}: {remedy}, or "
            f"--model.likelihood {others}."
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
        scale: The standard deviation, or the largest initial value if it is learned.
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
        return isinstance(self.raw_scale, nn.Parameter)

    @torch.no_grad()
    def start_at_deviation(self, deviation: float) -> None:
        """Lower the scale to this deviation, where the mean image has its highest likelihood. A smaller scale stays.

        Adam changes the logarithm of the scale by one learning rate per step: from 0.5 it would take some 2000 steps.
        """
        start = max(deviation, LEAST_START)
        if start < self.sigma:
            self.raw_scale.fill_(inverse_soft_clip(math.log(start), SCALE_LIMIT))

    @property
    def sigma(self) -> float:
        return soft_clip(self.raw_scale.detach(), SCALE_LIMIT).exp().item()

    def without_latents(self, mean: Tensor, x: Tensor) -> Independent:
        if not self.has_learned_scale:
            return super().without_latents(mean, x)
        return Independent(Normal(mean, (x - mean).square().mean().sqrt().clamp(min=1e-3)), 3)


class ContinuousBernoulliLikelihood(PixelLikelihood):
    """Continuous Bernoulli pixels (Loaiza-Ganem & Cunningham 2019), with the outputs of the decoder as logits."""

    name = "continuous_bernoulli"
    protocols = ("grey",)

    def forward(self, outputs: Tensor) -> Independent:
        return Independent(AccurateContinuousBernoulli(logits=at_least_float32(outputs)), 3)

    def link(self, mean: Tensor) -> Tensor:
        return logits_of(mean)


def fitted_log_scale(mean: Tensor, x: Tensor) -> Tensor:
    """Return the log scale of independent discretized logistic pixels with this mean, fitted to images `(N, C, H, W)`.

    It maximizes the likelihood over a grid of scales.
    """
    candidates = torch.logspace(-3, 0, FITTED_SCALES, device=x.device).log()
    log_px = [DiscretizedLogistic(mean, log_scale).log_prob(x).mean() for log_scale in candidates]
    return candidates[torch.stack(log_px).argmax()]


class DiscretizedLogisticLikelihood(PixelLikelihood):
    """Grey levels from a discretized logistic distribution (Kingma et al. 2016).

    The outputs of the decoder are the logits of the means. With one scale per image there is one more channel, whose
    mean over the pixels is the logarithm of the scale before clipping.

    Args:
        channels: Channels of the images.
        logistic_scale: per_image (the default) or shared, which are learned, or the scale in units of pixels.
    """

    name = "discretized_logistic"
    protocols = ("levels",)
    options = ("logistic_scale",)

    raw_scale: Tensor  # only for a scale that all images share

    def __init__(self, channels: int, logistic_scale: LogisticScale = None):
        super().__init__(channels)
        self.scale_is_per_image = logistic_scale in (None, "per_image")
        self.scale_is_learned = isinstance(logistic_scale, str | None)
        if isinstance(logistic_scale, str) and logistic_scale not in ("per_image", "shared"):
            raise ValueError(f"logistic_scale must be per_image, shared or a number; got {logistic_scale}.")
        scale = INITIAL_LOGISTIC_SCALE if self.scale_is_learned else float(logistic_scale)  # type: ignore[arg-type]
        if not 0.001 <= scale <= 1000:
            raise ValueError(f"logistic_scale must be between 0.001 (a quarter of a grey level) and 1000; got {scale}.")
        if not self.scale_is_per_image:
            raw_scale = torch.tensor(inverse_soft_clip(math.log(scale), LOGISTIC_LIMIT))
            self.raw_scale = nn.Parameter(raw_scale) if self.scale_is_learned else nn.Buffer(raw_scale)

    @property
    def output_channels(self) -> int:
        return self.channels + self.scale_is_per_image

    @property
    def pixel_tensors(self) -> int:
        return 2 * PIXEL_TENSORS

    def forward(self, outputs: Tensor) -> Independent:
        outputs = at_least_float32(outputs)
        logits = outputs[..., : self.channels, :, :]
        if self.scale_is_per_image:
            raw_scale = outputs[..., self.channels :, :, :].mean((-1, -2), keepdim=True)  # (..., 1, 1, 1)
        else:
            raw_scale = self.raw_scale
        return Independent(DiscretizedLogistic(logits.sigmoid(), soft_clip(raw_scale, LOGISTIC_LIMIT)), 3)

    def link(self, mean: Tensor) -> Tensor:
        logits = mean.logit()
        if not self.scale_is_per_image:
            return logits
        raw_scale = inverse_soft_clip(math.log(INITIAL_LOGISTIC_SCALE), LOGISTIC_LIMIT)
        return torch.cat([logits, torch.full_like(logits[:1], raw_scale)])

    def without_latents(self, mean: Tensor, x: Tensor) -> Independent:
        if not self.scale_is_learned:
            return super().without_latents(mean, x)
        return Independent(DiscretizedLogistic(mean, fitted_log_scale(mean, x)), 3)

    def check_pixels(self, x: Tensor, model: str) -> None:
        check_levels(x, model)


class DiscretizedLogisticMixture(PixelLikelihood):
    """Grey levels from a mixture of discretized logistic distributions (Salimans et al. 2017), one for each pixel.

    Channels are independent. The outputs of the decoder are, for each channel and component, the logit of the weight,
    the logit of the mean, and the logarithm of the scale before clipping.

    Args:
        channels: Channels of the images.
        logistic_components: Number of components, 5 by default.
    """

    name = "discretized_logistic_mixture"
    protocols = ("levels",)
    options = ("logistic_components",)

    def __init__(self, channels: int, logistic_components: int | None = None):
        super().__init__(channels)
        self.components = DEFAULT_COMPONENTS if logistic_components is None else logistic_components
        if self.components < 2:
            raise ValueError(f"logistic_components must be at least 2; got {self.components}.")

    @property
    def output_channels(self) -> int:
        return 3 * self.components * self.channels

    @property
    def pixel_tensors(self) -> int:
        return 2 * PIXEL_TENSORS * self.components

    def forward(self, outputs: Tensor) -> Independent:
        parameters = at_least_float32(outputs).unflatten(-3, (3, self.components, self.channels))
        weights, logits, raw_scale = parameters.movedim(-4, -1).unbind(-5)  # each (..., C, H, W, components)
        components = DiscretizedLogistic(logits.sigmoid(), soft_clip(raw_scale, LOGISTIC_LIMIT))
        return Independent(MixtureSameFamily(Categorical(logits=weights), components), 3)

    def link(self, mean: Tensor) -> Tensor:
        logits = mean.logit()  # (C, ...)
        offsets = torch.linspace(-COMPONENT_SPREAD, COMPONENT_SPREAD, self.components).to(logits)
        raw_scale = inverse_soft_clip(math.log(INITIAL_LOGISTIC_SCALE), LOGISTIC_LIMIT)
        means = torch.cat([logits + offset for offset in offsets])
        return torch.cat([torch.zeros_like(means), means, torch.full_like(means, raw_scale)])

    def without_latents(self, mean: Tensor, x: Tensor) -> Independent:
        return Independent(DiscretizedLogistic(mean, fitted_log_scale(mean, x)), 3)

    def check_pixels(self, x: Tensor, model: str) -> None:
        check_levels(x, model)


LIKELIHOODS: dict[str, type[PixelLikelihood]] = {
    likelihood.name: likelihood
    for likelihood in (
        BernoulliLikelihood,
        GaussianLikelihood,
        ContinuousBernoulliLikelihood,
        DiscretizedLogisticLikelihood,
        DiscretizedLogisticMixture,
    )
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
