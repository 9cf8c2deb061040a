"""Which of many images are drawn."""

import torch
from torch import Tensor


def round_robin_by_class(y: Tensor, n: int) -> Tensor:
    """Positions of n images, by their labels `y (N,)`: the first of each class, then the second, ...; without labels
    the first n."""
    # Sorted by label, so that time and memory do not grow with the number of classes.
    label, by_label = y.sort(stable=True)  # an unknown label, -1, is one more class
    _, counts = label.unique_consecutive(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)  # where each image's class begins
    seen = torch.arange(len(y), device=y.device) - first  # how many of its class come before each image
    return by_label[seen.argsort(stable=True)][:n]


def evenly_spaced(total: int, n: int) -> Tensor:
    """Positions of n of `total` images, or of all if they are fewer, evenly spread: data may be sorted by class."""
    return torch.arange(min(n, total)) * total // min(n, total)
