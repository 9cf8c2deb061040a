"""Training whose numbers are no longer numbers stops at once."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from runtime.collectives import DelayedReader, all_reduce


class Diverged(Exception):
    """The loss or a weight is not finite."""


def check_weights(trainer: Trainer, model: LightningModule) -> None:
    """Diverged where a weight of the model is not finite, so that no checkpoint of such weights is written."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise Diverged(f"A weight is not finite after step {trainer.global_step}")


class NaNGuard(Callback):
    """Raises `Diverged` after the batch whose loss is not finite; on a GPU after the one that follows it.

    The losses of several processes are summed, so that all of them stop after the same batch.
    """

    def __init__(self):
        self.read_delayed = DelayedReader()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        delayed = self.read_delayed(all_reduce(outputs["loss"].detach(), "SUM"), trainer.global_step)
        if delayed and not delayed[0].isfinite():
            raise Diverged(
                f"The loss is {delayed[0].item()} at step {delayed[1]}, in epoch {trainer.current_epoch + 1}"
            )
