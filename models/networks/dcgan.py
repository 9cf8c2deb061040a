"""Convolutional encoder and decoder of DCGAN (Radford et al. 2016)."""

from torch import nn

from models.networks.conv import ConvDecoder, ConvEncoder
from models.networks.layers import LAYERS

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


class DCGANEncoder(ConvEncoder):
    """5x5 convolutions of stride 2, then one linear layer; `hidden` are channels from the image to the code.

    The first layer has no batch norm, so that a discriminator sees the statistics of its images.
    """

    name = "dcgan"
    default_hidden = (64, 128)
    kernel = KERNEL
    first_batch_norm = 1
    init_weights = staticmethod(dcgan_init)


class DCGANDecoder(ConvDecoder):
    """One linear layer, then 5x5 transposed convolutions of stride 2; `hidden` are channels from the code to the image.

    Batch norm, if used, comes before every activation, and not at the output.
    """

    name = "dcgan"
    default_hidden = (128, 64)
    kernel = KERNEL
    init_weights = staticmethod(dcgan_init)
