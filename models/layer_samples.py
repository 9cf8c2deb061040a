"""Samples from each level of a hierarchy of latents."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution


def redrawn_layers(noise: Distribution, sizes: Sequence[int], n: int, rows: int) -> Tensor:
    """Return noise of all layers, `(L, rows, n, d)`: in entry l - 1, that of layers 1 ... l is drawn n times.

    That of the layers above is the same within each row, and the same in all entries.

    Args:
        noise: The distribution of the noise of all layers, those of the first layer first, batch shape `()`.
        sizes: Dimensions d_l of each layer.
        n: Number of draws.
        rows: Number of rows.
    """
    L, d = len(sizes), sum(sizes)
    fixed = noise.sample((rows,))[:, None].expand(L, rows, n, d)
    layer = torch.repeat_interleave(torch.arange(L), torch.tensor(list(sizes))).to(fixed.device)  # (d,)
    is_redrawn = layer <= torch.arange(L, device=fixed.device)[:, None]  # (L, d)
    return torch.where(is_redrawn[:, None, None], noise.sample((L, rows, n)), fixed)
