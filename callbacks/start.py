"""Write the records of a run only once it can no longer be refused."""

from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer


class RunStart(Callback):
    """Write the records of a run (configuration, loggers) immediately before its first step.

    By then the Trainer has made its own checks, such as limits that a checkpoint already exceeds, so a refused command
    leaves an existing run folder unchanged. This must be the first callback, before the progress bar.

    Args:
        write: Writes the records; may refuse the run by raising an exception.
    """

    def __init__(self, write: Callable[[Trainer], None]):
        self.write = write
        self.is_written = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.checkpoint_callback.check_disk_space(trainer)
        self.write_once(trainer)

    def write_once(self, trainer: Trainer) -> None:
        """Write the records unless they are written: for a complete run, `fit` never calls `on_train_start`."""
        if not self.is_written:
            self.write(trainer)
        self.is_written = True
