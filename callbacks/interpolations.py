"""Interpolations between test images during training."""

from pytorch_lightning import LightningModule, Trainer

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled


class Interpolations(Scheduled):
    """Draws the way between the codes of fixed pairs of test images, once straight and once along a sphere.

    Args:
        num_pairs: Pairs of images, a row each.
        num_steps: Images on the way, both ends included.
    """

    needs = "interpolate"

    def __init__(self, num_pairs: int = 5, num_steps: int = 10):
        self.num_pairs, self.num_steps = num_pairs, num_steps

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("test", 2 * self.num_pairs, model.device)
        pairs = max(1, len(x) // 2)  # a data set may be small; a single image is paired with itself
        x0, x1 = x[:pairs], x[-pairs:]
        labels = model.given(y[:pairs], y[-pairs:])
        for path in ("linear", "spherical"):
            images = model.interpolate(x0, x1, self.num_steps, path, *labels)  # (num_steps, num_pairs, C, H, W)
            figure = figures.interpolations(images, x0, x1, title=f"{path} interpolation")
            record_figure(trainer, f"interpolations_{path}", figure)
