"""Known rotations, shifts and scalings of images, to see what a model makes of them."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

CHUNK = 4_000_000  # pixels per pass


class PoseLimits(NamedTuple):
    """How far images are moved at most."""

    rotation: float = 0.0  # degrees
    shift: float = 0.0  # pixels, along each axis
    scaling: float = 0.0  # 0.1: factors from 0.9 to 1.1

    def __str__(self) -> str:
        parts = [
            self.rotation and f"rotated by up to {self.rotation:g} degrees",
            self.shift and f"shifted by up to {self.shift:g} pixel{'s' * (self.shift != 1)}",
            self.scaling and f"scaled by {1 - self.scaling:g} to {1 + self.scaling:g}",
        ]
        return ", ".join(part for part in parts if part)


def draw_poses(n: int, limits: PoseLimits, generator: torch.Generator) -> Tensor:
    """Angle (degrees, clockwise), shift (pixels to the right, then down) and factor of n images, uniform within the
    limits: `(n, 4)`."""
    u = torch.rand(n, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return u * torch.tensor([limits.rotation, limits.shift, limits.shift, limits.scaling]) + torch.tensor([0, 0, 0, 1])


def apply_pose(x: Tensor, poses: Tensor) -> Tensor:
    """Images as bytes `(N, C, H, W)`, each turned and scaled about its middle, then shifted, as `poses (N, 4)` say.

    What torchvision's `affine` does with one image, bilinear and black beyond the border.
    """
    images = max(1, CHUNK // x[0].numel())
    return torch.cat([_move(*part) for part in zip(x.split(images), poses.split(images), strict=True)])


def _move(x: Tensor, poses: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    angle, shift, factor = poses[:, 0].deg2rad()[:, None], poses[:, None, 1:3], poses[:, 3, None]
    axes = ((torch.arange(n, dtype=poses.dtype) + 0.5 - n / 2) for n in (width, height))  # pixels from the middle
    pixels = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).flatten(0, 1)  # (H W, 2)
    right, down = (pixels - shift).unbind(-1)  # (N, H W)
    # where each pixel comes from: turned and scaled back
    cos, sin = angle.cos() / factor, angle.sin() / factor
    source = torch.stack([(cos * right + sin * down) * 2 / width, (cos * down - sin * right) * 2 / height], -1)
    grid = source.unflatten(1, (height, width)).float()
    return grid_sample(x.float(), grid, align_corners=False).round().to(torch.uint8)
