"""Samples from the prior for every class during training."""

from typing import Any

import torch
from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import class_names, many_classes, subject
from figures import grids
from figures.subsets import evenly_spaced
from models import Model


class ClassSamples(FigureCallback):
    """Draw samples from the prior for every class, with the same noise at each epoch: only the model changes.

    Args:
        num_images: Number of samples of z, one row each.
    """

    name = "class_samples"
    required_method = "sample_classes"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        count = model.hparams.num_classes
        if count <= grids.MAX_CLASSES:
            images, shown = model.sample_classes(self.num_images), range(count)
        else:  # one sample of z at a time bounds memory: the model generates every class for each
            shown = evenly_spaced(count, grids.MAX_CLASSES).tolist()
            images = torch.cat([model.sample_classes(1)[:, shown] for _ in range(self.num_images)])
        classes = class_names(data, count)
        title = f"Samples of each class{many_classes(count, shown)}, a draw of z in each row: {subject(model, data)}"
        return {"class_samples": grids.class_samples(images, [classes[label] for label in shown], title)}
