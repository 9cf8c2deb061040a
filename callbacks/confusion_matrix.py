"""The confusion matrix of a classifier on validation images, during training."""

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


def class_probabilities(model: Model, x: Tensor) -> Tensor:
    """Return the class probabilities q(y|x), `(N, num_classes)`, of images `(N, C, H, W)`."""
    return torch.cat([model.classify(part) for part in x.split(CHUNK)])


def confusion(qy: Tensor, y: Tensor) -> Tensor:
    """Return the confusion matrix `(num_classes, num_classes)`: counts of images by true (row) and predicted (column)
    class. Images with unknown label, -1, are left out.

    Args:
        qy: Class probabilities `(N, num_classes)`.
        y: Labels `(N,)`.
    """
    return multiclass_confusion_matrix(qy, y, qy.shape[1], ignore_index=-1)


class ConfusionMatrix(FigureCallback):
    """Draw the confusion matrix of the validation images. Their labels do not influence training or model selection."""

    name = "confusion_matrix"
    required_method = "classify"

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        x, y = data.images("val", device=model.device, grey=model.classifies_grey)
        counts = confusion(class_probabilities(model, x), y)
        classes = class_names(data, len(counts))
        return {"confusion_matrix": charts.confusion_matrix(counts, "validation", classes, subject(model, data))}
