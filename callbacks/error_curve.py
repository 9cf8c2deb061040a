"""The classification error on validation images by epoch."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer

from callbacks.base import PowersOfTwoCallback
from callbacks.record import record_figure
from callbacks.titles import subject
from figures import charts


class ErrorCurve(PowersOfTwoCallback):
    """Draw `val/error` of all epochs so far, including those before the run was resumed."""

    name = "error"
    required_method = "classify"

    def __init__(self):
        self.errors: dict[int, float] = {}  # error by epoch, counted from 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and "val/error" in trainer.callback_metrics:
            self.errors[trainer.current_epoch + 1] = trainer.callback_metrics["val/error"].item()

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        if self.errors:
            record_figure(trainer, "error", charts.error_curve(self.errors, subject(model, trainer.datamodule)))

    def state_dict(self) -> dict[str, Any]:
        return {"errors": dict(self.errors)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.errors = dict(state_dict["errors"])
