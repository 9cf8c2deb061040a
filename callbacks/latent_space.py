"""How much of the latent space is in use, during training."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from callbacks import plots
from callbacks.record import finished_epochs, record_figure, record_metrics
from callbacks.schedule import Scheduled
from callbacks.titles import subject
from models.estimators import active_units

CHUNK = 500  # images per pass
BEGINNING = 4, 500  # epochs and steps in which a latent need not be used yet: small data have epochs of few steps


def is_active(means: Tensor) -> Tensor:
    """Which of the d units with posterior means `(N, d)` are active: boolean `(d,)`."""
    return torch.tensor([active_units(unit) == 1 for unit in means.split(1, dim=1)])


class LatentSpace(Scheduled):
    """Logs the active units over the validation set as `val/active_units` (`val/active_units_2`, ... for layers above
    the first), draws the KL of each dimension, and warns of a latent that is not used at all."""

    name = "latent_statistics"
    needs = "latent_statistics"

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        # all of the set, on whatever number of ranks: the loader would hold only this rank's share
        x, y = trainer.datamodule.images("val", device=model.device)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        layers = zip(*(model.latent_statistics(part, *model.given(labels)) for part, labels in parts), strict=True)
        means, kls = zip(*(map(torch.cat, zip(*parts, strict=True)) for parts in layers), strict=True)  # each (N, d)
        active = [is_active(layer) for layer in means]
        counts = [int(layer.sum()) for layer in active]
        names = ["val/active_units", *(f"val/active_units_{layer}" for layer in range(2, len(counts) + 1))]
        record_metrics(trainer, dict(zip(names, counts, strict=True)))
        figure = plots.kl_per_dimension([kl.mean(0) for kl in kls], active, subject(model, trainer.datamodule))
        record_figure(trainer, "kl_per_dimension", figure)
        epochs, steps = finished_epochs(trainer), trainer.global_step
        if not any(counts) and epochs >= BEGINNING[0] and steps >= BEGINNING[1]:
            rank_zero_warn(
                f"No latent unit is active after {epochs} epochs: the posterior has collapsed to the prior, and "
                "nothing about an image reaches the decoder."
            )
