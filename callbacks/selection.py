"""Which of many images are drawn."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def one_of_each(y: Tensor, n: int) -> Tensor:
    """Positions of n images, by their labels `y (N,)`: the first of each class, then the second, ...; without labels
    the first n."""
    label = (y + 1)[:, None]  # (N, 1), from 0; an unknown label is one more class
    seen = one_hot(label[:, 0]).cumsum(0).gather(1, label)[:, 0]  # how many of its class there are up to each image
    return torch.argsort(seen * (int(label.max()) + 1) + label[:, 0], stable=True)[:n]


def spread(total: int, n: int) -> Tensor:
    """Positions of n of `total` images, or of all if they are fewer, evenly spread: data may be sorted by class."""
    return torch.arange(min(n, total)) * total // min(n, total)
