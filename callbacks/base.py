"""When a callback looks at the model: after epochs 1, 2, 4, 8, ... and after the last."""

from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.record import finished_epochs, record_figure
from models import Model, evaluating


def between_steps(trainer: Trainer, batch_idx: int) -> bool:
    """Whether an optimiser step has just ended, no gradient is held, and more batches of the epoch follow.

    After the last batch of an epoch comes validation, and then a checkpoint anyway.
    """
    return batch_idx + 1 < trainer.num_training_batches and (batch_idx + 1) % trainer.accumulate_grad_batches == 0


class PowersOfTwoCallback(Callback):
    """Calls `act` after epochs 1, 2, 4, 8, ... and the last, also when training stops early.

    An epoch can take two seconds, so looking after each would take longer than training. `act` runs on rank 0 alone,
    unless the callback says otherwise, in evaluation mode and with its own noise, so that it cannot change training.
    """

    name = ""  # in `CALLBACKS`
    required_method = ""  # capability of the model that the callback needs (see `models.base.Model`); "" for none
    by_default = True  # whether it is taken where nobody chooses
    seed = 0
    on_all_ranks = False  # whether all processes take part
    acted_after = 0  # epochs

    @classmethod
    def unsupported_reason(cls, model: Model) -> str | None:
        """Why this callback cannot serve a model, a sentence that says what to do; none where it can."""
        if not cls.required_method or model.can(cls.required_method):
            return None
        return (
            f"{type(model).__name__} has no {cls.name.replace('_', ' ')}: it defines no {cls.required_method}(); "
            f"leave {cls.name} out, or choose another model."
        )

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        """What to do on the schedule."""
        raise NotImplementedError

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = finished_epochs(trainer)
        if epoch & (epoch - 1) == 0 or epoch == trainer.max_epochs:
            self._act_once(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._act_once(trainer, pl_module)  # only here is it known that an early stop made this epoch the last

    def _act_once(self, trainer: Trainer, model: LightningModule) -> None:
        if (trainer.is_global_zero or self.on_all_ranks) and self.acted_after != finished_epochs(trainer):
            self.acted_after = finished_epochs(trainer)
            with evaluating(model, self.seed):
                self.act(trainer, model)


class FigureCallback(PowersOfTwoCallback):
    """Records figures on the schedule. `draw` needs no trainer: with `models.evaluating(model)` around it, it draws the
    same from a checkpoint."""

    def draw(self, model: Model, data: Any) -> dict[str, Figure]:
        """Figures by their names, on the device of the model; none where these data have nothing to draw.

        Args:
            model: In evaluation mode, without gradients.
            data: Its data module, set up.
        """
        raise NotImplementedError

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        for name, figure in self.draw(model, trainer.datamodule).items():
            record_figure(trainer, name, figure)
