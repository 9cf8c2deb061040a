"""Random rotations, shifts and scalings of images, with known parameters (poses)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

CHUNK = 4_000_000  # pixels per pass; bounds memory


class PoseLimits(NamedTuple):
    """Largest transformations that are applied."""

    rotation: float = 0.0  # degrees, in both directions
    shift: float = 0.0  # pixels along each axis, in both directions
    scaling: float = 0.0  # scale factors lie in [1 - scaling, 1 + scaling]

    def __str__(self) -> str:
        parts = [
            self.rotation and f"rotated by up to {self.rotation:g} degrees",
            self.shift and f"shifted by up to {self.shift:g} pixel{'s' * (self.shift != 1)}",
            self.scaling and f"scaled by {1 - self.scaling:g} to {1 + self.scaling:g}",
        ]
        return ", ".join(part for part in parts if part)


def draw_poses(n: int, limits: PoseLimits, generator: torch.Generator) -> Tensor:
    """Sample n poses uniformly within the limits.

    Returns:
        Poses (n, 4): angle (degrees, clockwise), shift to the right, shift down (pixels) and scale factor.
    """
    u = torch.rand(n, 4, generator=generator, dtype=torch.float64) * 2 - 1
    return u * torch.tensor([limits.rotation, limits.shift, limits.shift, limits.scaling]) + torch.tensor([0, 0, 0, 1])


def apply_pose(x: Tensor, poses: Tensor) -> Tensor:
    """Rotate and scale each image about its centre, then shift it.

    Equals torchvision's `affine` applied to each image, with bilinear interpolation and black outside the border.

    Args:
        x: Images (N, C, H, W), uint8.
        poses: Poses (N, 4), as returned by `draw_poses`.

    Returns:
        Images (N, C, H, W), uint8.
    """
    chunk_size = max(1, CHUNK // x[0].numel())
    return torch.cat([_apply_pose(*part) for part in zip(x.split(chunk_size), poses.split(chunk_size), strict=True)])


def _apply_pose(x: Tensor, poses: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    angle, shift, factor = poses[:, 0].deg2rad()[:, None], poses[:, None, 1:3], poses[:, 3, None]
    axes = ((torch.arange(n, dtype=poses.dtype) + 0.5 - n / 2) for n in (width, height))  # pixels from the centre
    pixels = torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).flatten(0, 1)  # (H W, 2)
    right, down = (pixels - shift).unbind(-1)  # (N, H W)
    # Source position of each pixel: the inverse rotation and scaling.
    cos, sin = angle.cos() / factor, angle.sin() / factor
    source = torch.stack([(cos * right + sin * down) * 2 / width, (cos * down - sin * right) * 2 / height], -1)
    grid = source.unflatten(1, (height, width)).float()
    return grid_sample(x.float(), grid, align_corners=False).round().to(torch.uint8)
