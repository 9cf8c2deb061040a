"""Samples next to the nearest training images: memorised images show."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model
from models.implicit import ImplicitModel

CHUNK = 2000  # training images whose distances are computed at once


def nearest(x: Tensor, data: Any, k: int) -> Tensor:
    """Return the training images nearest to each image in squared distance of pixels, nearest first.

    Args:
        x: Images `(n, C, H, W)`.
        data: A data module, set up. Its images are read in chunks, with grey values if they are sampled in training.
        k: Number of training images for each image; fewer if there are not as many.

    Returns:
        Images `(n, k, C, H, W)`.
    """
    points = x.double().flatten(1)
    best, images = x.new_empty(len(x), 0, dtype=torch.float64), x.new_empty(len(x), 0, *x.shape[1:])
    for chunk in data.stored_images("train", CHUNK):
        chunk = chunk.to(x)
        distances = torch.cdist(points, chunk.double().flatten(1)).square()
        values, index = distances.topk(min(k, len(chunk)), largest=False)
        candidates = torch.cat([best, values], 1), torch.cat([images, chunk[index]], 1)
        order = candidates[0].argsort(dim=1, stable=True)[:, :k]  # of equal distances, the first image of the data
        best = candidates[0].gather(1, order)
        images = torch.stack([row[columns] for row, columns in zip(candidates[1], order, strict=True)])
    return images


class NearestNeighbours(FigureCallback):
    """Draw samples above their nearest training images in pixel distance.

    A sample that equals a training image is memorised. By default only for models without a likelihood, whose samples
    are sharp; the mean images that other models return as samples are too blurred to compare.

    Args:
        num_images: Number of samples.
        num_neighbours: Number of training images for each sample.
    """

    name = "nearest_neighbours"
    required_method = "sample"

    def __init__(self, num_images: int = 10, num_neighbours: int = 3):
        self.num_images, self.num_neighbours = num_images, num_neighbours

    @classmethod
    def is_default_for(cls, model: Model) -> bool:
        return isinstance(model, ImplicitModel)

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x = model.sample(self.num_images).float()
        title = f"Samples and their nearest training images: {subject(model, data)}"
        return {self.name: grids.nearest_neighbours(x, nearest(x, data, self.num_neighbours), title)}
