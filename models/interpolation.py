"""Interpolation between two latent codes."""

import torch
from torch import Tensor

from models.arguments import as_count


def interpolate_latents(z0: Tensor, z1: Tensor, n: int, path: str) -> Tensor:
    """Return `n` codes from `z0` to `z1 (..., d)`, both included: `(n, ..., d)`.

    Args:
        z0: First codes `(..., d)`.
        z1: Last codes `(..., d)`.
        n: Number of codes, at least 1.
        path: `linear` for the straight line, `spherical` for slerp with linearly interpolated norms, which keeps the
            norm typical of N(0, I) between two of its samples (Shoemake 1985; White 2016).

    Raises:
        ValueError: Unknown path, n below 1, or ends of different shapes.
    """
    if path not in ("linear", "spherical"):
        raise ValueError(f"Unknown path '{path}': choose linear or spherical.")
    n = as_count(n, "n")
    if z0.shape != z1.shape:
        raise ValueError(f"Both ends must have the same number of images; got {len(z0)} and {len(z1)}.")
    t = torch.linspace(0, 1, n, device=z0.device, dtype=z0.dtype).view(-1, *[1] * z0.ndim)  # (n, 1, ..., 1)
    straight = torch.lerp(z0, z1, t)
    if path == "linear":
        return straight
    length0, length1 = z0.norm(dim=-1, keepdim=True), z1.norm(dim=-1, keepdim=True)
    angle = torch.acos(((z0 / length0) * (z1 / length1)).sum(-1, keepdim=True).clamp(-1, 1))
    direction = (torch.sin((1 - t) * angle) * z0 / length0 + torch.sin(t * angle) * z1 / length1) / torch.sin(angle)
    # The arc is undefined for parallel and antiparallel codes: use the straight line.
    return torch.where(torch.sin(angle) > 1e-3, direction * torch.lerp(length0, length1, t), straight)
