"""What each dimension of the code does to an image, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.codes import QUANTILES, active, code_size, codes_of_test_images, encode
from callbacks.titles import subject
from figures import grids
from models import Model

REACH = 3.0  # standard deviations of the prior, to either side
LEAST_VARIANCE = 0.1  # of a dimension that is drawn, as a part of the largest


def moved(z: Tensor, dims: Tensor, values: Tensor) -> Tensor:
    """The code `z (d,)` with one dimension moved: `(D, n, d)`, in row i dimension `dims (D,)` at `values (D, n)`."""
    codes = z.expand(*values.shape, -1)
    return codes.scatter(2, dims[:, None, None].expand(-1, values.shape[1], 1), values[..., None])


def names(model: Model) -> list[str]:
    """The dimensions of the code: z1, z2, ..., and where the last are a transform, p1, p2, ... of these."""
    size = code_size(model)
    return [f"z{i + 1}" for i in range(model.code_dim)] + [f"p{i + 1}" for i in range(size - model.code_dim)]


def counted(used: int, size: int, rows: int) -> str:
    """How many of the dimensions of a code are active, and how many of these there are rows of."""
    text = f"{used} of {size} dimensions {'is' if used == 1 else 'are'} active"
    return f"{text}, {rows} shown" if used > rows else text


class Traversals(FigureCallback):
    """Draws the first test image with one dimension of its code moved at a time: from -3 to 3 standard deviations of
    the prior N(0, I), or, with another prior or none, along the quantiles of the codes of test images. Only active
    dimensions are drawn, at least one, and of them those that matter: that vary at least a tenth as much over test
    images as the one that varies most, which comes first.

    Args:
        num_dims: Dimensions at most, a row each.
    """

    name = "traversals"
    required_method = "interpolate"

    def __init__(self, num_dims: int = 16):
        self.num_dims = num_dims

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", 1, model.device)
        many, _ = codes_of_test_images(model, data)
        if not len(many):
            return {}
        variance, used = many.var(0, correction=0), int(active(model, many).sum())
        seen = int((variance >= LEAST_VARIANCE * variance.max()).sum())
        dims = variance.argsort(descending=True)[: min(max(used, 1), seen, self.num_dims)]
        if model.has_standard_normal_prior():
            steps = torch.linspace(-REACH, REACH, len(QUANTILES), device=many.device)
            values, labels = steps.expand(len(dims), -1), [f"{value:z.1f}" for value in steps.tolist()]
            how = "standard deviations of the prior"
        else:
            values = many[:, dims].quantile(torch.tensor(QUANTILES, device=many.device), 0).T  # (D, n)
            labels = [f"{part:.0%}" for part in QUANTILES]
            how = "quantiles of the codes of test images"
        images = model.decode(moved(encode(model, x, y)[0], dims, values), *model.condition_args(y))
        rows = [names(model)[dim] for dim in dims.tolist()]
        title = f"One dimension of the code moved, by {how}: {counted(used, many.shape[1], len(dims))}"
        return {"traversals": grids.traversals(x[0], images, rows, labels, f"{title}\n{subject(model, data)}")}
