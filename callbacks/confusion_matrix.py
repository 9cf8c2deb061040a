"""Which classes a model takes for which, during training."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacks.base import FigureCallback
from callbacks.titles import class_names, subject
from figures import charts
from models import Model

CHUNK = 500  # images per pass


def confusion(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """How many images of the class of the row the model takes for the class of the column: `(num_classes,
    num_classes)`. Images whose label is unknown are left out."""
    qy = torch.cat([model.classify(part) for part in x.split(CHUNK)])  # (N, num_classes)
    return multiclass_confusion_matrix(qy, y, qy.shape[1], ignore_index=-1)


class ConfusionMatrix(FigureCallback):
    """Draws the confusion matrix of the validation images. Their labels select nothing."""

    name = "confusion_matrix"
    required_method = "classify"

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        counts = confusion(model, *data.images("val", device=model.device))
        classes = class_names(data, len(counts))
        return {"confusion_matrix": charts.confusion_matrix(counts, "validation", classes, subject(model, data))}
