"""Reconstructions of validation images during training."""

from pytorch_lightning import LightningModule, Trainer

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled


class Reconstructions(Scheduled):
    """Draws the first validation images beside their reconstructions.

    Args:
        num_images: Images to draw.
    """

    needs = "reconstruct"

    def __init__(self, num_images: int = 20):
        self.num_images = num_images

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("val", self.num_images, model.device)
        record_figure(trainer, "reconstructions", figures.reconstructions(x, model.reconstruct(x, *model.given(y))))
