"""Stop training when the validation bound no longer improves."""

import sys
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.record import finished_epochs


class EarlyStopping(pytorch_lightning.callbacks.EarlyStopping):
    """Stop training after `patience` consecutive validations without a higher `val/bound`, and print one line about it.

    The state is part of every checkpoint: a resumed run stops at the same step as an uninterrupted one, and a run that
    has stopped stays finished. A bound that is not finite counts as no improvement.

    Args:
        patience: `--early_stopping`, the number of validations without improvement.

    Raises:
        ValueError: `patience` is below 1.
    """

    def __init__(self, patience: int):
        if patience < 1:
            raise ValueError(f"--early_stopping must be at least 1; got {patience}.")
        # checked after each validation, which need not take place in every epoch
        super().__init__("val/bound", patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False)
        self.best_epoch = 0  # counted from 1; 0 before the first improvement

    @property
    def is_exhausted(self) -> bool:
        """Return whether the bound has not improved for `patience` validations."""
        return self.wait_count >= self.patience

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a resumed run that had already stopped, before its next step."""
        if self.is_exhausted:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        was_exhausted = self.is_exhausted
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking:
            return
        if self.wait_count == 0:
            self.best_epoch = trainer.current_epoch + 1
        if was_exhausted and not self.is_exhausted:
            trainer.should_stop = False  # the bound improved while min_epochs kept training going

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # in teardown because a finished run that is started again never reaches on_train_end
        if self.is_exhausted:
            self._print_reason(trainer)

    def _print_reason(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            times = "validation" if self.wait_count == 1 else "validations"
            print(
                f"Early stopping after epoch {finished_epochs(trainer)}: val/bound has not improved for "
                f"{self.wait_count} {times}; the best was {self.best_score.item():.2f} in epoch {self.best_epoch}.",
                file=sys.stderr,
            )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        patience = self.patience  # of this start; --allow_changes permits another value than the checkpoint's
        super().load_state_dict(state_dict)
        self.patience, self.best_epoch = patience, state_dict["best_epoch"]
        self.best_score = torch.as_tensor(self.best_score)


def check_validation(trainer: Trainer, val_size: int) -> None:
    """Raise ValueError if the run never validates, so that early stopping could have no effect.

    Args:
        trainer: The Trainer with the limits of the run.
        val_size: Number of validation images.
    """
    every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs or -1
    if not val_size or not trainer.limit_val_batches or 0 < epochs < every:
        raise ValueError(
            "--early_stopping needs validation: use data with validation images, --trainer.limit_val_batches above 0 "
            "and --trainer.check_val_every_n_epoch of no more than --trainer.max_epochs."
        )
