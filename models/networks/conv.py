"""Convolutional encoder and decoder."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.layers import ACTIVATIONS, ImageShape, Link, Network, glorot


def halved(image_shape: ImageShape, times: int) -> list[tuple[int, int]]:
    """Return heights and widths after 0 ... `times` convolutions of stride 2, each rounding up."""
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class ConvEncoder(Network):
    """3x3 convolutions of stride 2, then one linear layer; `hidden` are channels from the image to the code."""

    name = "conv"
    default_hidden = (32, 64)
    kernel = 3
    first_batch_norm = 0  # the first layer with batch norm, if it is used
    outputs_per_channel = 1  # of a layer before its activation; 2 if the activation is a GLU
    init_weights = staticmethod(glorot)

    @staticmethod
    def new_activation(name: str) -> nn.Module:
        """Return the activation of a hidden layer, called `name` in `ACTIVATIONS`."""
        return ACTIVATIONS[name]()

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
            example = list(self.default_hidden)
            raise ValueError(f"The {self.name} encoder needs at least one entry in hidden, for example {example}.")
        layers: list[nn.Module] = []
        for layer, (n_in, n_out) in enumerate(pairwise([image_shape[0], *hidden])):
            outputs = self.outputs_per_channel * n_out
            norm = [nn.BatchNorm2d(outputs)] if batch_norm and layer >= self.first_batch_norm else []
            convolution = nn.Conv2d(n_in, outputs, self.kernel, stride=2, padding=self.kernel // 2)
            layers += [convolution, *norm, self.new_activation(activation)]
        pixels = prod(halved(image_shape, len(hidden))[-1])
        first: Any  # nn.Conv2d
        first, *rest = [*layers, nn.Flatten(), nn.Linear(hidden[-1] * pixels, out_dim)]
        super().__init__(first, nn.Sequential(*rest), first.out_channels, 3, context_dim)
        self.init_weights(nn.ModuleList([self.first, self.rest]))


class ConvDecoder(Network):
    """One linear layer, then 3x3 transposed convolutions of stride 2; `hidden`: channels from code to image."""

    name = "conv"
    default_hidden = (64, 32)
    kernel = 3
    outputs_per_channel = 1  # of a layer before its activation; 2 if the activation is a GLU
    init_weights = staticmethod(glorot)

    @staticmethod
    def new_activation(name: str) -> nn.Module:
        """Return the activation of a hidden layer, called `name` in `ACTIVATIONS`."""
        return ACTIVATIONS[name]()

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
            example = list(self.default_hidden[::-1])  # options are in the order from image to code
            raise ValueError(f"The {self.name} decoder needs at least one entry in hidden, for example {example}.")
        sizes = halved(image_shape, len(hidden))[::-1]  # smallest first
        before = [self.outputs_per_channel * channels for channels in hidden]  # outputs of layers before the activation
        width = before[0] * prod(sizes[0])
        layers: list[nn.Module] = [nn.Unflatten(1, (before[0], *sizes[0]))]
        outputs = [*before[1:], image_shape[0]]
        for n_before, n_in, n_out, (tall, wide) in zip(before, hidden, outputs, sizes[1:], strict=True):
            layers += [*([nn.BatchNorm2d(n_before)] if batch_norm else []), self.new_activation(activation)]
            # an even size needs one row or column more than the transposed convolution gives by itself
            even = (1 - tall % 2, 1 - wide % 2)
            padding = self.kernel // 2
            layers += [nn.ConvTranspose2d(n_in, n_out, self.kernel, stride=2, padding=padding, output_padding=even)]
        super().__init__(nn.Linear(in_dim, width), nn.Sequential(*layers), width, 1, context_dim)
        self.init_weights(nn.ModuleList([self.first, self.rest]))

    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        """Set the output bias to `link` of the mean over pixels of `mean (C, H, W)`: one bias per channel."""
        self.output.bias.copy_(link(mean.mean((1, 2))))
