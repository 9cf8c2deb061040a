"""The networks of a ladder VAE: a bottom-up one, and a top-down one that p and q share.

Layers of latents are counted from the image, 1 ... L in formulas and 0 ... L - 1 in code.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.networks.conv import halved
from models.networks.layers import ACTIVATIONS, LAYERS, SATURATING, ImageShape, Link, glorot
from models.networks.mlp import SMALL_OUTPUT
from models.networks.resnet import SMALL_BRANCH, VALUES_PER_ROW, ChannelsLast, PixelBias

# layer l, and the parameters (..., 2 d_l) of p(z_l|z_l+1), or None for the last layer -> latents z_l (..., d_l)
Choose = Callable[[int, Tensor | None], Tensor]


class Lowest(NamedTuple):
    """The end of a top-down pass: all that the image depends on."""

    z: Tensor  # latents of the first layer, (..., d_1)
    h: Tensor | None  # what the layers above have computed, (N, ...) for all leading dimensions of z together


class LadderEncoder(nn.Module):
    """The bottom-up pass: d_l = f_l(d_l-1) with d_0 = x, and for each layer of latents a linear function of d_l.

    Args:
        blocks: f_l, from the image upwards.
        heads: The linear functions.
    """

    def __init__(self, blocks: Sequence[nn.Module], heads: Sequence[nn.Module]):
        super().__init__()
        self.blocks, self.heads = nn.ModuleList(blocks), nn.ModuleList(heads)
        glorot(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the parameters of all layers, `(B, 2 d)`, for images `(B, C, H, W)`.

        Those of the first layer come first. Each layer has d_l means and d_l log scales before clipping.
        """
        d, outputs = x.to(next(self.parameters()).dtype), []
        for block, head in zip(self.blocks, self.heads, strict=True):
            d = block(d)
            outputs.append(head(d).flatten(1))
        return torch.cat(outputs, -1)

    def initialise(self, activation: str) -> None:
        """Initialise the weights for `init=default`."""
        he_with_outputs(self, list(self.heads), activation)


class LadderDecoder(nn.Module):
    """The top-down pass: h_l = g_l(z_l, h_l+1), and p(z_l|z_l+1, ...) has the parameters head_l(h_l+1).

    The image has the parameters output(h_1).

    Args:
        latent_shapes: Shape of the latents of each layer, from the image upwards.
        blocks: g_l, modules that take `z (N, *latent_shape)` and h, which is None in the last layer.
        heads: head_l of every layer but the last.
        output: From h_1 to the image.
    """

    rows_per_image = 1  # cost of one image, in rows of a fully connected network

    def __init__(
        self,
        latent_shapes: Sequence[tuple[int, ...]],
        blocks: Sequence[nn.Module],
        heads: Sequence[nn.Module],
        output: nn.Module,
    ):
        super().__init__()
        self.latent_shapes = latent_shapes
        self.sizes = [prod(shape) for shape in latent_shapes]
        self.blocks, self.heads, self.to_image = nn.ModuleList(blocks), nn.ModuleList(heads), output
        glorot(self)

    @property
    def output(self) -> Any:
        """The last layer with weights."""
        return [module for module in self.to_image.modules() if isinstance(module, LAYERS)][-1]

    def step(self, layer: int, z: Tensor, h: Tensor | None) -> Tensor:
        """Return h_l `(N, ...)` for `z (..., d_l)`, whose leading dimensions have N elements."""
        rows = z.to(self.output.weight.dtype).reshape(-1, *self.latent_shapes[layer])
        return self.blocks[layer](rows, h)

    def descend(self, choose: Choose) -> Lowest:
        """Run from the last layer to the first; `choose` is called once for each layer, in this order."""
        h: Tensor | None = None
        leading: tuple[int, ...] = ()
        top = len(self.sizes) - 1
        for layer in range(top, -1, -1):
            parameters = None if layer == top else self.heads[layer](h).view(*leading, 2 * self.sizes[layer])
            z = choose(layer, parameters)
            leading = z.shape[:-1]
            if layer:
                h = self.step(layer, z, h)
        return Lowest(z, h)

    def image(self, lowest: Lowest) -> Tensor:
        """Return the parameters of p(x|z), `(..., C, H, W)`."""
        out = self.to_image(self.step(0, *lowest))
        return out.view(*lowest.z.shape[:-1], *out.shape[1:])

    def forward(self, z: Tensor) -> Tensor:
        """Return the parameters of p(x|z) for the latents of all layers `(..., d)`: `(..., C, H, W)`."""
        parts = z.split(self.sizes, -1)
        return self.image(self.descend(lambda layer, parameters: parts[layer]))

    @torch.no_grad()
    def initialise(self, activation: str) -> None:
        """Initialise the weights for `init=default`: p(z_l|z_l+1) starts close to N(0, I)."""
        he_with_outputs(self, [*self.heads, self.output], activation)
        for layer in [self.output, *(module for module in self.heads.modules() if isinstance(module, LAYERS))]:
            layer.weight.mul_(SMALL_OUTPUT)

    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        """Set the output bias to `link(mean)`, for the mean image `(C, H, W)`."""
        raise NotImplementedError


