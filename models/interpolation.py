"""Ways between two codes."""

import torch
from torch import Tensor

from models.inputs import as_count


def interpolate_latents(z0: Tensor, z1: Tensor, n: int, path: str) -> Tensor:
    """`n` codes from `z0` to `z1 (..., d)`, both included: `(n, ..., d)`.

    `linear` is the straight line; `spherical` turns the direction evenly and blends the lengths, so that points between
    two typical draws of N(0, I) keep a typical length (Shoemake 1985; White 2016).
    """
    if path not in ("linear", "spherical"):
        raise ValueError(f"Unknown path '{path}': choose linear or spherical.")
    n = as_count(n, "n")
    if z0.shape != z1.shape:
        raise ValueError(f"There must be as many images at one end as at the other; got {len(z0)} and {len(z1)}.")
    t = torch.linspace(0, 1, n, device=z0.device, dtype=z0.dtype).view(-1, *[1] * z0.ndim)  # (n, 1, ..., 1)
    straight = torch.lerp(z0, z1, t)
    if path == "linear":
        return straight
    length0, length1 = z0.norm(dim=-1, keepdim=True), z1.norm(dim=-1, keepdim=True)
    angle = torch.acos(((z0 / length0) * (z1 / length1)).sum(-1, keepdim=True).clamp(-1, 1))
    turned = (torch.sin((1 - t) * angle) * z0 / length0 + torch.sin(t * angle) * z1 / length1) / torch.sin(angle)
    # without an angle between them, or with half a turn, there is no arc to follow
    return torch.where(torch.sin(angle) > 1e-3, turned * torch.lerp(length0, length1, t), straight)
