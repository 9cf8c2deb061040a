"""VAE that separates the content of an image from its pose."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent
from torch.nn.functional import cross_entropy

from models import label_checks
from models.arguments import as_size
from models.base import mean_where
from models.networks.coordinate import CoordinateDecoder
from models.networks.layers import ImageShape
from models.vae import VAE

# Number of latents of each transform
TRANSFORMS: dict[str, int] = {"affine": 6, "rotation": 1, "scale": 1, "shift": 2}


def check_transforms(transforms: Sequence[str], scale: float) -> None:
    """Raise ValueError for unknown transforms, combinations that are not allowed, or a scale out of range."""
    allowed = f"affine, or of {', '.join(name for name in TRANSFORMS if name != 'affine')} one or more"
    if isinstance(transforms, str):
        raise ValueError(f"transforms must be a list, such as [{transforms}]; got '{transforms}'.")
    unknown = [name for name in transforms if name not in TRANSFORMS]
    if not transforms or unknown or len(set(transforms)) < len(transforms):
        raise ValueError(f"transforms must be {allowed}; got {list(transforms)}.")
    if "affine" in transforms and len(transforms) > 1:
        raise ValueError(f"affine holds all other transforms: transforms must be {allowed}; got {list(transforms)}.")
    if not 0 < scale < math.inf:
        raise ValueError(f"transform_scale must be positive and finite; got {scale}.")


def affine_map(p: Tensor, transforms: Sequence[str], scale: float) -> Tensor:
    """Return the affine maps `(..., 2, 3)` of pixel coordinates (x, y, 1) for the latents `p (..., d)`.

    `affine` is I + scale * p as 2x3. Otherwise p holds the parameters of the transforms in the order of `transforms`.
    In any order, the map rotates coordinates by scale * p radians, multiplies them by exp(scale * p), and adds
    scale * p, in half images. Under p ~ N(0, I) the angle and the shift are normal and the factor is log-normal.
    """
    if list(transforms) == ["affine"]:
        return torch.eye(2, 3, device=p.device, dtype=p.dtype) + scale * p.unflatten(-1, (2, 3))
    parts = dict(zip(transforms, (scale * p).split([TRANSFORMS[name] for name in transforms], -1), strict=True))
    zero = torch.zeros_like(p[..., 0])
    angle = parts["rotation"][..., 0] if "rotation" in parts else zero
    factor = parts["scale"][..., 0].exp() if "scale" in parts else zero + 1
    shift = parts["shift"] if "shift" in parts else torch.stack([zero, zero], -1)
    cos, sin = factor * angle.cos(), factor * angle.sin()
    rows = [torch.stack([cos, -sin, shift[..., 0]], -1), torch.stack([sin, cos, shift[..., 1]], -1)]
    return torch.stack(rows, -2)


def inverse(A: Tensor) -> Tensor:
    """Return the inverse of affine maps `(..., 2, 3)`."""
    M = torch.linalg.inv(A[..., :2])
    return torch.cat([M, -M @ A[..., 2:]], -1)


class AffineVAE(VAE):
    """VAE whose latents are a content and an affine map of pixel coordinates.

    After the spatial VAE of Bepler et al. (2019): z = (content, p) with the affine map A = I + s p as 2x3. The mean of
    p(x|z) at pixel (x, y) is the output of the coordinate decoder for the content at A (x, y, 1); with the identity
    instead of A the decoder draws the canonical image. Bounds and likelihoods are those of a VAE. s is the prior scale
    of the map: under the prior N(0, I) angles have a standard deviation of s radians, or of s / sqrt(2) with affine.

    Args:
        image_shape: Channels, height and width; from the data.
        num_classes: Number of labels; from the data.
        z_dim: Dimensions of the latent, those of the map included.
        hidden: Sizes of the encoder's hidden layers: widths of an mlp, by default [400, 400], or of a gated network,
            or channels of a conv, dcgan, resnet or gated_conv.
        transforms: affine (6 latents), or one or more of rotation (1), scale (1) and shift (2).
        transform_scale: s, the scale of the map's latents: angles in radians, shifts in halves of the longer side.
        decoder: Decoder, by its name in the registry; it must draw by coordinates.
        decoder_hidden: Widths of the decoder's hidden layers, from the code to the pixel; its own by default.
        activation: Activation of the hidden layers: relu, tanh, softplus, elu, gelu, silu, leaky_relu or
            leaky_relu_0.2.
        lr: Learning rate of Adam. The coordinate decoder learns faster with a higher one than other networks need.
        beta_warmup: Epochs over which beta grows linearly from 0; 0 (the default) is no warm-up, null is 500
            steps, or a fifth of a shorter run. For objective elbo only.
        label_weight: Weight of the cross-entropy of a linear classifier on the content of images with a label, added to
            the loss, never to a bound; 0 has no classifier.
    """

    data_args = ("image_shape", "num_classes")
    default_limit = 1000  # the decoder runs once per pixel
    has_activation = True  # of the coordinate decoder
    starts_narrow = False  # nor is there a warm-up: the coordinate decoder uses all of z from the start

    decoder: CoordinateDecoder

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int = 0,
        z_dim: int = 16,
        hidden: list[int] | None = None,
        transforms: Sequence[str] = ("affine",),
        transform_scale: float = 0.1,
        decoder: str = "coordinate",
        decoder_hidden: list[int] | None = None,
        activation: str = "gelu",
        lr: float = 2e-3,
        beta_warmup: int | None = 0,
        label_weight: float = 0.0,
        **kwargs,
    ):
        check_transforms(transforms, transform_scale)
        pose_dim = sum(TRANSFORMS[name] for name in transforms)
        if z_dim <= pose_dim:
            raise ValueError(f"The map takes {pose_dim} of the latents: z_dim must be larger; got {z_dim}.")
        if not label_weight >= 0:
            raise ValueError(f"label_weight must not be negative; got {label_weight}.")
        if label_weight and num_classes < 2:
            raise ValueError(
                "label_weight needs labels of two classes or more: choose data that have them, or leave it out."
            )
        if label_weight:
            label_checks.check_number("AffineVAE with label_weight", num_classes)
        super().__init__(
            image_shape,
            z_dim=z_dim,
            hidden=hidden,
            decoder=decoder,
            activation=activation,
            lr=lr,
            beta_warmup=beta_warmup,
            **kwargs,
        )
        if not isinstance(self.decoder, CoordinateDecoder):
            raise ValueError(
                f"AffineVAE needs a decoder that draws by coordinates, and {decoder} does not: choose coordinate."
            )
        if label_weight:
            self.head = nn.Linear(self.code_dim, num_classes)

    def check_data(self, data) -> None:
        super().check_data(data)
        if self.hparams.label_weight:
            label_checks.check_training_images("AffineVAE with label_weight", data)

    @property
    def metric_names(self) -> tuple[str, ...]:  # type: ignore[override]  # a class attribute of other models
        """Names of the metrics of the VAE, and `error` with a classifier."""
        return (*VAE.metric_names, "error") if self.hparams.label_weight else VAE.metric_names

    @property
    def code_dim(self) -> int:
        """Dimensions of the content."""
        return self.hparams.z_dim - sum(TRANSFORMS[name] for name in self.hparams.transforms)

    @property
    def decoder_hidden(self) -> Sequence[int] | None:
        """Sizes of the hidden layers of the decoder, in the order from image to code; None: its own default."""
        return self.hparams.decoder_hidden and self.hparams.decoder_hidden[::-1]

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the content `(..., code_dim)` and the affine map `(..., 2, 3)` of `z (..., z_dim)`."""
        content, p = z.split([self.code_dim, z.shape[-1] - self.code_dim], -1)
        return content, affine_map(p, self.hparams.transforms, self.hparams.transform_scale)

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """Return p(x|z) for `z (..., z_dim)`, batch shape `(...)`."""
        content, A = self.split(z)
        return self.likelihood(self.decoder(content, transform=A))

    def label_loss(self, qz_x: Independent, y: Tensor) -> Tensor:
        """Return the mean cross-entropy of the classifier over images with a label; 0 without any."""
        logits = self.head(qz_x.mean[..., : self.code_dim])
        return mean_where(y >= 0, cross_entropy(logits, y.clamp(min=0), reduction="none"))

    def loss_from_posterior(self, qz_x: Independent, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a VAE, plus that of the classifier if there is one."""
        loss = super().loss_from_posterior(qz_x, x, y)
        return loss + self.hparams.label_weight * self.label_loss(qz_x, y) if self.hparams.label_weight else loss

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        measured = super().validation_metrics(x, y)
        if self.hparams.label_weight:
            measured["error"] = (self.head(self.posterior(x).mean[..., : self.code_dim]).argmax(-1) != y)[y >= 0]
        return measured

    # Uses of a trained model

    @torch.no_grad()
    def render(self, z: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the mean of p(x|z) at any size, by default that of the data: `(..., z_dim) -> (..., C, *size)`."""
        content, A = self.split(self.as_latents(z))
        size = as_size(size, self.decoder.size)
        return self.likelihood(self.decoder(content, transform=A, size=size)).mean

    @torch.no_grad()
    def canonical(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the content of images, drawn without their transform: `(B, C, H, W)`."""
        return self.likelihood(self.decoder(self.content(x), size=as_size(size, self.decoder.size))).mean

    def content(self, x: Tensor) -> Tensor:
        """Return the posterior mean of the content, `(B, code_dim)`."""
        return self.encode(x)[..., : self.code_dim]

    def pose(self, x: Tensor) -> Tensor:
        """Return the pose of images: affine maps `(B, 2, 3)` from canonical to image coordinates.

        It is the inverse of A at the posterior mean. Moving an image by T multiplies its pose by T from the left.
        """
        return inverse(self.split(self.encode(x))[1])
