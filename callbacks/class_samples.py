"""Samples of every class during training."""

from pytorch_lightning import LightningModule, Trainer

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled


class ClassSamples(Scheduled):
    """Draws samples from the prior with every label, from the same noise each time: what changes is the model.

    Args:
        num_images: Draws of z, a row each.
    """

    needs = "sample_classes"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        record_figure(trainer, "class_samples", figures.class_samples(model.sample_classes(self.num_images)))
