"""Convolutional encoder and decoder of DCGAN (Radford et al. 2016)."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from models.networks.conv import halved
from models.networks.layers import ACTIVATIONS, LAYERS, ImageShape, Network

KERNEL = 5  # as in the code of the paper; with stride 2 and padding 2 it covers images of any size
WEIGHT_SCALE = 0.02  # standard deviation of the initial weights


def dcgan_init(network: nn.Module) -> None:
    """Initialise weights from N(0, 0.02^2), scales of batch norm from N(1, 0.02^2), and biases at 0."""
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.normal_(module.weight, std=WEIGHT_SCALE)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, WEIGHT_SCALE)


class DCGANEncoder(Network):
    """5x5 convolutions of stride 2, then one linear layer; `hidden` are channels from the image to the code.

    The first layer has no batch norm, so that a discriminator sees the statistics of its images.
    """

    default_hidden = (64, 128)

    def __init__(
        self,
        image_shape: ImageShape,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        if not hidden:
            raise ValueError("The dcgan encoder needs at least one entry in hidden, for example [64, 128].")
        layers: list[nn.Module] = []
        for layer, (n_in, n_out) in enumerate(pairwise([image_shape[0], *hidden])):
            norm = [nn.BatchNorm2d(n_out)] if batch_norm and layer > 0 else []
            convolution = nn.Conv2d(n_in, n_out, KERNEL, stride=2, padding=KERNEL // 2)
            layers += [convolution, *norm, ACTIVATIONS[activation]()]
        pixels = prod(halved(image_shape, len(hidden))[-1])
        first: Any  # nn.Conv2d
        first, *rest = [*layers, nn.Flatten(), nn.Linear(hidden[-1] * pixels, out_dim)]
        super().__init__(first, nn.Sequential(*rest), hidden[0], 3, context_dim)
        dcgan_init(nn.ModuleList([self.first, self.rest]))


class DCGANDecoder(Network):
    """One linear layer, then 5x5 transposed convolutions of stride 2; `hidden` are channels from the code to the image.

    Batch norm, if used, comes before every activation, and not at the output.
    """

    default_hidden = (128, 64)

    def __init__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        if not hidden:
            raise ValueError("The dcgan decoder needs at least one entry in hidden, for example [64, 128].")
        sizes = halved(image_shape, len(hidden))[::-1]  # smallest first
        width = hidden[0] * prod(sizes[0])
        layers: list[nn.Module] = [nn.Unflatten(1, (hidden[0], *sizes[0]))]
        for n_in, n_out, (tall, wide) in zip(hidden, [*hidden[1:], image_shape[0]], sizes[1:], strict=True):
            layers += [*([nn.BatchNorm2d(n_in)] if batch_norm else []), ACTIVATIONS[activation]()]
            # an even size needs one row or column more than the transposed convolution gives by itself
            even = (1 - tall % 2, 1 - wide % 2)
            layers += [nn.ConvTranspose2d(n_in, n_out, KERNEL, stride=2, padding=KERNEL // 2, output_padding=even)]
        super().__init__(nn.Linear(in_dim, width), nn.Sequential(*layers), width, 1, context_dim)
        dcgan_init(nn.ModuleList([self.first, self.rest]))

    def set_output_bias(self, mean: torch.Tensor) -> None:
        """Set the output bias to the logit of the mean over pixels of `mean (C, H, W)`: one bias per channel."""
        self.output.bias.copy_(mean.mean((1, 2)).logit())
