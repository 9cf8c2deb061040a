"""Images decoded without their spatial transform, during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from figures.subsets import round_robin_by_class
from models import Model


class Canonical(FigureCallback):
    """Draw test images of all classes, their reconstructions, and the reconstructions without the transform.

    Args:
        num_images: Number of test images, ten per row.
    """

    name = "canonical"
    required_method = "canonical"

    def __init__(self, num_images: int = 20):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test")
        x = x[round_robin_by_class(y, self.num_images)].to(model.device)
        title = f"Test images, and their reconstructions without the transform: {subject(model, data)}"
        return {"canonical": grids.canonical(x, model.reconstruct(x), model.canonical(x), title)}
