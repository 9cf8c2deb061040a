"""The checkpoints of a run: the best by `val/bound`, the last, and the one before it."""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from callbacks.base import between_steps
from callbacks.nan_guard import check_weights
from runtime.checkpoint_io import link_or_copy
from runtime.collectives import DelayedReader, all_reduce
from runtime.hparams import training_options
from runtime.provenance import commit, machine


class RunCheckpoint(Checkpoint):
    """Writes `best.ckpt` whenever `val/bound` is higher than ever, and `last.ckpt` after each epoch.

    Lightning's ModelCheckpoint would write `last.ckpt` only in epochs that are also the best, and would take a first
    epoch of NaN for the best.

    Args:
        folder: The run folder; the files lie in its `checkpoints`.
        every_steps: Write `last.ckpt` also every so many optimiser steps.
        every_minutes: Write it also when so many minutes have gone by.
        seed: The run's seed; each checkpoint holds it, with the data and their protocol, under `run`.

    Raises:
        ValueError: `every_steps` or `every_minutes` is not above 0.
    """

    def __init__(
        self, folder: str | Path, seed: int, every_steps: int | None = None, every_minutes: float | None = None
    ):
        if (every_steps is not None and every_steps < 1) or (every_minutes is not None and not every_minutes > 0):
            raise ValueError(
                f"--save_every_steps and --save_every_minutes must be above 0; got {every_steps} and {every_minutes}."
            )
        names = ("best.ckpt", "last.ckpt", "previous.ckpt")
        self.best, self.last, self.previous = (Path(folder, "checkpoints", name) for name in names)
        self.seed, self.every_steps, self.every_minutes = seed, every_steps, every_minutes
        self.best_bound, self.saved_when, self.read_delayed = -math.inf, time.monotonic(), DelayedReader()
        self.checked_step = 0  # the step at which it was last looked whether one is due
        self.has_begun = False  # whether nothing stands in the way of training
        self.started, self.before = time.monotonic(), {}  # what earlier starts of this run have noted

    @property
    def best_model_path(self) -> str:
        """The path of `best.ckpt`, or nothing while there is none."""
        return str(self.best) if self.best.is_file() else ""

    @property
    def last_model_path(self) -> str:
        """The path of `last.ckpt`, or nothing while there is none."""
        return str(self.last) if self.last.is_file() else ""

    def check_disk_space(self, trainer: Trainer) -> None:
        """Writes a checkpoint on trial, before the first step.

        Raises:
            OSError: There is no room for the checkpoints of the run.
        """
        trial = self.last.with_name("trial.partial")
        trainer.save_checkpoint(trial, weights_only=False)
        if trainer.is_global_zero:
            size, free = trial.stat().st_size, shutil.disk_usage(trial.parent).free
            trial.unlink()
            size *= 1 if trainer.global_step else 3  # Adam's two moments come with the first step
            there = sum(path.stat().st_size for path in (self.best, self.last, self.previous) if path.is_file())
            # of the best, the last, the one before and a new one each
            if free + there < 4 * size:
                raise OSError(
                    f"{trial.parent} has {free >> 20} MB left, too few for four checkpoints: make room first."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        self.has_begun, self.checked_step = True, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if between_steps(trainer, batch_idx) and self._is_due(trainer):
            self.save_last(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        step, before, self.checked_step = trainer.global_step, self.checked_step, trainer.global_step
        if self.every_steps and step // self.every_steps > before // self.every_steps:  # a call may take several steps
            return True
        if not self.every_minutes:
            return False
        late = time.monotonic() - self.saved_when > 60 * self.every_minutes
        if trainer.world_size == 1:
            return late
        # the clocks of several processes differ
        known = self.read_delayed(all_reduce(torch.full((), float(late), device=trainer.strategy.root_device), "MAX"))
        return bool(known and known[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # an epoch without validation shows the bound of an earlier one, which is no improvement either
        bound = float(trainer.callback_metrics.get("val/bound", math.nan))
        # one process decides, for a checkpoint is the work of all
        if trainer.strategy.broadcast(math.isfinite(bound) and bound > self.best_bound):
            self.best_bound = bound
            self._save(trainer, self.best)
        self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Writes `last.ckpt`, after an epoch or between two batches, and keeps the one before as `previous.ckpt`."""
        self._save(trainer, self.last, keep=self.previous)
        self.checked_step, self.saved_when = trainer.global_step, time.monotonic()

    def _save(self, trainer: Trainer, path: Path, keep: Path | None = None) -> None:
        check_weights(trainer, trainer.lightning_module)
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)  # the optimiser too
        if trainer.is_global_zero:
            if keep and path.exists():
                link_or_copy(path, keep)  # a run that is killed now has both names for it
            os.replace(partial, path)  # and one that is killed earlier the file it had

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        data = trainer.datamodule
        checkpoint["run"] = {
            "data": type(data).__name__,
            "protocol": data.protocol,
            "seed": self.seed,
            "labels_hash": data.labels_hash,
            "processes": trainer.world_size,
        }
        checkpoint["training"] = training_options(trainer, data)
        checkpoint["threads"] = torch.get_num_threads()  # those of this run, whose last digits depend on them
        checkpoint["made"] = self.made(trainer)

    def made(self, trainer: Trainer) -> dict[str, Any]:
        """How this state came about: code and machines, one after the other, and seconds of training in all."""
        now = {"commit": commit(), "machine": machine(trainer.strategy.root_device, trainer.world_size)}
        several = {key: [*filter(None, dict.fromkeys([*self.before.get(key, []), name]))] for key, name in now.items()}
        return several | {"seconds": self.before.get("seconds", 0.0) + time.monotonic() - self.started}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.before = checkpoint.get("made", {})

    def state_dict(self) -> dict[str, Any]:
        return {"best_bound": self.best_bound}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.is_file():  # a run that goes on in another folder needs a best of its own there
            self.best_bound = state_dict["best_bound"]
