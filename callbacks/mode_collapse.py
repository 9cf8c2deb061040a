"""Share of nearly identical samples during training, and a warning about mode collapse."""

import math

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from callbacks.base import PowersOfTwoCallback
from callbacks.record import finished_epochs, record_metrics
from models.implicit import COLLAPSED_SHARE

IMAGES = 500  # validation images, and as many samples
MIN_IMAGES = 50  # fewer images say little about how many of the data are nearly identical
MIN_STEPS_BETWEEN_CHECKS = 100  # optimizer steps between the two checks that must agree


class ModeCollapse(PowersOfTwoCallback):
    """Log the share of pairs of samples that are nearly identical, and warn once if the generator has collapsed.

    The share is logged as `val/duplicates`. The check runs after every epoch. A generator starts with nearly identical
    samples, so that it has collapsed only if two checks agree and the share does not fall in between.
    """

    name = "mode_collapse"
    required_method = "duplicates"

    def __init__(self):
        self.first_collapsed: tuple[int, float] | None = None  # step and share of the first suspicious check
        self.has_warned = False

    def share(self, trainer: Trainer, model: LightningModule) -> float:
        """Return the share for the first validation images; NaN for too few images."""
        x, _ = trainer.datamodule.images("val", IMAGES, model.device)
        return model.duplicates(x) if len(x) >= MIN_IMAGES else math.nan

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        if not math.isnan(share := self.share(trainer, model)):
            record_metrics(trainer, {"val/duplicates": share})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero and not self.has_warned:
            with self.evaluating(trainer, pl_module):
                self._check_collapse(trainer, pl_module)

    def _check_collapse(self, trainer: Trainer, model: LightningModule) -> None:
        """Warn if the share of duplicates is too high at two checks in a row and has not fallen between them."""
        share, step = self.share(trainer, model), trainer.global_step
        if not share > COLLAPSED_SHARE or (self.first_collapsed and share < self.first_collapsed[1]):
            self.first_collapsed = None
        elif self.first_collapsed is None:
            self.first_collapsed = step, share
        elif step - self.first_collapsed[0] >= MIN_STEPS_BETWEEN_CHECKS:
            self.has_warned = True
            rank_zero_warn(
                f"The generator has collapsed after {finished_epochs(trainer)} epochs: {share:.0%} of the pairs of "
                f"samples are nearly identical. {model.collapse_remedy()}"
            )
