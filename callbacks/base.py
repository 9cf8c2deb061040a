"""Base classes of callbacks that run after epochs 1, 2, 4, 8, ... and after the last."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.ema import averaged_weights
from callbacks.record import finished_epochs, record_figure
from figures.animation import Drawing
from models import Model, evaluating


def between_steps(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether an optimizer step has just ended, no gradient is accumulated, and the epoch has more batches.

    False after the last batch of an epoch, which is followed by validation and a checkpoint anyway.
    """
    return batch_idx + 1 < trainer.num_training_batches and (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class PowersOfTwoCallback(Callback):
    """Call `act` after epochs 1, 2, 4, 8, ... and the last, also when training stops early.

    An epoch can take as little as two seconds; figures after every epoch would take longer than training. `act` runs in
    evaluation mode with its own random state, so it cannot change training, and on rank 0 only unless `on_all_ranks`.
    """

    name = ""  # key in `CALLBACKS`
    required_method = ""  # capability of the model that the callback needs (see `Model.can`); "" for none
    by_default = True  # whether it runs when --callbacks is not given
    seed = 0
    on_all_ranks = False  # whether `act` runs on all ranks
    acted_after = 0  # the epoch after which `act` last ran

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        """Return why a model does not support this callback, and what to do, as a sentence; None if it does."""
        if not cls.required_method or model.can(cls.required_method):
            return None
        return (
            f"{type(model).__name__} has no {cls.name.replace('_', ' ')}: it defines no {cls.required_method}(); "
            f"leave {cls.name} out, or choose another model."
        )

    @classmethod
    def is_default_for(cls, model: Model) -> bool:
        """Return whether the callback runs for a model that supports it when --callbacks is not given."""
        return cls.by_default

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        """Do the work of the callback."""
        raise NotImplementedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = finished_epochs(trainer)
        if epoch & (epoch - 1) == 0 or epoch == trainer.max_epochs:
            self._act_once(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act_once(trainer, pl_module)  # after an early stop, the last epoch is known only here

    def _act_once(self, trainer: Trainer, model: LightningModule) -> None:
        if (trainer.is_global_zero or self.on_all_ranks) and self.acted_after != finished_epochs(trainer):
            self.acted_after = finished_epochs(trainer)
            with self.evaluating(trainer, model):
                self.act(trainer, model)

    @contextmanager
    def evaluating(self, trainer: Trainer, model: LightningModule) -> Iterator[None]:
        """Switch to evaluation mode with the weights that validation uses, without gradients and with its own noise."""
        with averaged_weights(trainer, model), evaluating(model, self.seed):
            yield


class FigureCallback(PowersOfTwoCallback):
    """Record figures after epochs 1, 2, 4, 8, ... and the last.

    `draw` needs no Trainer: within `models.evaluating(model)` it draws the same figures from a checkpoint.
    """

    def draw(self, model: Model, data: Any) -> Mapping[str, Drawing]:
        """Return figures and animations by name; an empty dictionary if there is nothing to draw for this data.

        Args:
            model: The model, in evaluation mode, without gradients.
            data: Its data module, set up.
        """
        raise NotImplementedError

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        for name, figure in self.draw(model, trainer.datamodule).items():
            record_figure(trainer, name, figure)
