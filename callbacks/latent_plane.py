"""What a two-dimensional latent holds where, during training."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.codes import QUANTILES, codes_of_test_images
from callbacks.latent_codes import FEWEST
from callbacks.titles import class_names, subject
from figures import charts, grids
from models import Model

LARGEST = 256  # the longer side of an image that is kept: the largest that a figure of 600 dots per inch can show


def prior_quantiles(n: int) -> Tensor:
    """Quantiles of N(0, 1) at (i + 0.5) / n, `(n,)`: each stands for equally much of the prior."""
    return torch.special.ndtri((torch.arange(n) + 0.5) / n)


def grid(z1: Tensor, z2: Tensor) -> Tensor:
    """Codes `(n, m, 2)` of a plane: entry [i, j] is `z1 (m,)` at j and `z2 (n,)` at i."""
    return torch.stack(torch.meshgrid(z1, z2, indexing="xy"), -1)


class LatentPlane(FigureCallback):
    """Draws the decoded plane of a code of two dimensions.

    With the prior N(0, I) the points are its quantiles, as in Kingma & Welling (2013), figure 4, and a second figure
    has the codes of test images through the normal CDF: codes that follow the prior fill the unit square evenly. With
    another prior, or without one, the points lie evenly over the codes of test images.

    Args:
        num_images: Images along each axis.
    """

    name = "latent_plane"
    required_method = "encode"

    def __init__(self, num_images: int = 30):
        self.num_images = num_images

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        if found := super().unsupported_reason(model):
            return found
        kind = type(model).__name__
        if model.is_conditional or not model.can("interpolate"):
            return (
                f"The latent plane needs a decoder of the code alone, and that of {kind} is given a label: leave "
                f"{cls.name} out, or choose another model."
            )
        if (sizes := model.latent_sizes) != (2,):
            z_dim = sizes[0] if len(sizes) == 1 else list(sizes) or "none"
            return (
                f"The latent plane needs a model with z_dim 2; this {kind} has {z_dim}: leave {cls.name} out, or "
                "choose a model with 2."
            )
        return None

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        found, few = {}, len(z) < FEWEST
        if model.has_standard_normal_prior():
            z1 = z2 = prior_quantiles(self.num_images).to(model.device)
            title = "quantiles of the prior"
            if not few:
                found = {"latent_cdf": cdf(z, y, class_names(data, int(y.max()) + 1), subject(model, data))}
        elif few:
            return {}
        else:
            low, high = z.quantile(torch.tensor([QUANTILES[0], QUANTILES[-1]], device=z.device), 0)
            part = torch.linspace(0, 1, self.num_images, device=z.device)[:, None]
            z1, z2 = (low + part * (high - low)).T
            title = f"evenly from {QUANTILES[0]:.0%} to {QUANTILES[-1]:.0%} of the codes of test images"
        # a row at a time, and large images reduced at once: the grid may be large
        images = torch.stack([grids.reduced(model.decode(row), LARGEST) for row in grid(z1, z2)])
        title = f"z1 to the right, z2 upwards: {title}\n{subject(model, data)}"
        return found | {"latent_plane": grids.plane(images, z1, z2, title)}


def cdf(z: Tensor, y: Tensor, classes: Sequence[str] = (), about: str = "") -> Figure:
    """Codes `(N, 2)` through the normal CDF, coloured by label.

    Args:
        z: Codes.
        y: Labels `(N,)`.
        classes: Names of classes.
        about: The model and its data, for the title.
    """
    title = f"Codes of {len(z):,} test images through the normal CDF"
    panel = charts.Panel(torch.special.ndtr(z), title, "CDF of z1", "CDF of z2", (0, 1))
    return charts.scatter([panel], y, classes, about)
