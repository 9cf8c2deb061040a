"""The last moment at which a run can be refused: what it records is written only then."""

from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer


class RunStart(Callback):
    """Writes the records of a run (configuration, loggers) once nothing stands in the way of its first step.

    Everything that the Trainer itself refuses, such as limits that a checkpoint is beyond, it has refused by then; so a
    command that is refused leaves an existing run folder as it was. It is to be the first of the callbacks, before one
    that shows progress.

    Args:
        write: Writes the records; may itself refuse the run by an exception.
    """

    def __init__(self, write: Callable[[Trainer], None]):
        self.write, self.is_written = write, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.checkpoint_callback.check_disk_space(trainer)
        self.write_once(trainer)

    def write_once(self, trainer: Trainer) -> None:
        """Writes the records, unless that has been done: `fit` begins no training where a run is complete."""
        if not self.is_written:
            self.write(trainer)
        self.is_written = True
