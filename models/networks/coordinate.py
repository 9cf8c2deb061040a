"""Decoder that computes each pixel from its coordinates."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.networks.layers import Context, ImageShape, Link, Network, apply_rowwise, mlp

STEEPNESS = 3.0  # slope of the first layer at the start of training, per half image


def pixel_grid(height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the coordinates (x, y) of the centres of all pixels, `(height, width, 2)`.

    x grows to the right, y downwards; 0 is the middle, the longer side goes from edge to edge from -1 to 1, and the
    shorter one has the same unit.
    """
    x, y = ((2 * torch.arange(n, device=device) + 1 - n) / max(height, width) for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


class CoordinateDecoder(Network):
    """Computes each pixel from its coordinates and the code (Bepler et al. 2019), for images of any size.

    The first layer is split: the code's part is computed once per image, not per pixel. `hidden` are widths from the
    code to the pixel.
    """

    default_hidden = (64, 64)
    first: nn.Linear
    size: tuple[int, int]

    def __init__(
        self,
        in_dim: int,
        image_shape: ImageShape,
        hidden: Sequence[int],
        activation: str,
        batch_norm: bool,
        context_dim: int = 0,
    ):
        if not hidden:
            raise ValueError("The coordinate decoder needs at least one entry in hidden, for example [64, 64].")
        first: Any  # nn.Linear
        first, *rest = mlp([in_dim, *hidden, image_shape[0]], activation, batch_norm)
        super().__init__(first, nn.Sequential(*rest), first.out_features, 1, context_dim)
        self.size = tuple(image_shape[1:])  # type: ignore[assignment]  # two sizes
        self.rows_per_image = max(1, prod(self.size) // 8)  # a row for each pixel, but narrow layers
        self.place = nn.Linear(2, first.out_features, bias=False)
        nn.init.normal_(self.place.weight, std=STEEPNESS)
        nn.init.uniform_(self.first.bias, -STEEPNESS, STEEPNESS)

    def forward(
        self,
        z: Tensor,
        context: Context | None = None,
        transform: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Return logits `(..., C, H, W)` for `z (..., in_dim)` and a context `(..., context_dim)` that broadcasts.

        Args:
            z: Codes.
            context: For example a one-hot label; or a tuple of its parts.
            transform: Affine maps `(..., 2, 3)` from (x, y, 1) of a pixel to the coordinates that the network receives
                there; None is the identity.
            size: Height and width, by default those of the data.
        """
        height, width = size or self.size
        with torch.autocast(z.device.type, enabled=False):  # 16 bits are too few for coordinates, and no faster
            of_code = self.first(z.to(self.first.weight.dtype))  # (..., h)
            for shift in self.shifts(context):
                of_code = of_code + shift
            slope = self.place.weight  # (h, 2)
            transform = torch.eye(2, 3, device=z.device) if transform is None else transform
            of_place = slope @ transform.to(slope.dtype)  # (..., h, 3)
            constant = of_code + of_place[..., 2]
            of_place = of_place[..., :2].expand(*constant.shape, 2)
            grid = pixel_grid(height, width, z.device).to(of_place.dtype).flatten(0, 1)  # (P, 2)
            ones = torch.ones_like(grid[:, :1])
            first = torch.cat([grid, ones], 1) @ torch.cat([of_place, constant[..., None]], -1).mT  # (..., P, h)
        return apply_rowwise(self.rest, first).mT.unflatten(-1, (height, width))

    def set_output_bias(self, mean: Tensor, link: Link = torch.logit) -> None:
        """Set the output bias to `link` of the mean over pixels of `mean (C, H, W)`: one bias per channel."""
        self.output.bias.copy_(link(mean.mean((1, 2))))
