"""Samples from the model during training."""

from pytorch_lightning import LightningModule, Trainer

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled


class Samples(Scheduled):
    """Draws samples from the prior, from the same noise each time: what changes is the model.

    Args:
        num_images: Images to draw.
    """

    needs = "sample"

    def __init__(self, num_images: int = 64):
        self.num_images = num_images

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        record_figure(trainer, "samples", figures.samples(model.sample(self.num_images)))
