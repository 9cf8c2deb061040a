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

ImageShape = tuple[int, int, int]
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def lookup(table: dict, name: str, what: str):
    """The entry called `name`; ValueError with the known names where there is none."""
    if name not in table:
        raise ValueError(f"Unknown {what} '{name}': choose one of {', '.join(table)}.")
    return table[name]


def glorot(network: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, as in Burda et al. (2015)."""
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def mlp(sizes: Sequence[int], activation: str, batch_norm: bool) -> nn.Sequential:
    """Linear layers of the given sizes, (batch norm and) an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), ACTIVATIONS[activation]()]
    network = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    glorot(network)
    return network


def halved(image_shape: ImageShape, times: int) -> list[tuple[int, int]]:
    """Heights and widths of an image that `times` convolutions of stride 2 halve, rounding up: the full size first."""
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def rows(network: nn.Module, h: Tensor, dims: int = 1) -> Tensor:
    """Applies a network that knows rows, `(N, ...)`, to any leading dimensions; a row has `dims` dimensions."""
    out = network(h.reshape(-1, *h.shape[h.ndim - dims :]))
    return out.view(*h.shape[: h.ndim - dims], *out.shape[1:])


class Network(nn.Module):
    """A first layer and the rest. A context, such as a one-hot label, is added to what the first layer gives.

    So the first layer is computed once per image and the context's once per class; their sum broadcasts.

    Args:
        first: The first layer, linear or convolutional.
        rest: What follows it.
        width: Features of the first layer.
        dims: Dimensions of what the first layer gives for one image: 1, or 3 for a convolution.
        context_dim: Size of the context; 0 for networks without one.
    """

    def __init__(self, first: nn.Module, rest: nn.Module, width: int, dims: int, context_dim: int):
        super().__init__()
        self.first, self.rest, self.dims = first, rest, dims
        if context_dim:
            self.context = nn.Linear(context_dim, width, bias=False)
            nn.init.xavier_uniform_(self.context.weight)

    @property
    def output(self) -> nn.Module:
        """The last layer with weights."""
        return [m for part in (self.first, self.rest) for m in part.modules() if isinstance(m, LAYERS)][-1]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`x (..., in)` and a context `(..., context_dim)` whose leading dimensions broadcast with those of x."""
        h = self.first(x.to(next(self.parameters()).dtype))
        if context is not None:
            shift = self.context(context.to(self.context.weight.dtype))
            h = h + shift.reshape(*shift.shape, *[1] * (self.dims - 1))
        return rows(self.rest, h, self.dims)


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


ENCODERS: dict[str, type[nn.Module]] = {"mlp": MLPEncoder, "conv": ConvEncoder}
DECODERS: dict[str, type[nn.Module]] = {"mlp": MLPDecoder, "conv": ConvDecoder}


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
) -> nn.Module:
    """The encoder called `name`; `hidden=None` takes its own default sizes."""
    network = lookup(ENCODERS, name, "encoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden
    return network(image_shape, out_dim, sizes, activation, batch_norm, context_dim)


def make_decoder(
    name: str,
    in_dim: int,
    image_shape: ImageShape,
    hidden: Sequence[int] | None,
    activation: str,
    batch_norm: bool,
    context_dim: int = 0,
) -> nn.Module:
    """The decoder called `name`; `hidden` as the encoder reads it, from the image to the code, is mirrored."""
    network = lookup(DECODERS, name, "decoder")
    lookup(ACTIVATIONS, activation, "activation")
    check_sizes(hidden or ())
    sizes = network.default_hidden if hidden is None else hidden[::-1]
    return network(in_dim, image_shape, sizes, activation, batch_norm, context_dim)


@torch.no_grad()
def start_at_mean(decoder: nn.Module, mean_image: Tensor) -> None:
    """Output bias = logit(clip(`mean_image (C, H, W)`, 0.001, 0.999)), the training mean, as in Burda et al. (2015)."""
    if hasattr(decoder, "set_output_bias"):
        decoder.set_output_bias(mean_image.clamp(0.001, 0.999))
