"""Attribute vectors: the mean latent code of a class added to the codes of test images, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure

from callbacks.base import FigureCallback
from callbacks.codes import MAX_POINTS, encode
from callbacks.titles import class_name, class_names, subject
from figures import grids
from figures.subsets import evenly_spaced, round_robin_by_class
from models import Model


class Attributes(FigureCallback):
    """Draw test images of each class while the mean latent code of one class is added to their codes.

    Args:
        label: The class whose mean code is added.
        num_images: Number of test images, one row each.
        num_steps: Number of weights from 0 to 1, one column each.
    """

    name = "attributes"
    required_method = "shifted"

    def __init__(self, label: int = 0, num_images: int = 10, num_steps: int = 8):
        self.label, self.num_images, self.num_steps = label, num_images, num_steps

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", device=model.device)
        members = (y == self.label).nonzero()[:, 0]
        if not len(members):
            return {}
        members = members[evenly_spaced(len(members), MAX_POINTS)]
        direction = encode(model, x[members], y[members]).mean(0)
        index = round_robin_by_class(y, self.num_images)
        x, y = x[index], y[index]
        weights = torch.linspace(0, 1, self.num_steps).tolist()
        images = model.shifted(x, direction, weights, *model.given(y))
        what = f"Codes of test images + w * (mean code of {class_name(data, self.label)}), decoded, by w"
        classes = class_names(data, int(y.max()) + 1)
        rows = [classes[label] if label >= 0 else "" for label in y.tolist()]
        return {"attributes": grids.attributes(x, images, weights, f"{what}\n{subject(model, data)}", rows)}
