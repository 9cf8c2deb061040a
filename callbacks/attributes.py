"""Attribute arithmetic with codes, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure

from callbacks.base import Drawing
from callbacks.codes import MOST, encode
from callbacks.titles import class_name, class_names, subject
from figures import grids
from figures.subsets import one_of_each, spread
from models import Model


class Attributes(Drawing):
    """Draws what becomes of test images of each class as the mean code of one class is added to their codes.

    Args:
        label: The class whose mean code is added.
        num_images: Images, a row each.
        num_steps: Weights from 0 to 1, a column each.
    """

    name = "attributes"
    needs = "shifted"

    def __init__(self, label: int = 0, num_images: int = 10, num_steps: int = 8):
        self.label, self.num_images, self.num_steps = label, num_images, num_steps

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("test", device=model.device)
        of_class = (y == self.label).nonzero()[:, 0]
        if not len(of_class):
            return {}
        of_class = of_class[spread(len(of_class), MOST)]
        direction = encode(model, x[of_class], y[of_class]).mean(0)
        chosen = one_of_each(y, self.num_images)
        x, y, weights = x[chosen], y[chosen], torch.linspace(0, 1, self.num_steps).tolist()
        images = model.shifted(x, direction, weights, *model.given(y))
        what = f"Codes of test images + w * (mean code of {class_name(data, self.label)}), decoded, by w"
        classes = class_names(data, int(y.max()) + 1)
        rows = [classes[label] if label >= 0 else "" for label in y.tolist()]
        return {"attributes": grids.attributes(x, images, weights, f"{what}\n{subject(model, data)}", rows)}
