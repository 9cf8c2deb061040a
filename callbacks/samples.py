"""Samples from the model during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model


class Samples(FigureCallback):
    """Draws samples from the prior, from the same noise each time: what changes is the model.

    Args:
        num_images: Images to draw.
    """

    name = "samples"
    required_method = "sample"

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        title = f"Samples from the prior: {subject(model, data)}"
        return {"samples": grids.samples(model.sample(self.num_images), title)}
