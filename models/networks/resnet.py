"""Residual convolutional encoder and decoder, with group norm."""

import math
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.conv import halved
from models.networks.layers import ACTIVATIONS, LAYERS, SATURATING, ImageShape, Link, Network, glorot
from models.networks.mlp import SMALL_OUTPUT

CHANNELS_PER_GROUP = 8  # of group norm, at least; a group of one channel would lose the mean of that channel
SMALL_BRANCH = 0.1  # factor of the weights of the last convolution of each block: blocks start close to the identity
VALUES_PER_ROW = 512  # of the largest stage: that many cost about as much as a row of a fully connected network


def num_groups(channels: int) -> int:
    """Return the largest number of groups of equal size with `CHANNELS_PER_GROUP` channels or more each; at least 1."""
    possible = range(max(1, channels // CHANNELS_PER_GROUP), 0, -1)
    return next(groups for groups in possible if channels % groups == 0)


def norm_layer(channels: int, batch_norm: bool) -> nn.Module:
    """Return batch norm or group norm over `channels` channels."""
    return nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(num_groups(channels), channels)


def final_norm(channels: int, batch_norm: bool) -> list[nn.Module]:
    """Return the norm after the last block: batch norm if it is used, otherwise none.

    Group norm maps x and 2 x to the same values. At the start, when biases are zero, the encoder would lose the
    contrast of an image and the decoder the length of a code. Without it, the shortcuts keep both.
    """
    return [nn.BatchNorm2d(channels)] if batch_norm else []


def check_hidden(name: str, hidden: Sequence[int], batch_norm: bool) -> None:
    """Raise ValueError if there is no stage, or one with too few channels for group norm.

    Args:
        name: encoder or decoder, for the message.
        hidden: Channels of the stages.
        batch_norm: Whether batch norm replaces group norm.
    """
    if not hidden:
        raise ValueError(f"The resnet {name} needs at least one entry in hidden, for example [16, 32, 64].")
    if not batch_norm and min(hidden) < 2:  # the mean over the pixels of a single channel would be lost
        raise ValueError(
            f"Group norm needs at least 2 channels in each stage of the resnet {name}; got hidden {list(hidden)}."
        )


class ResidualBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016): shortcut(x) + conv(act(norm(conv(act(norm(x)))))).

    The shortcut is a 1x1 convolution if the number of channels changes, else the identity.

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm replaces group norm.
        down: Halve height and width, rounding up, by averaging 2x2 pixels before the first convolution.
        up_to: Height and width of the output, to which pixels are repeated before the second convolution.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        activation: str,
        batch_norm: bool,
        down: bool = False,
        up_to: tuple[int, int] | None = None,
    ):
        super().__init__()
        # what can run at the lower resolution does so: it is cheaper there
        pool = [nn.AvgPool2d(2, ceil_mode=True)] if down else []
        repeat = [] if up_to is None else [nn.Upsample(up_to)]
        self.branch = nn.Sequential(
            norm_layer(n_in, batch_norm),
            ACTIVATIONS[activation](),
            *pool,
            nn.Conv2d(n_in, n_out, 3, padding=1),
            norm_layer(n_out, batch_norm),
            ACTIVATIONS[activation](),
            *repeat,
            nn.Conv2d(n_out, n_out, 3, padding=1),
        )
        project = [] if n_in == n_out else [nn.Conv2d(n_in, n_out, 1)]
        self.shortcut = nn.Sequential(*pool, *project, *repeat)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)

    @torch.no_grad()
    def shrink_branch(self) -> None:
        """Multiply the weights of the last convolution by `SMALL_BRANCH`."""
        last: Any = self.branch[-1]  # nn.Conv2d
        last.weight.mul_(SMALL_BRANCH)


