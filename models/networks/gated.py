"""Fully connected encoder and decoder with gated layers (Dauphin et al. 2017), as in Tomczak & Welling (2018).

A gated layer is h = (W x + b) * sigmoid(V x + c). It is computed as `nn.GLU` of one linear layer with twice as many
outputs: first the values W x + b, then the gates V x + c.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from models.networks.layers import LAYERS
from models.networks.mlp import MLPDecoder, MLPEncoder

# If values and gates are N(0, 1), the mean square of their product is that of sigmoid(N(0, 1)), 0.2935. Gates start
# with gain 1 and values with the gain that makes up for it, so that the mean square stays the same across layers.
GATE_GAIN = 1.0
VALUE_GAIN = 1 / math.sqrt(0.2935)


def gated_layers(network: nn.Module) -> tuple[list[Any], Any]:
    """Return the layers of a network that are followed by a GLU, which are all but the last, and the last one."""
    *gated, output = [module for module in network.modules() if isinstance(module, LAYERS) and module.bias is not None]
    return gated, output


@torch.no_grad()
def gated_glorot(network: nn.Module) -> None:
    """Initialise with Glorot-uniform weights and zero biases; W and V of a gated layer count as layers of their own."""
    gated, output = gated_layers(network)
    for layer in (*gated, output):
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of the weights
        for weight in layer.weight.chunk(1 if layer is output else 2, outputs):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(layer.bias)


def fan_in(layer: Any) -> float:
    """Return the number of inputs that an output of a layer depends on; of a transposed convolution, their mean."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.weight[:, 0].numel() / prod(layer.stride)
    return layer.weight[0].numel()


@torch.no_grad()
def gated_he(network: nn.Module, output: Any, activation: str) -> None:
    """Initialise layers with weights uniform in +-gain * sqrt(3 / fan_in), and zero biases.

    The gain is `VALUE_GAIN` for W and `GATE_GAIN` for V of a gated layer, and 1 at the output.

    Args:
        network: A network of gated layers.
        output: Its last layer.
        activation: Not used: gated layers have no activation.
    """
    for layer in gated_layers(network)[0]:
        outputs = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # the dimension of the weights
        for weight, gain in zip(layer.weight.chunk(2, outputs), (VALUE_GAIN, GATE_GAIN), strict=True):
            bound = gain * math.sqrt(3 / fan_in(layer))
            nn.init.uniform_(weight, -bound, bound)
        nn.init.zeros_(layer.bias)
    bound = math.sqrt(3 / fan_in(output))
    nn.init.uniform_(output.weight, -bound, bound)
    nn.init.zeros_(output.bias)


def gated_mlp(sizes: Sequence[int], activation: str, batch_norm: bool) -> nn.Sequential:
    """Return gated layers of these sizes, and a linear one as the last.

    Args:
        sizes: From input to output.
        activation: Not used: gated layers have no activation.
        batch_norm: Normalise values and gates, as in Arik & Pfister (2021).
    """
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes[:-1]):
        norm = [nn.BatchNorm1d(2 * n_out)] if batch_norm else []
        layers += [nn.Linear(n_in, 2 * n_out), *norm, nn.GLU(1)]
    network = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    gated_glorot(network)
    return network


class GatedEncoder(MLPEncoder):
    """Gated layers on flattened pixels, then one linear layer; `hidden` are widths from the image to the code.

    A context is added to values and gates of the first layer. The option activation has no effect.
    """

    default_hidden = (300, 300)
    has_activation = False
    new_layers = staticmethod(gated_mlp)
    init_weights = staticmethod(gated_he)


class GatedDecoder(MLPDecoder):
    """Gated layers, then one linear layer with one logit per pixel; `hidden` are widths from the code to the image.

    A context is added to values and gates of the first layer. The option activation has no effect.
    """

    default_hidden = (300, 300)
    has_activation = False
    new_layers = staticmethod(gated_mlp)
    init_weights = staticmethod(gated_he)
