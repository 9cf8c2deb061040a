"""The decoded plane of a two-dimensional latent space, during training."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from callbacks.base import FigureCallback
from callbacks.codes import QUANTILES, codes_of_test_images, other_prior
from callbacks.latent_codes import MIN_POINTS
from callbacks.titles import class_names, subject
from figures import charts, grids
from models import Model
from models.distributions.marginals import prior_samples

MASSES = 0.1, 0.3, 0.5, 0.7, 0.9, 0.99  # of the prior, in the contours of its density
DENSITY_POINTS = 200  # along each axis of the grid on which the density of the prior is computed
CHUNK = 5000  # points per pass
LARGEST = 256  # pixels of the longer side to which decoded images are reduced: enough for a figure of 600 dpi


def prior_quantiles(n: int) -> Tensor:
    """Return the quantiles of N(0, 1) at (i + 0.5) / n, `(n,)`: they divide the prior into equal probability mass."""
    return torch.special.ndtri((torch.arange(n) + 0.5) / n)


def grid(z1: Tensor, z2: Tensor) -> Tensor:
    """Return the codes `(n, m, 2)` of a plane: entry [i, j] is `(z1[j], z2[i])`, for `z1 (m,)` and `z2 (n,)`."""
    return torch.stack(torch.meshgrid(z1, z2, indexing="xy"), -1)


def sample_quantiles(z: Tensor, n: int) -> Tensor:
    """Return the quantiles of samples `(N, 2)` at (i + 0.5) / n in each dimension, `(n, 2)`."""
    return z.quantile(((torch.arange(n) + 0.5) / n).to(z), 0)


def sample_cdf(samples: Tensor, z: Tensor) -> Tensor:
    """Return the share of samples `(N, d)` that are below each code `(M, d)` in each dimension, `(M, d)`."""
    return torch.searchsorted(samples.T.sort(1).values.contiguous(), z.T.contiguous()).T / len(samples)


class LatentPlane(FigureCallback):
    """Draw the decoded plane of a two-dimensional latent space.

    The grid lies on the quantiles of the prior in each dimension (Kingma & Welling 2013, figure 4), and the codes of
    test images are also drawn through the prior's CDF of each dimension: if they follow the prior, each coordinate is
    uniform, and under N(0, I) they fill the unit square evenly. For any other prior quantiles and CDF are those of its
    samples, and the codes are also drawn over the contours of its density.
    Without a prior, the grid is evenly spaced over the codes of test images.

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
        if model.is_conditional or not model.can("interpolate"):
            return (
                f"The latent plane needs a decoder of z only; the decoder of {model_name} also takes a label: leave "
                f"{cls.name} out, or choose another model."
            )
        if (sizes := model.latent_sizes) != (2,):
            z_dim = sizes[0] if len(sizes) == 1 else list(sizes) or "none"
            return (
                f"The latent plane needs a model with z_dim 2; this {model_name} has {z_dim}: leave {cls.name} out, or "
                "choose a model with 2."
            )
        return None

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        z, y = codes_of_test_images(model, data)
        figures = {}
        has_few_points = len(z) < MIN_POINTS
        prior = other_prior(model)
        classes = [] if has_few_points else class_names(data, int(y.max()) + 1)
        if model.has_standard_normal_prior():
            z1 = z2 = prior_quantiles(self.num_images).to(model.device)
            title = "quantiles of the prior"
            if not has_few_points:
                figures["latent_cdf"] = cdf(torch.special.ndtr(z), y, "the normal CDF", classes, subject(model, data))
        elif prior is not None:
            samples = prior_samples(prior).float()
            if not samples.isfinite().all():
                return {}
            z1, z2 = sample_quantiles(samples, self.num_images).T
            title = "quantiles of the prior, of each dimension"
            if not has_few_points:
                name = "the CDFs of the prior"
                figures["latent_cdf"] = cdf(sample_cdf(samples, z), y, name, classes, subject(model, data))
                figures["latent_density"] = over_density(prior, samples, z, y, classes, subject(model, data))
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


def cdf(points: Tensor, y: Tensor, name: str, classes: Sequence[str] = (), subject: str = "") -> Figure:
    """Return a scatter plot of codes through a CDF, coloured by label.

    Args:
        points: The CDF at the codes `(N, 2)`.
        y: Labels `(N,)`.
        name: What the CDF is, for the title.
        classes: Names of the classes.
        subject: The model and its data, for the title.
    """
    title = f"Codes of {len(points):,} test images through {name}"
    panel = charts.Panel(points, title, "CDF of z1", "CDF of z2", (0, 1))
    return charts.scatter([panel], y, classes, subject)


def over_density(
    prior: Distribution, samples: Tensor, z: Tensor, y: Tensor, classes: Sequence[str] = (), subject: str = ""
) -> Figure:
    """Return a scatter plot of codes over contours of the density of the prior, coloured by label.

    Args:
        prior: Distribution over vectors of two dimensions.
        samples: Samples of it `(n, 2)`.
        z: Codes `(N, 2)`.
        y: Labels `(N,)`.
        classes: Names of the classes.
        subject: The model and its data, for the title.
    """
    ends = torch.cat([z, samples.quantile(torch.tensor([0.001, 0.999]).to(samples), 0)])
    low, high = ends.amin(0), ends.amax(0)
    margin = 0.05 * (high - low)
    fraction = torch.linspace(0, 1, DENSITY_POINTS, device=z.device)[:, None]
    z1, z2 = (low - margin + fraction * (high - low + 2 * margin)).T
    log_p = torch.cat([prior.log_prob(part) for part in grid(z1, z2).flatten(0, 1).split(CHUNK)])
    # the region of highest density with mass m is where log p exceeds its quantile 1 - m over samples
    log_p_samples = torch.cat([prior.log_prob(part) for part in samples.split(CHUNK)])
    levels = log_p_samples.quantile(1 - torch.tensor(MASSES).to(samples))
    contours = charts.Contours(z1, z2, log_p.view(DENSITY_POINTS, DENSITY_POINTS), levels)
    title = f"Codes of {len(z):,} test images over the density of the prior"
    masses = ", ".join(f"{100 * mass:.0f}" for mass in MASSES)
    xlabel = f"z1\ncontours contain {masses}% of the prior"
    return charts.scatter([charts.Panel(z, title, xlabel, "z2", contours=contours)], y, classes, subject)
