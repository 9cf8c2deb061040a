"""Latent traversals: how each latent dimension changes an image, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.codes import QUANTILES, active_dimensions, codes_of_test_images, encode
from callbacks.titles import subject
from figures import grids
from models import Model

RANGE = 3.0  # standard deviations of the prior in both directions
MIN_RELATIVE_VARIANCE = 0.1  # minimum variance of a dimension that is drawn, relative to the largest


def moved(z: Tensor, dims: Tensor, values: Tensor) -> Tensor:
    """Return copies `(D, n, d)` of the code `z (d,)`: in row i, dimension `dims[i]` takes the values `values[i]`.

    Args:
        z: Code `(d,)`.
        dims: Dimensions to change `(D,)`.
        values: Their values `(D, n)`.
    """
    codes = z.expand(*values.shape, -1)
    return codes.scatter(2, dims[:, None, None].expand(-1, values.shape[1], 1), values[..., None])


def dimension_names(model: Model) -> list[str]:
    """Return the names of the latent dimensions: z1, z2, ..., and p1, p2, ... for those of a spatial transform.

    If codes hold several layers of latents, names have the layer first: z3.1 is dimension 1 of layer 3.
    """
    size, sizes = model.latent_dim, model.latent_sizes
    if len(sizes) > 1 and sum(sizes) == size:
        return [f"z{layer}.{i + 1}" for layer, d in enumerate(sizes, 1) for i in range(d)]
    content_size = model.code_dim
    return [f"z{i + 1}" for i in range(content_size)] + [f"p{i + 1}" for i in range(size - content_size)]


def active_count_text(num_active: int, size: int, rows: int) -> str:
    """Return how many of `size` dimensions are active, and how many are shown if not all of the active ones are."""
    text = f"{num_active} of {size} dimensions {'is' if num_active == 1 else 'are'} active"
    return f"{text}, {rows} shown" if num_active > rows else text


class Traversals(FigureCallback):
    """Draw the first test image while one dimension of its latent code changes at a time.

    With a standard normal prior the values run from -3 to 3 standard deviations, otherwise along the quantiles of the
    codes of test images. Rows are sorted by the variance of the codes over test images. Only active dimensions whose
    variance is at least a tenth of the largest are drawn, and always at least one.

    Args:
        num_dims: Maximum number of dimensions, one row each.
    """

    name = "traversals"
    required_method = "interpolate"

    def __init__(self, num_dims: int = 16):
        self.num_dims = num_dims

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", 1, model.device)
        codes, _ = codes_of_test_images(model, data)
        if not len(codes):
            return {}
        variance = codes.var(0, correction=0)
        num_active = int(active_dimensions(model, codes).sum())
        num_visible = int((variance >= MIN_RELATIVE_VARIANCE * variance.max()).sum())
        dims = variance.argsort(descending=True)[: min(max(num_active, 1), num_visible, self.num_dims)]
        if model.has_standard_normal_prior():
            steps = torch.linspace(-RANGE, RANGE, len(QUANTILES), device=codes.device)
            values, labels = steps.expand(len(dims), -1), [f"{value:z.1f}" for value in steps.tolist()]
            unit = "standard deviations of the prior"
        else:
            values = codes[:, dims].quantile(torch.tensor(QUANTILES, device=codes.device), 0).T  # (D, n)
            labels = [f"{quantile:.0%}" for quantile in QUANTILES]
            unit = "quantiles of the codes of test images"
        images = model.decode(moved(encode(model, x, y)[0], dims, values), *model.condition_args(y))
        rows = [dimension_names(model)[dim] for dim in dims.tolist()]
        counts = active_count_text(num_active, codes.shape[1], len(dims))
        title = f"One dimension of the code moved, by {unit}: {counts}"
        return {"traversals": grids.traversals(x[0], images, rows, labels, f"{title}\n{subject(model, data)}")}
