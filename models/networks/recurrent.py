"""The long short-term memory (LSTM) cell."""

import torch
from torch import Tensor, nn


def lstm_layer(in_dim: int, size: int) -> nn.Linear:
    """Return a new linear layer from the input of an LSTM cell and its last output to its gates.

    Weights are Glorot-uniform. Biases are 0, except for those of the forget gate: they are 1, so that an untrained cell
    keeps its content (Jozefowicz et al. 2015).

    Args:
        in_dim: Size of the input, with that of the last output.
        size: Number of units.
    """
    layer = nn.Linear(in_dim, 4 * size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layer.bias[size : 2 * size].fill_(1)
    return layer


def lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output h and the new state of LSTM cells (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    c' = f c + i g and h = o tanh(c'), for input gate i, forget gate f, output gate o and candidate g.

    Args:
        gates: i, f, o and g before their sigmoids (tanh for g), `(..., 4 R)`.
        cell: The state c, `(..., R)`.
    """
    size = cell.shape[-1]
    i, f, o = gates[..., : 3 * size].sigmoid().chunk(3, -1)
    cell = f * cell + i * gates[..., 3 * size :].tanh()
    return o * cell.tanh(), cell
