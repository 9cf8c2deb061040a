"""Training whose numbers are no longer numbers stops at once."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Diverged(Exception):
    """The loss or a weight is not finite."""


def check_weights(trainer: Trainer, model: LightningModule) -> None:
    """Diverged where a weight of the model is not finite, so that no checkpoint of such weights is written."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise Diverged(f"A weight is not finite after step {trainer.global_step}")


class Divergence(Callback):
    """Raises `Diverged` after the batch whose loss is not finite; on a GPU after the one that follows it.

    There the loss is looked at one batch late, so that the device need not be waited for.
    """

    def __init__(self):
        self.before: tuple[torch.Tensor, int] | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = outputs["loss"].detach(), trainer.global_step
        looked_at, self.before = (now, None) if now[0].device.type == "cpu" else (self.before, now)
        if looked_at and not looked_at[0].isfinite():
            raise Diverged(
                f"The loss is {looked_at[0].item()} at step {looked_at[1]}, in epoch {trainer.current_epoch + 1}"
            )
