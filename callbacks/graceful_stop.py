"""End training between two batches, with a checkpoint, when a signal asks for it."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from callbacks.base import between_steps
from runtime.collectives import DelayedReader, all_reduce
from runtime.processes import global_rank

# Sent by clusters, Ctrl-C, SLURM's --signal and Ctrl-Break. Not every platform has all of them.
SIGNAL_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name))


class Interrupted(Exception):
    """Training ended because of a signal.

    Args:
        number: The number of the signal.
    """

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


class GracefulStop(Callback):
    """After SIGTERM, Ctrl-C, SIGUSR1 or Ctrl-Break, write `last.ckpt` after the current batch and raise `Interrupted`.

    The handler only stores the signal and prints a line, so a second signal, or one during a save, does no harm. All
    ranks stop after the same batch.
    """

    received = 0  # number of the first signal that this process received
    saved_for_signal = 0  # number of the signal for which `last.ckpt` was written

    def __init__(self):
        self.read_delayed = DelayedReader()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Replaces Lightning's handlers, which save in the middle of a step. Lightning restores the original handlers
        # after training.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received = number
            if global_rank() == 0:
                os.write(2, b"\nStopping after this batch.\n")  # not print(), which is not reentrant

    def _agreed_signal(self, trainer: Trainer) -> int:
        """Return the number of the signal that any rank has received, the same on all ranks, or 0."""
        if trainer.world_size == 1:
            return self.received
        agreed = self.read_delayed(all_reduce(self._flag(trainer), "MAX"))
        return int(agreed[0]) if agreed else 0

    def _flag(self, trainer: Trainer) -> torch.Tensor:
        return torch.full((), self.received, device=trainer.strategy.root_device)  # torch.full does not synchronise

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if between_steps(trainer, batch_idx) and (number := self._agreed_signal(trainer)):
            trainer.checkpoint_callback.save_last(trainer)
            self.saved_for_signal = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # only here have the metrics of the previous step been logged
        if number := self.saved_for_signal or (batch_idx == 0 and self._agreed_signal(trainer)):
            raise Interrupted(number)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # skips the evaluation that follows; the same command resumes with it
        if number := int(all_reduce(self._flag(trainer), "MAX")):
            raise Interrupted(number)