def he_with_outputs(network: nn.Module, outputs: Sequence[nn.Module], activation: str) -> None:
    """Initialise weights uniformly in +-gain * sqrt(3 / fan_in) (He et al. 2015), with zero biases.

    The gain is sqrt(2) in hidden layers, whose inputs or outputs pass a rectifier, and 1 before a saturating activation
    and in the modules `outputs`. Residual branches start small.
    """
    ends = {id(module) for output in outputs for module in output.modules()}
    hidden_gain = 1.0 if activation in SATURATING else math.sqrt(2)
    for module in network.modules():
        if isinstance(module, LAYERS):
            bound = (1.0 if id(module) in ends else hidden_gain) * math.sqrt(3 / module.weight[0].numel())
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, LadderBlock):
            module.shrink_branch()


# Fully connected


def hidden_layers(sizes: Sequence[int], activation: str, batch_norm: bool) -> list[nn.Module]:
    """Return linear layers of these sizes, each with (batch norm and) an activation."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), ACTIVATIONS[activation]()]
    return layers


class OfLatents(nn.Sequential):
    """Layers of z alone: z_l is all that the layers below depend on."""

    def forward(self, z: Tensor, h: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(z)


class MLPLadderEncoder(LadderEncoder):
    """Two fully connected layers for each layer of latents.

    Args:
        image_shape: Channels, height and width.
        z_dim: Dimensions of each layer of latents, from the image upwards.
        hidden: Width of the two layers before each of them.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
    """

    def __init__(
        self, image_shape: ImageShape, z_dim: Sequence[int], hidden: Sequence[int], activation: str, batch_norm: bool
    ):
        widths = [prod(image_shape), *hidden]
        blocks = [
            nn.Sequential(nn.Flatten(), *hidden_layers([below, width, width], activation, batch_norm))
            for below, width in pairwise(widths)
        ]
        super().__init__(blocks, [nn.Linear(width, 2 * d) for width, d in zip(hidden, z_dim, strict=True)])


class MLPLadderDecoder(LadderDecoder):
    """Two fully connected layers for each layer of latents, mirrored: p(x|z_1) and p(z_l|z_l+1) of Sonderby et al.

    Args:
        image_shape: Channels of the output, and height and width.
        z_dim: Dimensions of each layer of latents, from the image upwards.
        hidden: Width of the two layers after each of them.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
    """

    def __init__(
        self, image_shape: ImageShape, z_dim: Sequence[int], hidden: Sequence[int], activation: str, batch_norm: bool
    ):
        super().__init__(
            [(d,) for d in z_dim],
            [
                OfLatents(*hidden_layers([d, width, width], activation, batch_norm))
                for d, width in zip(z_dim, hidden, strict=True)
            ],
            [nn.Linear(width, 2 * d) for d, width in zip(z_dim[:-1], hidden[1:], strict=True)],
            nn.Sequential(nn.Linear(hidden[0], prod(image_shape)), nn.Unflatten(1, tuple(image_shape))),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the parameters of p(x|z_1) for the latents of all layers `(..., d)`: `(..., C, H, W)`."""
        return self.image(Lowest(z[..., : self.sizes[0]], None))

    @torch.no_grad()
    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        self.output.bias.copy_(link(mean).flatten())


# Convolutional


