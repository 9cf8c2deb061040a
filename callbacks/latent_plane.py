"""The decoded plane of a two-dimensional latent space, during training."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.codes import QUANTILES, codes_of_test_images, has_standard_prior
from callbacks.latent_codes import MIN_POINTS
from callbacks.titles import class_names, subject
from figures import charts, grids
from models import Model

LARGEST = 256  # pixels of the longer side to which decoded images are reduced: enough for a figure of 600 dpi


def prior_quantiles(n: int) -> Tensor:
    """Return the quantiles of N(0, 1) at (i + 0.5) / n, `(n,)`: they divide the prior into equal probability mass."""
    return torch.special.ndtri((torch.arange(n) + 0.5) / n)


def grid(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the codes `(n, m, 2)` of a plane: entry [i, j] is `(z1[j], z2[i])`, for `z1 (m,)` and `z2 (n,)`."""
    return torch.stack(torch.meshgrid(z1, z2, indexing="xy"), -1)


class LatentPlane(FigureCallback):
    """Draw the decoded plane of a two-dimensional latent space.

    With a standard normal prior the grid lies on the prior's quantiles (Kingma & Welling 2013, figure 4), and the codes
    of test images are also drawn through the normal CDF: if they follow the prior, they fill the unit square evenly.
    Without one, the grid is evenly spaced over the codes of test images.

    Args:
        num_images: Number of images along each axis.
    """

    name = "latent_plane"
    required_method = "encode"

    def __init__(self, num_images: int = 30):
        self.num_images = num_images

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        if reason := super().unsupported_reason(model):
            return reason
        model_name = type(model).__name__
        if model.is_conditional or not hasattr(model, "interpolate"):
            return (
                f"The latent plane needs a decoder of z only; the decoder of {model_name} also takes a label: leave "
                f"{cls.name} out, or choose another model."
            )
        if (z_dim := model.hparams.z_dim) != 2:
            return (
                f"The latent plane needs a model with z_dim 2; this {model_name} has {z_dim}: leave {cls.name} out, or "
                "choose a model with 2."
            )
        return None

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        figures = {}
        has_few_points = len(z) < MIN_POINTS
        if has_standard_prior(model):
            z1 = z2 = prior_quantiles(self.num_images).to(model.device)
            title = "quantiles of the prior"
            if not has_few_points:
                figures["latent_cdf"] = cdf(z, y, class_names(data, int(y.max()) + 1), subject(model, data))
        elif has_few_points:
            return {}
        else:
            low, high = z.quantile(torch.tensor([QUANTILES[0], QUANTILES[-1]], device=z.device), 0)
            fraction = torch.linspace(0, 1, self.num_images, device=z.device)[:, None]
            z1, z2 = (low + fraction * (high - low)).T
            title = f"evenly from {QUANTILES[0]:.0%} to {QUANTILES[-1]:.0%} of the codes of test images"
        # row by row, with large images reduced immediately, to bound memory
        images = torch.stack([grids.reduced(model.decode(row), LARGEST) for row in grid(z1, z2)])
        title = f"z1 to the right, z2 upwards: {title}\n{subject(model, data)}"
        figures["latent_plane"] = grids.plane(images, z1, z2, title)
        return figures


def cdf(z: Tensor, y: Tensor, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Return a scatter plot of codes through the normal CDF, coloured by label.

    Args:
        z: Codes `(N, 2)`.
        y: Labels `(N,)`.
        classes: Names of the classes.
        subject: The model and its data, for the title.
    """
    title = f"Codes of {len(z):,} test images through the normal CDF"
    panel = charts.Panel(torch.special.ndtr(z), title, "CDF of z1", "CDF of z2", (0, 1))
    return charts.scatter([panel], y, classes, subject)
