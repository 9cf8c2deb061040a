"""Encoders and decoders: two dictionaries from a name to a class, every entry with the same signature.

An encoder maps images `(N, C, H, W)` to `(N, out_dim)`, a decoder codes `(..., in_dim)` to logits `(..., C, H, W)`.
Networks return plain tensors; the model names the distribution. A new entry is a class that gives `Network` its first
layer and the rest, and a line in its dictionary.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from models.layers import ACTIVATIONS, ImageShape, Network, glorot, he, lookup, mlp, rows

INITS = ("default", "glorot")
SMALL_OUTPUT = 0.1  # factor of an MLP decoder's output weights: noise of an untrained code hardly moves the image
STEEPNESS = 3.0  # of a coordinate decoder when training starts: its first layer changes so much per half image


def halved(image_shape: ImageShape, times: int) -> list[tuple[int, int]]:
    """Heights and widths of an image that `times` convolutions of stride 2 halve, rounding up: the full size first."""
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


class MLPEncoder(Network):
    """Fully connected, on flattened pixels; `hidden` are widths from the image to the code."""

    default_hidden = (400, 400)

    def __init__(
        self,
        image_shape: ImageShape,
        out_dim: int,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        first, *rest = mlp([prod(image_shape), *hidden, out_dim], activation, batch_norm)
        super().__init__(nn.Sequential(nn.Flatten(), first), nn.Sequential(*rest), first.out_features, 1, context_dim)

    def initialise(self, activation: str) -> None:
        he(self, self.output, activation)


class ConvEncoder(Network):
    """3x3 convolutions of stride 2, then one linear layer; `hidden` are channels from the image to the code."""

    default_hidden = (32, 64)

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
            raise ValueError("The conv encoder needs at least one entry in hidden, for example [32, 64].")
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([image_shape[0], *hidden]):
            norm = [nn.BatchNorm2d(n_out)] if batch_norm else []
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1), *norm, ACTIVATIONS[activation]()]
        pixels = prod(halved(image_shape, len(hidden))[-1])
        first, *rest = [*layers, nn.Flatten(), nn.Linear(hidden[-1] * pixels, out_dim)]
        super().__init__(first, nn.Sequential(*rest), hidden[0], 3, context_dim)
        glorot(nn.ModuleList([self.first, self.rest]))


class MLPDecoder(Network):
    """Fully connected, one logit per pixel; `hidden` are widths from the code to the image."""

    default_hidden = (400, 400)

    def __init__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        first, *rest = mlp([in_dim, *hidden, prod(image_shape)], activation, batch_norm)
        to_image = nn.Unflatten(1, tuple(image_shape))
        super().__init__(first, nn.Sequential(*rest, to_image), first.out_features, 1, context_dim)

    @torch.no_grad()
    def initialise(self, activation: str) -> None:
        he(self, self.output, activation)
        self.output.weight.mul_(SMALL_OUTPUT)

    def set_output_bias(self, mean: Tensor) -> None:
        """Starts the output at the logit of `mean (C, H, W)`."""
        self.output.bias.copy_(mean.logit().flatten())


class ConvDecoder(Network):
    """One linear layer, then 3x3 transposed convolutions of stride 2; `hidden`: channels from code to image."""

    default_hidden = (64, 32)

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
            raise ValueError("The conv decoder needs at least one entry in hidden, for example [32, 64].")
        sizes = halved(image_shape, len(hidden))[::-1]  # smallest first
        width = hidden[0] * prod(sizes[0])
        layers: list[nn.Module] = [nn.Unflatten(1, (hidden[0], *sizes[0]))]
        for n_in, n_out, (tall, wide) in zip(hidden, [*hidden[1:], image_shape[0]], sizes[1:], strict=True):
            layers += [*([nn.BatchNorm2d(n_in)] if batch_norm else []), ACTIVATIONS[activation]()]
            # an even size needs one row or column more than the transposed convolution gives by itself
            even = (1 - tall % 2, 1 - wide % 2)
            layers += [nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=even)]
        super().__init__(nn.Linear(in_dim, width), nn.Sequential(*layers), width, 1, context_dim)
        glorot(nn.ModuleList([self.first, self.rest]))

    def set_output_bias(self, mean: Tensor) -> None:
        """Starts the output at the logit of the mean over pixels of `mean (C, H, W)`: one bias per channel."""
        self.output.bias.copy_(mean.mean((1, 2)).logit())


def pixel_grid(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Coordinates (x, y) of the centres of all pixels, `(height, width, 2)`, whatever the size of the image.

    x grows to the right, y downwards; 0 is the middle, the longer side goes from edge to edge from -1 to 1, and the
    shorter one has the same unit.
    """
    x, y = ((2 * torch.arange(n, device=device) + 1 - n) / max(height, width) for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


class CoordinateDecoder(Network):
    """One pixel at a time, from its coordinates and the code (Bepler et al. 2019): it draws images of any size.

    The first layer is split: the code's part is computed once per image, not per pixel. `hidden` are widths from the
    code to the pixel.
    """

    default_hidden = (64, 64)

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
            raise ValueError("The coordinate decoder needs at least one entry in hidden, for example [64, 64].")
        first, *rest = mlp([in_dim, *hidden, image_shape[0]], activation, batch_norm)
        super().__init__(first, nn.Sequential(*rest), first.out_features, 1, context_dim)
        self.size = tuple(image_shape[1:])
        self.rows_per_image = max(1, prod(self.size) // 8)  # a row for each pixel, but a narrow one
        self.place = nn.Linear(2, first.out_features, bias=False)
        nn.init.normal_(self.place.weight, std=STEEPNESS)
        nn.init.uniform_(self.first.bias, -STEEPNESS, STEEPNESS)

    def forward(
        self,
        z: Tensor,
        context: Tensor | None = None,
        transform: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """`z (..., in_dim)`, a context `(..., context_dim)` that broadcasts, to `(..., C, H, W)`.

        Args:
            z: Codes.
            context: Such as a one-hot label.
            transform: Affine maps `(..., 2, 3)` of the pixels' (x, y, 1) to the coordinates that are drawn there; none
                is the identity.
            size: Height and width; those of the data by default.
        """
        height, width = size or self.size
        with torch.autocast(z.device.type, enabled=False):  # 16 bits are too few for coordinates, and gain nothing here
            of_code = self.first(z.to(self.first.weight.dtype))  # (..., h)
            if context is not None:
                of_code = of_code + self.context(context.to(self.context.weight.dtype))
            slope = self.place.weight  # (h, 2)
            transform = torch.eye(2, 3, device=z.device) if transform is None else transform
            of_place = slope @ transform.to(slope.dtype)  # (..., h, 3)
            constant = of_code + of_place[..., 2]
            of_place = of_place[..., :2].expand(*constant.shape, 2)
            grid = pixel_grid(height, width, z.device).to(of_place.dtype).flatten(0, 1)  # (P, 2)
            ones = torch.ones_like(grid[:, :1])
            first = torch.cat([grid, ones], 1) @ torch.cat([of_place, constant[..., None]], -1).mT  # (..., P, h)
        return rows(self.rest, first).mT.unflatten(-1, (height, width))

    def set_output_bias(self, mean: Tensor) -> None:
        """Starts the output at the logit of the mean over pixels of `mean (C, H, W)`: one bias per channel."""
        self.output.bias.copy_(mean.mean((1, 2)).logit())


ENCODERS: dict[str, type[nn.Module]] = {"mlp": MLPEncoder, "conv": ConvEncoder}
DECODERS: dict[str, type[nn.Module]] = {"mlp": MLPDecoder, "conv": ConvDecoder, "coordinate": CoordinateDecoder}


def check_sizes(sizes: Sequence[int], name: str = "hidden") -> None:
    """ValueError, in a sentence, for sizes of layers that are not positive."""
    if any(size < 1 for size in sizes):
        raise ValueError(f"{name} must hold positive sizes, such as [400, 400]; got {list(sizes)}.")


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
    """The encoder called `name`; `hidden=None` takes its own default sizes, `init` is one of `INITS`."""
    network = lookup(ENCODERS, name, "encoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden
    encoder = network(image_shape, out_dim, sizes, activation, batch_norm, context_dim)
    if init == "default" and isinstance(encoder, Network):
        encoder.initialise(activation)
    return encoder


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
    """The decoder called `name`; `hidden` as the encoder reads it, from the image to the code, is mirrored.

    `init` is one of `INITS`.
    """
    network = lookup(DECODERS, name, "decoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden[::-1]
    decoder = network(in_dim, image_shape, sizes, activation, batch_norm, context_dim)
    if init == "default" and isinstance(decoder, Network):
        decoder.initialise(activation)
    return decoder


@torch.no_grad()
def start_at_mean(decoder: nn.Module, mean_image: Tensor) -> None:
    """Output bias = logit(clip(`mean_image (C, H, W)`, 0.001, 0.999)), the training mean, as in Burda et al. (2015)."""
    if hasattr(decoder, "set_output_bias"):
        decoder.set_output_bias(mean_image.clamp(0.001, 0.999))