class ChannelsLast(nn.Module):
    """Stores the channels of a pixel next to each other, `(N, C, H, W)` as before; convolutions are then faster."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class PixelBias(nn.Module):
    """Adds one learned number to each channel of each pixel."""

    def __init__(self, image_shape: ImageShape):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(image_shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class ResidualNetwork(Network):
    """Base class of the encoder and the decoder: the initialisation of residual blocks."""

    def initialise(self, activation: str) -> None:
        """Initialise weights uniformly in +-gain * sqrt(3 / fan_in) (He et al. 2015), with zero biases.

        The gain is sqrt(2) after a rectifier, which halves the mean square of normalised values, and 1 elsewhere.
        """
        after_activation = {id(layer) for layer in self.convolutions_of_branches()}
        gain = 1.0 if activation in SATURATING else math.sqrt(2)
        for module in self.modules():
            if isinstance(module, LAYERS) and module.bias is not None:
                bound = (gain if id(module) in after_activation else 1.0) * math.sqrt(3 / module.weight[0].numel())
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)
        self.shrink_branches()

    def convolutions_of_branches(self) -> list[nn.Module]:
        """Return the 3x3 convolutions of all residual blocks."""
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        return [layer for block in blocks for layer in block.branch if isinstance(layer, nn.Conv2d)]

    def shrink_branches(self) -> None:
        """Let all residual blocks start close to their shortcuts, so that a deep network trains from the start."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.shrink_branch()


class ResNetEncoder(ResidualNetwork):
    """A 3x3 convolution, one stage of residual blocks per entry of `hidden`, and one linear layer.

    `hidden` are the channels of the stages from the image to the code. The first stage has the resolution of the image,
    and each further one half of that before, rounding up.
    """

    default_hidden = (16, 32, 64)

    def __init__(
        self,
        image_shape: ImageShape,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        check_hidden("encoder", hidden, batch_norm)
        sizes = halved(image_shape, len(hidden) - 1)
        blocks: list[nn.Module] = [ResidualBlock(hidden[0], hidden[0], activation, batch_norm)]
        blocks += [ResidualBlock(n_in, n_out, activation, batch_norm, down=True) for n_in, n_out in pairwise(hidden)]
        super().__init__(
            nn.Conv2d(image_shape[0], hidden[0], 3, padding=1),
            nn.Sequential(
                ChannelsLast(),
                *blocks,
                *final_norm(hidden[-1], batch_norm),
                ACTIVATIONS[activation](),
                nn.Flatten(),
                nn.Linear(hidden[-1] * prod(sizes[-1]), out_dim),
            ),
            hidden[0],
            3,
            context_dim,
        )
        glorot(nn.ModuleList([self.first, self.rest]))
        self.shrink_branches()


class ResNetDecoder(ResidualNetwork):
    """One linear layer, one stage of residual blocks per entry of `hidden`, and a 3x3 convolution.

    `hidden` are the channels of the stages from the code to the image. The last stage has the resolution of the image.
    Each output pixel has a bias of its own; at the start the biases produce the mean training image.
    """

    default_hidden = (64, 32, 16)

    def __init__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        check_hidden("decoder", hidden[::-1], batch_norm)  # options are in the order from image to code
        sizes = halved(image_shape, len(hidden) - 1)[::-1]  # smallest first
        width = hidden[0] * prod(sizes[0])
        blocks: list[nn.Module] = [ResidualBlock(hidden[0], hidden[0], activation, batch_norm)]
        for n_in, n_out, size in zip(hidden, hidden[1:], sizes[1:], strict=False):
            blocks.append(ResidualBlock(n_in, n_out, activation, batch_norm, up_to=size))
        super().__init__(
            nn.Linear(in_dim, width),
            nn.Sequential(
                nn.Unflatten(1, (hidden[0], *sizes[0])),
                ChannelsLast(),
                *blocks,
                *final_norm(hidden[-1], batch_norm),
                ACTIVATIONS[activation](),
                nn.Conv2d(hidden[-1], image_shape[0], 3, padding=1),
                PixelBias(image_shape),
            ),
            width,
            1,
            context_dim,
        )
        values = max(channels * prod(size) for channels, size in zip(hidden, sizes, strict=True))
        self.rows_per_image = max(1, values // VALUES_PER_ROW)
        glorot(nn.ModuleList([self.first, self.rest]))
        self.shrink_branches()

    @torch.no_grad()
    def initialise(self, activation: str) -> None:
        super().initialise(activation)
        self.output.weight.mul_(SMALL_OUTPUT)

    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        """Set the output bias to `link(mean)`, for the mean image `(C, H, W)`."""
        bias: Any = self.rest[-1].bias  # type: ignore[index]  # nn.Sequential
        bias.copy_(link(mean))
        self.output.bias.zero_()