class LadderBlock(nn.Module):
    """Pre-activation residual block: x + conv(act(norm(conv(act(norm(x)))))), with batch norm or without any.

    It launches few kernels: a ladder has two blocks for each layer of latents.

    Args:
        channels: Channels of input and output.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
    """

    def __init__(self, channels: int, activation: str, batch_norm: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [*([nn.BatchNorm2d(channels)] if batch_norm else []), ACTIVATIONS[activation]()]
            layers += [nn.Conv2d(channels, channels, 3, padding=1)]
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    @torch.no_grad()
    def shrink_branch(self) -> None:
        """Start close to the identity, so that a deep ladder trains from the start."""
        last: Any = self.branch[-1]  # nn.Conv2d
        last.weight.mul_(SMALL_BRANCH)


class ImageLatents(nn.Module):
    """h_l = g_l(h_l+1 + W z_l): h carries information past the latents (skip connection).

    So z_l depends on all layers above.

    Args:
        z_channels: Channels of the latents.
        channels: Channels of h_l+1.
        rest: The layers after the sum.
    """

    def __init__(self, z_channels: int, channels: int, rest: Sequence[nn.Module]):
        super().__init__()
        self.from_latents, self.rest = nn.Conv2d(z_channels, channels, 1), nn.Sequential(*rest)

    def forward(self, z: Tensor, h: Tensor | None) -> Tensor:
        added = self.from_latents(z)
        return self.rest(added if h is None else h + added)


class Crop(nn.Module):
    """Keeps the first rows and columns."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]


def scale_of_layers(layers_per_scale: Sequence[int]) -> list[int]:
    """Return for each layer of latents, from the image upwards, how often its resolution is halved: 1, 2, ..."""
    return [scale for scale, number in enumerate(layers_per_scale, 1) for _ in range(number)]


def image_latent_shapes(
    image_shape: ImageShape, channels: Sequence[int], layers_per_scale: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return the shape of the latents of each layer, from the image upwards."""
    sizes = halved(image_shape, len(layers_per_scale))
    return [(d, *sizes[scale]) for d, scale in zip(channels, scale_of_layers(layers_per_scale), strict=True)]


class ConvLadderEncoder(LadderEncoder):
    """A residual block for each layer of latents, and a convolution of stride 2 wherever the resolution is halved.

    Args:
        image_shape: Channels, height and width.
        z_dim: Channels of the latents of each layer, from the image upwards.
        hidden: Channels at each resolution.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
        layers_per_scale: Number of layers of latents at 1/2, 1/4, ... of the resolution of the image.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        layers_per_scale: Sequence[int],
    ):
        blocks, heads = [], []
        widths, before = [image_shape[0], *hidden], 0
        for d, scale in zip(z_dim, scale_of_layers(layers_per_scale), strict=True):
            width = widths[scale]
            down = [nn.Conv2d(widths[before], width, 3, stride=2, padding=1)] if scale != before else []
            to_layout = [ChannelsLast()] if before == 0 else []
            blocks.append(nn.Sequential(*down, *to_layout, LadderBlock(width, activation, batch_norm)))
            heads.append(nn.Sequential(ACTIVATIONS[activation](), nn.Conv2d(width, 2 * d, 3, padding=1)))
            before = scale
        super().__init__(blocks, heads)


class ConvLadderDecoder(LadderDecoder):
    """A residual block for each layer of latents, and pixels repeated wherever the resolution is doubled.

    The image has a bias for each pixel.

    Args:
        image_shape: Channels of the output, and height and width.
        z_dim: Channels of the latents of each layer, from the image upwards.
        hidden: Channels at each resolution.
        activation: Name of the activation, a key of `ACTIVATIONS`.
        batch_norm: Whether batch norm precedes each activation.
        layers_per_scale: Number of layers of latents at 1/2, 1/4, ... of the resolution of the image.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: Sequence[int],
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        layers_per_scale: Sequence[int],
    ):
        sizes = halved(image_shape, len(layers_per_scale))
        scales = scale_of_layers(layers_per_scale)
        blocks, heads = [], []
        for d, scale, below in zip(z_dim, scales, [None, *scales], strict=False):
            width = hidden[scale - 1]
            rest: list[nn.Module] = [LadderBlock(width, activation, batch_norm)]
            if below is not None and below != scale:
                rest += [nn.Conv2d(width, hidden[below - 1], 1), nn.Upsample(sizes[below])]
            blocks.append(ImageLatents(d, width, rest))
            heads.append(nn.Sequential(ACTIVATIONS[activation](), nn.Conv2d(width, 2 * d, 3, padding=1)))
        channels, height, width = image_shape
        super().__init__(
            image_latent_shapes(image_shape, z_dim, layers_per_scale),
            blocks,
            heads[:-1],
            nn.Sequential(
                *([nn.BatchNorm2d(hidden[0])] if batch_norm else []),
                ACTIVATIONS[activation](),
                nn.Conv2d(hidden[0], 4 * channels, 3, padding=1),
                nn.PixelShuffle(2),
                Crop(height, width),
                PixelBias(image_shape),
            ),
        )
        values = max(channels * prod(size) for channels, size in zip(hidden, sizes[1:], strict=True))
        self.rows_per_image = max(1, values // VALUES_PER_ROW)

    @torch.no_grad()
    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        bias: Any = self.to_image[-1].bias  # type: ignore[index]  # nn.Sequential
        bias.copy_(link(mean))
        self.output.bias.zero_()
