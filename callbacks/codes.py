"""Codes of test images, and what figures of them need to know about a model."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from callbacks.selection import spread
from models import Model

MOST = 2000  # points of a scatter plot, and images that quantiles are taken from
CHUNK = 500  # images per pass
QUANTILES = 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99


def code_size(model: Model) -> int:
    """Dimensions of a code; of a hierarchical model those of z_1, from which the image is made."""
    z_dim = model.hparams.z_dim
    return z_dim if isinstance(z_dim, int) else z_dim[0]


def has_standard_prior(model: Model) -> bool:
    """Whether codes have the prior N(0, I): not those of an autoencoder, nor z_1 of a hierarchical model."""
    return hasattr(model, "pz") and isinstance(model.hparams.z_dim, int)


def encode(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The codes `(N, d)` of images, some at a time, in float32 whatever the precision of the model."""
    parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
    return torch.cat([model.encode(part, *model.given(labels)) for part, labels in parts]).float()


def codes_of_test_images(model: Model, data: Any) -> tuple[Tensor, Tensor]:
    """Codes `(N, d)` and labels of at most `MOST` test images; images whose code is not finite are left out."""
    x, y = data.images("test")
    index = spread(len(y), MOST)
    z, y = encode(model, x[index].to(model.device), y[index].to(model.device)), y[index].to(model.device)
    finite = z.isfinite().all(1)
    return z[finite], y[finite]


def in_plane(z: Tensor) -> tuple[Tensor, list[str]]:
    """Codes `(N, d)` in two dimensions, `(N, 2)`, and the names of these: one or two as they are, more by PCA."""
    if z.shape[1] <= 2:
        return pad(z, (0, 2 - z.shape[1])), ["z1", "z2"][: z.shape[1]] + [""] * (2 - z.shape[1])
    from sklearn.decomposition import PCA  # a fifth of a second, and no command line needs it to start

    pca = PCA(2, svd_solver="full")
    points = torch.from_numpy(pca.fit_transform(z.double().cpu().numpy()))
    shares = pca.explained_variance_ratio_
    return points, [f"principal component {i + 1}: {share:.0%} of variance" for i, share in enumerate(shares)]
