"""Samples from each level of a hierarchy of latents, as a pure function of tensors."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from figures.grids import image_grid

MAX_PANELS = 6  # a deeper hierarchy is shown at evenly spaced layers


def shown_layers(layers: int) -> list[int]:
    """Return the layers, counted from 1 at the image, that have a panel, from the top: all, or evenly spaced ones."""
    return torch.linspace(layers, 1, min(layers, MAX_PANELS)).round().int().tolist()


def layer_name(layer: int, layers: int) -> str:
    """Return what is redrawn in the panel of a layer, for its label."""
    if layer == layers:
        return "all layers"
    return {1: "layer 1", 2: "layers 1 and 2"}.get(layer, f"layers 1 to {layer}")


def layer_samples(images: Tensor, title: str = "") -> Figure:
    """Return a panel of rows for each layer, the top layer first.

    Args:
        images: Samples `(L, rows, n, C, H, W)`: entry l - 1 redraws layers 1, ..., l; within each row, the layers above
            are fixed.
        title: Title of the figure.
    """
    layers, rows = images.shape[:2]
    shown = shown_layers(layers)
    panels = images[[layer - 1 for layer in shown]].flatten(0, 1)  # (panels * rows, n, C, H, W)
    labels = [layer_name(layer, layers) if row == 0 else "" for layer in shown for row in range(rows)]
    breaks = range(rows, len(panels), rows)
    return image_grid(panels, row_labels=labels, row_breaks=breaks, title=title)
