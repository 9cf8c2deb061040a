"""Reconstructions of test images during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model


class Reconstructions(FigureCallback):
    """Draw the first test images with their reconstructions.

    Args:
        num_images: Number of test images.
    """

    name = "reconstructions"
    required_method = "reconstruct"

    def __init__(self, num_images: int = 20):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", self.num_images, model.device)
        title = f"Reconstructions of test images: {subject(model, data)}"
        return {"reconstructions": grids.reconstructions(x, model.reconstruct(x, *model.given(y)), title)}
