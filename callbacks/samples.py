"""Samples from the model during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import subject
from figures import grids
from models import Model


class Samples(FigureCallback):
    """Draw samples from the prior, with the same noise at each epoch: only the model changes.

    Args:
        num_images: Number of samples.
    """

    name = "samples"
    required_method = "sample"

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        title = f"Samples from the prior: {subject(model, data)}"
        return {"samples": grids.samples(model.sample(self.num_images), title)}
