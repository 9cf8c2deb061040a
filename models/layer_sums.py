"""Sums over the layers of a model, such as its multiply-adds."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from models.base import evaluating


def sum_over_layers(
    model: nn.Module,
    layers: Iterable[nn.Module],
    count: Callable[[Any, Any, Any], int],
    compute: Callable[[], Any],
) -> int:
    """Return the sum of `count(layer, inputs, output)` over all calls of the layers in `compute()`.

    `compute` runs in evaluation mode without gradients. The model and the random state stay unchanged.

    Args:
        model: The model.
        layers: The layers of the model to count.
        count: Takes a layer, the tuple of its inputs and its output.
        compute: Calls the model.
    """
    counts: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output: counts.append(count(layer, inputs, output)))
        for layer in layers
    ]
    try:
        with evaluating(model):
            compute()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)
