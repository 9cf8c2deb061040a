"""Convolutional encoder and decoder with gated layers (van den Oord et al. 2016), as in Tomczak & Welling (2018).

A gated convolution is h = (W * x + b) sigmoid(V * x + c), where * is a convolution. It is computed as `nn.GLU` over the
channels of one convolution with twice as many.
"""

import torch
from torch import nn

from models.networks.conv import ConvDecoder, ConvEncoder
from models.networks.gated import gated_glorot, gated_he, gated_mlp
from models.networks.mlp import SMALL_OUTPUT


def glu_of_channels(name: str) -> nn.Module:
    """Return a GLU over channels. The name of an activation is not used: gated layers have none."""
    return nn.GLU(1)


class GatedConvEncoder(ConvEncoder):
    """Gated 3x3 convolutions of stride 2, then one linear layer; `hidden` are channels from the image to the code.

    A context is added to values and gates of the first layer. The option activation has no effect.
    """

    name = "gated_conv"
    has_activation = False
    new_layers = staticmethod(gated_mlp)
    outputs_per_channel = 2
    new_activation = staticmethod(glu_of_channels)
    init_weights = staticmethod(gated_glorot)

    def initialise(self, activation: str) -> None:
        gated_he(self, self.output, activation)


class GatedConvDecoder(ConvDecoder):
    """A gated linear layer, then gated 3x3 transposed convolutions of stride 2, the last of them without a gate.

    `hidden` are channels from the code to the image. A context is added to values and gates of the first layer. The
    option activation has no effect.
    """

    name = "gated_conv"
    has_activation = False
    new_layers = staticmethod(gated_mlp)
    outputs_per_channel = 2
    new_activation = staticmethod(glu_of_channels)
    init_weights = staticmethod(gated_glorot)

    @torch.no_grad()
    def initialise(self, activation: str) -> None:
        gated_he(self, self.output, activation)
        self.output.weight.mul_(SMALL_OUTPUT)
