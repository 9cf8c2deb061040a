"""Selection of the images that a figure shows."""

import torch
from torch import Tensor


def round_robin_by_class(y: Tensor, n: int) -> Tensor:
    """Return the indices of n images by their labels `y (N,)`: the first of each class, then the second, and so on.

    Without labels (all -1) these are the first n images.
    """
    # Sorting by label keeps time and memory independent of the number of classes.
    label, by_label = y.sort(stable=True)  # the unknown label, -1, counts as a class
    _, counts = label.unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)  # sorted position at which the image's class begins
    rank = torch.arange(len(y), device=y.device) - first  # position of the image within its class
    return by_label[rank.argsort(stable=True)][:n]


def evenly_spaced(total: int, n: int) -> Tensor:
    """Return n evenly spaced indices below `total`, or all if there are fewer: data may be sorted by class."""
    return torch.arange(min(n, total)) * total // min(n, total)
