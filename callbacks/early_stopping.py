"""Training stops when the validation bound no longer improves."""

import sys
from typing import Any

import pytorch_lightning
import torch
from pytorch_lightning import LightningModule, Trainer

from callbacks.record import finished_epochs


class EarlyStopping(pytorch_lightning.callbacks.EarlyStopping):
    """Stops training after `patience` validations in a row without a higher `val/bound`, and says so in one line.

    Its state is in every checkpoint: a run that goes on after an interruption stops where it would have stopped without
    one, and a run that has stopped stays finished. A bound that is not finite is no improvement.

    Args:
        patience: `--early_stopping`, validations without improvement.

    Raises:
        ValueError: `patience` is below 1.
    """

    def __init__(self, patience: int):
        if patience < 1:
            raise ValueError(f"--early_stopping must be at least 1; got {patience}.")
        # after validation, however often it takes place, and not after epochs
        super().__init__("val/bound", patience=patience, mode="max", check_finite=False, check_on_train_epoch_end=False)
        self.best_epoch = 0  # from 1

    @property
    def is_exhausted(self) -> bool:
        """Whether the bound has not improved for too long."""
        return self.wait_count >= self.patience

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run that is resumed after it has stopped before its next step."""
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
            trainer.should_stop = False  # it has improved while min_epochs kept it going

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.is_exhausted:  # also where a finished run is started again, which has no end of training
            self._say_why(trainer)

    def _say_why(self, trainer: Trainer) -> None:
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
        patience = self.patience  # the option of this start, where a change of it is allowed
        super().load_state_dict(state_dict)
        self.patience, self.best_epoch = patience, state_dict["best_epoch"]
        self.best_score = torch.as_tensor(self.best_score)


def check_validation(trainer: Trainer, val_size: int) -> None:
    """Raise ValueError if the run has no validation whose bound could stop it.

    Args:
        trainer: With the limits of the run.
        val_size: Number of validation images.
    """
    every, epochs = trainer.check_val_every_n_epoch or 1, trainer.max_epochs or -1
    if not val_size or not trainer.limit_val_batches or 0 < epochs < every:
        raise ValueError(
            "--early_stopping needs validation: use data with validation images, --trainer.limit_val_batches above 0 "
            "and --trainer.check_val_every_n_epoch of no more than --trainer.max_epochs."
        )
