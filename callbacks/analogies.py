"""Style analogies of test images during training."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import one_hot

from callbacks import figures
from callbacks.record import record_figure
from callbacks.schedule import Scheduled


def one_of_each(y: Tensor, n: int) -> Tensor:
    """Positions of n images, by their labels `y (N,)`: the first of each class, then the second, ...; without labels
    the first n."""
    label = (y + 1)[:, None]  # (N, 1), from 0; an unknown label is one more class
    seen = one_hot(label[:, 0]).cumsum(0).gather(1, label)[:, 0]  # how many of its class there are up to each image
    return torch.argsort(seen * (int(label.max()) + 1) + label[:, 0], stable=True)[:n]


class Analogies(Scheduled):
    """Draws every label in the style of test images of different classes (Kingma et al. 2014, figure 1).

    Args:
        num_images: Images, a row each.
    """

    needs = "analogies"

    def __init__(self, num_images: int = 10):
        self.num_images = num_images

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        x, y = trainer.datamodule.images("test")
        x = x[one_of_each(y, self.num_images)].to(model.device)
        record_figure(trainer, "analogies", figures.analogies(x, model.analogies(x)))
