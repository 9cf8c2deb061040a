"""Which classes a model takes for which, during training."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled

CHUNK = 500  # images per pass


def confusion(model: LightningModule, x: Tensor, y: Tensor) -> Tensor:
    """How many images of the class of the row the model takes for the class of the column: `(num_classes,
    num_classes)`. Images whose label is unknown are left out."""
    qy = torch.cat([model.classify(part) for part in x.split(CHUNK)])  # (N, num_classes)
    return multiclass_confusion_matrix(qy, y, qy.shape[1], ignore_index=-1)


class ConfusionMatrix(Scheduled):
    """Draws the confusion matrix of the validation images. Their labels select nothing."""

    needs = "classify"

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        counts = confusion(model, *trainer.datamodule.images("val", device=model.device))
        record_figure(trainer, "confusion_matrix", figures.confusion_matrix(counts, "validation"))
