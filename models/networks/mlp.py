"""Fully connected encoder and decoder."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.layers import ImageShape, Link, Network, he

SMALL_OUTPUT = 0.1  # factor of the output weights of a decoder: codes of an untrained model barely change the image


class MLPEncoder(Network):
    """Fully connected, on flattened pixels; `hidden` are widths from the image to the code."""

    default_hidden = (400, 400)
    init_weights = staticmethod(he)  # network, output layer, activation; for init=default

    def __init__(
        self,
        image_shape: ImageShape,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        first: Any  # nn.Linear
        first, *rest = self.new_layers([prod(image_shape), *hidden, out_dim], activation, batch_norm)
        super().__init__(nn.Sequential(nn.Flatten(), first), nn.Sequential(*rest), first.out_features, 1, context_dim)

    def initialise(self, activation: str) -> None:
        self.init_weights(self, self.output, activation)


class MLPDecoder(Network):
    """Fully connected, one logit per pixel; `hidden` are widths from the code to the image."""

    default_hidden = (400, 400)
    init_weights = staticmethod(he)  # network, output layer, activation; for init=default

    def __init__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        first: Any  # nn.Linear
        first, *rest = self.new_layers([in_dim, *hidden, prod(image_shape)], activation, batch_norm)
        to_image = nn.Unflatten(1, tuple(image_shape))
        super().__init__(first, nn.Sequential(*rest, to_image), first.out_features, 1, context_dim)

    @torch.no_grad()
    def initialise(self, activation: str) -> None:
        self.init_weights(self, self.output, activation)
        self.output.weight.mul_(SMALL_OUTPUT)

    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        """Set the output bias to `link(mean)`, for the mean image `(C, H, W)`."""
        self.output.bias.copy_(link(mean).flatten())
