"""Codes of test images, and what figures of them need to know about a model."""

from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import pad

from figures.subsets import evenly_spaced
from models import Model

MAX_POINTS = 2000  # points of a scatter plot, and images that quantiles are taken from
CHUNK = 500  # images per pass
WIDE = 500  # dimensions above which the principal components are found by a randomized method
THRESHOLD = 0.01  # least variance over images of a dimension in use (Burda et al. 2015, section 5.2)
QUANTILES = 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99


def code_size(model: Model) -> int:
    """Return the dimensions of a code; for a hierarchical model those of z_1, the layer next to the image."""
    return model.latent_dim


def encode(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The codes `(N, d)` of images, some at a time, in float32 whatever the precision of the model."""
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    return torch.cat([model.encode(part, *model.condition_args(labels)) for part, labels in parts]).float()


def codes_of_test_images(model: Model, data: Any) -> tuple[Tensor, Tensor]:
    """Codes `(N, d)` and labels of at most `MAX_POINTS` test images; images whose code is not finite are left out."""
    x, y = data.images("test")
    index = evenly_spaced(len(y), MAX_POINTS)
    z, y = encode(model, x[index].to(model.device), y[index].to(model.device)), y[index].to(model.device)
    finite = z.isfinite().all(1)
    return z[finite], y[finite]


def active(model: Model, z: Tensor) -> Tensor:
    """Return which dimensions of the codes `(N, d)` are active, boolean `(d,)`, by their variance over images.

    The threshold assumes codes of the scale 1, as under a standard normal prior or in a hierarchy on top of one. Other
    codes have no scale of their own: their threshold is a hundredth of the largest variance.
    """
    variance = z.double().var(0, correction=0)
    has_scale = model.has_standard_normal_prior() or len(model.latent_sizes) > 1
    return variance > (THRESHOLD if has_scale else THRESHOLD * variance.max())


def in_plane(z: Tensor) -> tuple[Tensor, list[str]]:
    """Codes `(N, d)` in two dimensions, `(N, 2)`, and the names of these: one or two as they are, more by PCA.

    Codes that are all the same have no principal components: they lie at 0, and a warning says so.
    """
    if z.shape[1] <= 2:
        return pad(z, (0, 2 - z.shape[1])), ["z1", "z2"][: z.shape[1]] + [""] * (2 - z.shape[1])
    from sklearn.decomposition import PCA  # a fifth of a second, and no command line needs it to start

    if do_not_vary(z):
        return torch.zeros(len(z), 2), [f"principal component {i}: no variance" for i in (1, 2)]
    pca = PCA(2, svd_solver="full" if z.shape[1] <= WIDE else "randomized", random_state=0)
    points = torch.from_numpy(pca.fit_transform(z.double().cpu().numpy()))
    shares = pca.explained_variance_ratio_
    return points, [f"principal component {i + 1}: {share:.0%} of variance" for i, share in enumerate(shares)]


def do_not_vary(z: Tensor) -> bool:
    """Whether codes `(N, d)` are the same but for rounding errors; a warning says so."""
    z = z.double()
    same = bool(((z.amax(0) - z.amin(0)) <= 1e-6 * z.abs().amax(0)).all())
    if same:
        rank_zero_warn(f"The codes of all {len(z):,} images are the same: a figure of them has nothing to show.")
    return same
