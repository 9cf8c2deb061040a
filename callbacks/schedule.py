"""When a callback looks at the model: after epochs 1, 2, 4, 8, ... and after the last."""

from pytorch_lightning import Callback, LightningModule, Trainer

from models import evaluating


def finished_epochs(trainer: Trainer) -> int:
    """Epochs of training behind us: the same number at the end of an epoch and, afterwards, at the end of training."""
    return trainer.fit_loop.epoch_progress.current.processed


class Scheduled(Callback):
    """Calls `act` after epochs 1, 2, 4, 8, ... and the last, also when training stops early.

    An epoch can take two seconds, so looking after each would take longer than training. `act` runs on rank 0 alone, in
    evaluation mode and with its own noise, so that it cannot change training.
    """

    seed = 0
    acted_after = 0  # epochs

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
        if trainer.is_global_zero and self.acted_after != finished_epochs(trainer):
            self.acted_after = finished_epochs(trainer)
            with evaluating(model, self.seed):
                self.act(trainer, model)
