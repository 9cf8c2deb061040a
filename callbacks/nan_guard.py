"""Stop training when the loss or a weight is NaN or infinite."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from runtime.collectives import DelayedReader, all_reduce


class Diverged(Exception):
    """The loss or a weight is not finite."""


def check_weights(trainer: Trainer, model: LightningModule) -> None:
    """Raise Diverged if a weight of the model is not finite, so that no such checkpoint is written."""
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise Diverged(f"A weight is not finite after step {trainer.global_step}")


class NaNGuard(Callback):
    """Raise `Diverged` after a batch whose loss is not finite; on a GPU one batch later.

    The losses of all ranks are summed, so that all ranks stop after the same batch.
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
