"""Training that is asked to stop ends between two batches, with a checkpoint."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_only

from callbacks.base import between_steps
from runtime.collectives import DelayedReader, all_reduce

# Of a cluster, of Ctrl-C, of SLURM's --signal, of Ctrl-Break; those that this platform has
SIGNAL_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name))


class Interrupted(Exception):
    """Training ended because of a signal, whose number is given."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


class GracefulStop(Callback):
    """Notes SIGTERM, Ctrl-C and, where there are such, SIGUSR1 and Ctrl-Break; writes `last.ckpt` after the batch, and
    ends training by `Interrupted`.

    The handler does nothing but note and say so: a second signal, or one in the middle of a save, finds nothing to
    break. All ranks stop after the same batch.
    """

    received = 0  # the number of the first signal that this process was sent
    saved_for_signal = 0  # the one for which the last checkpoint was written

    def __init__(self):
        self.read_delayed = DelayedReader()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # in place of Lightning's handlers, which save where they are; after training it puts back what there was before
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received = number
            if rank_zero_only.rank == 0:
                os.write(2, b"\nStopping after this batch.\n")  # print may have been interrupted itself

    def _agreed_signal(self, trainer: Trainer) -> int:
        """The number of the signal that all processes are to stop for, or 0."""
        if trainer.world_size == 1:
            return self.received
        known = self.read_delayed(all_reduce(self._flag(trainer), "MAX"))
        return int(known[0]) if known else 0

    def _flag(self, trainer: Trainer) -> torch.Tensor:
        return torch.full((), self.received, device=trainer.strategy.root_device)  # without waiting for a GPU

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if between_steps(trainer, batch_idx) and (number := self._agreed_signal(trainer)):
            trainer.checkpoint_callback.save_last(trainer)
            self.saved_for_signal = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # only here has the step before been logged
        if number := self.saved_for_signal or (batch_idx == 0 and self._agreed_signal(trainer)):
            raise Interrupted(number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # what follows, the evaluation, is not training: the same command makes it up
        if number := int(all_reduce(self._flag(trainer), "MAX")):
            raise Interrupted(number)
