"""Style analogies of test images during training."""

from typing import Any

import torch
from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.titles import class_names, many_classes, subject
from figures import grids
from figures.subsets import evenly_spaced, round_robin_by_class
from models import Model


class Analogies(FigureCallback):
    """Draw every class in the style of test images of different classes (Kingma et al. 2014, figure 1).

    Args:
        num_images: Number of test images, one row each.
    """

    name = "analogies"
    required_method = "analogies"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", grey=model.encodes_grey)
        index = round_robin_by_class(y, self.num_images)
        x, y = x[index].to(model.device), y[index].tolist()
        count = model.hparams.num_classes
        classes = class_names(data, max(count, *y) + 1)
        if count <= grids.MAX_CLASSES:
            images, shown = model.analogies(x), range(count)
        else:  # one image at a time bounds memory: the model generates every class for each image
            shown = evenly_spaced(count, grids.MAX_CLASSES).tolist()
            images = torch.cat([model.analogies(part)[:, shown] for part in x.split(1)])
        title = f"Labels in the style of test images{many_classes(count, shown)}: {subject(model, data)}"
        rows = [classes[label] if label >= 0 else "" for label in y]
        return {"analogies": grids.analogies(x, images, [classes[label] for label in shown], title, rows)}
