"""Samples of every class during training."""

from typing import Any

from matplotlib.figure import Figure

from callbacks import figures
from callbacks.schedule import Drawing
from models import Model


class ClassSamples(Drawing):
    """Draws samples from the prior with every label, from the same noise each time: what changes is the model.

    Args:
        num_images: Draws of z, a row each.
    """

    name = "class_samples"
    needs = "sample_classes"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        return {"class_samples": figures.class_samples(model.sample_classes(self.num_images))}
