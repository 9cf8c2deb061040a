"""Building blocks of networks: activations, initialisation, and the base class `Network`."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

ImageShape = tuple[int, int, int]
Context = Tensor | tuple[Tensor, ...]  # further input of a network, such as a one-hot label; or its parts
Link = Callable[[Tensor], Tensor]  # mean of pixels (C, ...) -> outputs of a decoder (C_out, ...)
LAYERS: tuple[Any, ...] = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "leaky_relu_0.1": partial(nn.LeakyReLU, 0.1),  # as in Sonderby et al. (2016)
    "leaky_relu_0.2": partial(nn.LeakyReLU, 0.2),  # as in Radford et al. (2016)
}
SATURATING = ("tanh", "softplus")  # the slope of softplus is 1/2 at 0, and 1 for large inputs


def lookup(table: dict, name: str, what: str):
    """Return the entry called `name`. Raise ValueError with the known names if there is none."""
    if name not in table:
        raise ValueError(f"Unknown {what} '{name}': choose one of {', '.join(table)}.")
    return table[name]


def glorot(network: nn.Module) -> None:
    """Initialise with Glorot-uniform weights and zero biases, as in Burda et al. (2015)."""
    for module in network.modules():
        if isinstance(module, LAYERS):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def he(network: nn.Module, output: nn.Module, activation: str) -> None:
    """Initialise linear layers uniformly in +-gain * sqrt(3 / fan_in) (He et al. 2015), with zero biases.

    The gain is sqrt(2) before a rectifier, which halves the variance, and 1 before a saturating activation and at the
    output.
    """
    gain = 1.0 if activation in SATURATING else math.sqrt(2)
    for module in network.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            bound = (1.0 if module is output else gain) * math.sqrt(3 / module.in_features)
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)


def mlp(sizes: Sequence[int], activation: str, batch_norm: bool) -> nn.Sequential:
    """Return linear layers of these sizes, with (batch norm and) an activation after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), ACTIVATIONS[activation]()]
    network = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    glorot(network)
    return network


def apply_rowwise(network: nn.Module, h: Tensor, dims: int = 1) -> Tensor:
    """Apply a network that expects `(N, ...)` to inputs with any leading dimensions; a row has `dims` dimensions."""
    out = network(h.reshape(-1, *h.shape[h.ndim - dims :]))
    return out.view(*h.shape[: h.ndim - dims], *out.shape[1:])


class Network(nn.Module):
    """Base class of networks: a first layer and the rest. A linear layer of the context, such as a one-hot label, is
    added to the output of the first layer.

    So the first layer runs once per image and the layer of the context once per class; their sum broadcasts. A context
    of several parts, such as a latent and a label, can be given as a tuple: its layer then runs once for each value of
    each part, not once for each combination.

    `rows_per_image` is the cost of one image, in rows of a fully connected network.

    Args:
        first: The first layer, linear or convolutional.
        rest: The layers after it.
        width: Features of the first layer.
        dims: Dimensions of the output of the first layer for one image: 1, or 3 for a convolution.
        context_dim: Size of the context; 0 for networks without one.
    """

    rows_per_image = 1
    has_activation = True  # whether the option activation has an effect
    new_layers = staticmethod(mlp)  # sizes, activation, batch_norm -> fully connected layers of this kind of network
    first: nn.Module
    rest: nn.Module
    context: nn.Linear  # only with context_dim

    def __init__(self, first: nn.Module, rest: nn.Module, width: int, dims: int, context_dim: int):
        super().__init__()
        self.first, self.rest, self.dims = first, rest, dims
        if context_dim:
            self.context = nn.Linear(context_dim, width, bias=False)
            nn.init.xavier_uniform_(self.context.weight)

    def initialise(self, activation: str) -> None:
        """Initialise the weights for `init=default`. Without an override those of the constructor remain.

        Args:
            activation: Name of the activation of the hidden layers.
        """

    @property
    def output(self) -> Any:
        """The last layer with weights."""
        return [m for part in (self.first, self.rest) for m in part.modules() if isinstance(m, LAYERS)][-1]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights, from the first layer: `next(self.parameters())` takes 1 % of a small step."""
        first: Any = self.first[-1] if isinstance(self.first, nn.Sequential) else self.first
        return first.weight.dtype

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Return the output for `x (..., in)` and a context `(..., context_dim)`, whose leading dimensions broadcast.

        Args:
            x: Images or codes.
            context: A tensor, or a tuple of its parts, `(..., d_i)` with the sum of all d_i equal to context_dim.
        """
        h = self.first(x.to(self.dtype))
        for shift in self.shifts(context):
            h = h + shift.reshape(*shift.shape, *[1] * (self.dims - 1))
        return apply_rowwise(self.rest, h, self.dims)

    def shifts(self, context: Context | None) -> list[Tensor]:
        """Return what the parts of the context add to the output of the first layer, each `(..., width)`."""
        if context is None:
            return []
        weight = self.context.weight
        if isinstance(context, Tensor):
            return [self.context(context.to(weight.dtype))]
        columns = weight.split([part.shape[-1] for part in context], 1)
        return [linear(part.to(weight.dtype), part_weight) for part, part_weight in zip(context, columns, strict=True)]
