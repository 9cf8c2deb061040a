"""Latent codes of test images: encoding, active dimensions, projection to two dimensions."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import pad

from figures.subsets import evenly_spaced
from models import LatentVariableModel, Model
from models.distributions.marginals import prior_samples

MAX_POINTS = 2000  # points of a scatter plot, and images from which quantiles are computed
CHUNK = 500  # images per pass
WIDE = 500  # above this number of dimensions, PCA uses randomized SVD
# Minimum variance over images of an active dimension, relative to that under the prior (Burda et al. 2015, section 5.2)
THRESHOLD = 0.01
QUANTILES = 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99


def encode(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Return the latent codes `(N, d)` of images as float32, whatever the precision of the model."""
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    return torch.cat([model.encode(part, *model.condition_args(labels)) for part, labels in parts]).float()


def codes_of_test_images(model: Model, data: Any) -> tuple[Tensor, Tensor]:
    """Return the finite codes `(N, d)` and their labels `(N,)` of at most `MAX_POINTS` test images."""
    x, y = data.images("test")
    index = evenly_spaced(len(y), MAX_POINTS)
    z, y = encode(model, x[index].to(model.device), y[index].to(model.device)), y[index].to(model.device)
    finite = z.isfinite().all(1)
    return z[finite], y[finite]


def other_prior(model: Model) -> Distribution | None:
    """Return the prior of the codes that `encode` returns if it is not N(0, I).

    It is None for N(0, I), for a model without a prior, and for a hierarchy, in which z_1 has no prior in closed form.
    """
    has_prior = isinstance(model, LatentVariableModel) and len(model.latent_sizes) == 1
    return model.prior() if has_prior and not model.has_standard_normal_prior() else None


@torch.no_grad()
def prior_variance(model: Model) -> Tensor | float:
    """Return the variance of each dimension of the codes under the prior, `(d,)`; 1 for N(0, I) and in a hierarchy."""
    prior = other_prior(model)
    if prior is None:
        return 1.0
    try:
        return prior.variance
    except NotImplementedError:
        return prior_samples(prior).var(0)


def active_dimensions(model: Model, z: Tensor) -> Tensor:
    """Return which dimensions of the codes `(N, d)` are active by their variance over images, boolean `(d,)`.

    The threshold is 1% of the variance under the prior. Codes of a model without a prior have no fixed scale: their
    threshold is 1% of the largest variance.
    """
    variance = z.double().var(0, correction=0)
    scale = prior_variance(model) if isinstance(model, LatentVariableModel) else variance.max()
    return variance > THRESHOLD * scale


def in_plane(z: Tensor) -> tuple[Tensor, list[str]]:
    """Return codes `(N, d)` in two dimensions `(N, 2)`, by PCA if d > 2, and the labels of the two axes.

    If all codes are the same, PCA is undefined: all points are at 0, with a warning.
    """
    if z.shape[1] <= 2:
        return pad(z, (0, 2 - z.shape[1])), ["z1", "z2"][: z.shape[1]] + [""] * (2 - z.shape[1])
    from sklearn.decomposition import PCA  # imported here because it would delay every start by 0.2 s

    if are_constant(z):
        return torch.zeros(len(z), 2), [f"principal component {i}: no variance" for i in (1, 2)]
    pca = PCA(2, svd_solver="full" if z.shape[1] <= WIDE else "randomized", random_state=0)
    points = torch.from_numpy(pca.fit_transform(z.double().cpu().numpy()))
    shares = pca.explained_variance_ratio_
    return points, [f"principal component {i + 1}: {share:.0%} of variance" for i, share in enumerate(shares)]


def are_constant(z: Tensor) -> bool:
    """Return whether all codes `(N, d)` are the same up to rounding errors, and warn if so."""
    z = z.double()
    is_constant = bool(((z.amax(0) - z.amin(0)) <= 1e-6 * z.abs().amax(0)).all())
    if is_constant:
        rank_zero_warn(f"The codes of all {len(z):,} images are the same: a figure of the codes shows nothing.")
    return is_constant
