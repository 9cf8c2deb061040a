"""Registries of encoders and decoders. All encoders have one constructor signature, and so have all decoders.

An encoder maps images `(N, C, H, W)` to `(N, out_dim)`, a decoder maps codes `(..., in_dim)` to logits
`(..., C, H, W)`. Networks return plain tensors; the model turns them into distributions. CONTRIBUTING.md shows how to
add one.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from models.networks.conv import ConvDecoder, ConvEncoder
from models.networks.coordinate import CoordinateDecoder
from models.networks.dcgan import DCGANDecoder, DCGANEncoder
from models.networks.gated import GatedDecoder, GatedEncoder
from models.networks.gated_conv import GatedConvDecoder, GatedConvEncoder
from models.networks.layers import ACTIVATIONS, ImageShape, Link, Network, lookup
from models.networks.mlp import MLPDecoder, MLPEncoder
from models.networks.resnet import ResNetDecoder, ResNetEncoder

INITS = ("default", "glorot")


class EncoderClass(Protocol):
    """What the registry of encoders holds: a class of networks.

    Args of the constructor:
        image_shape: Channels, height and width.
        out_dim: Size of the output.
        hidden: Sizes of the hidden layers, from input to output.
        activation: Name of their activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
        context_dim: Size of the context; 0 for none.
    """

    @property
    def default_hidden(self) -> Sequence[int]:
        """Sizes of the hidden layers if the option hidden is not given; an attribute of the class."""

    def __call__(
        self,
        image_shape: ImageShape,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ) -> nn.Module: ...


class DecoderClass(Protocol):
    """What the registry of decoders holds: a class of networks.

    Its method `set_output_bias(mean, link)`, if it has one, sets the bias of the output to `link(mean)`, for the mean
    image `(C, H, W)`, or the mean of each channel `(C,)`.

    Args of the constructor:
        in_dim: Size of the codes.
        image_shape: Channels of the output, whose number depends on the likelihood, and height and width.

    The others are those of `EncoderClass`.
    """

    @property
    def default_hidden(self) -> Sequence[int]: ...

    def __call__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ) -> nn.Module: ...


ENCODERS: dict[str, EncoderClass] = {
    "mlp": MLPEncoder,
    "conv": ConvEncoder,
    "dcgan": DCGANEncoder,
    "resnet": ResNetEncoder,
    "gated": GatedEncoder,
    "gated_conv": GatedConvEncoder,
}
DECODERS: dict[str, DecoderClass] = {
    "mlp": MLPDecoder,
    "conv": ConvDecoder,
    "coordinate": CoordinateDecoder,
    "dcgan": DCGANDecoder,
    "resnet": ResNetDecoder,
    "gated": GatedDecoder,
    "gated_conv": GatedConvDecoder,
}


def check_sizes(sizes: Sequence[int], name: str = "hidden") -> None:
    """Raise ValueError unless all layer sizes are positive."""
    if any(size < 1 for size in sizes):
        raise ValueError(f"{name} must hold positive sizes, such as [400, 400]; got {list(sizes)}.")


def initialised(network: nn.Module, init: str, activation: str) -> nn.Module:
    """Return a new network with the weights of `init`, one of `INITS`; "glorot" are those of its constructor."""
    if init == "default" and isinstance(network, Network):
        network.initialise(activation)
    return network


def make_encoder(
    name: str,
    image_shape: ImageShape,
    out_dim: int,
    hidden: Sequence[int] | None,
    activation: str,
    batch_norm: bool,
    context_dim: int = 0,
    init: str = "glorot",
) -> nn.Module:
    """Return the encoder called `name`. `hidden=None` means its own default sizes; `init` is one of `INITS`."""
    network = lookup(ENCODERS, name, "encoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden
    return initialised(network(image_shape, out_dim, sizes, activation, batch_norm, context_dim), init, activation)


def make_decoder(
    name: str,
    in_dim: int,
    image_shape: ImageShape,
    hidden: Sequence[int] | None,
    activation: str,
    batch_norm: bool,
    context_dim: int = 0,
    init: str = "glorot",
) -> nn.Module:
    """Return the decoder called `name`. `hidden` is in the order of the encoder, from image to code, and is reversed.

    `hidden=None` means its own default sizes; `init` is one of `INITS`.
    """
    network = lookup(DECODERS, name, "decoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden[::-1]
    return initialised(network(in_dim, image_shape, sizes, activation, batch_norm, context_dim), init, activation)


@torch.no_grad()
def start_at_mean(decoder: nn.Module, mean_image: Tensor, link: Link = torch.logit) -> None:
    """Set the output bias to link(clip(`mean_image (C, H, W)`, 0.001, 0.999)), as in Burda et al. (2015).

    Args:
        decoder: A network; without the method `set_output_bias` it is not changed.
        mean_image: The mean training image.
        link: Returns the outputs of the decoder for which the images have this mean.
    """
    if hasattr(decoder, "set_output_bias"):
        decoder.set_output_bias(mean_image.clamp(0.001, 0.999), link)  # type: ignore[operator]  # a method
