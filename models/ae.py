"""The deterministic autoencoder."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.distributions import at_least_float32
from models.encoder_decoder import EncoderDecoder
from models.interpolation import interpolate_latents
from models.networks.layers import ImageShape, lookup


def squared_error(logits: Tensor, x: Tensor) -> Tensor:
    """Return (sigmoid(logits) - x)^2 of each pixel."""
    return (logits.sigmoid() - x).square()


CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_error,
    "bce": partial(binary_cross_entropy_with_logits, reduction="none"),
}


class AE(EncoderDecoder):
    """Autoencoder: a code z = f(x) and a reconstruction sigmoid(g(z)), without a likelihood.

    Args:
        image_shape: Channels, height and width; from the data.
        criterion: Squared error (mse) or cross-entropy (bce), summed over pixels.
    """

    metric_names = ("loss", "bound")
    quantity = None

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        criterion: Literal["mse", "bce"] = "bce",
        **kwargs,
    ):
        super().__init__(image_shape, **kwargs)
        lookup(CRITERIA, criterion, "criterion")
        self.encoder = self.new_encoder(self.latent_dim)
        self.decoder = self.new_decoder(self.latent_dim)

    @property
    def criterion(self) -> str:
        return self.hparams.criterion

    def error(self, x: Tensor) -> Tensor:
        """Return the squared error or cross-entropy of each image, summed over pixels: `(B,)`."""
        return CRITERIA[self.hparams.criterion](at_least_float32(self.decoder(self.encoder(x))), x).flatten(1).sum(1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.error(x).mean()

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = self.error(x)
        return {"loss": error, "bound": -error}

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the code `(B, z_dim)`."""
        return self.encoder(self.as_images(x))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return images in [0, 1], `(..., z_dim) -> (..., C, H, W)`."""
        return self.decoder(self.as_latents(z)).sigmoid()

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return decode(encode(x)), `(B, C, H, W)`."""
        return self.decode(self.encode(x))

    def interpolate(self, x0: Tensor, x1: Tensor, n: int = 10, path: str = "linear") -> Tensor:
        """Return `n` decoded steps between the codes of two batches: `(n, B, C, H, W)`; path: linear or spherical."""
        return self.decode(interpolate_latents(self.encode(x0), self.encode(x1), n, path))
