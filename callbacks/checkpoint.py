"""The checkpoints of a run: the best by `val/bound`, the last, and the one before the last."""

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
from callbacks.ema import restore_training_weights
from callbacks.nan_guard import check_weights
from runtime.checkpoint_io import link_or_copy
from runtime.collectives import DelayedReader, all_reduce
from runtime.hparams import training_options
from runtime.provenance import commit, machine


class RunCheckpoint(Checkpoint):
    """Write `best.ckpt` whenever `val/bound` reaches a new maximum, and `last.ckpt` after each epoch.

    Lightning's ModelCheckpoint writes `last.ckpt` only in epochs that are also the best, and keeps a first epoch whose
    bound is NaN as the best.

    Args:
        folder: The run folder; the files are written to its subfolder `checkpoints`.
        seed: The run's seed; stored under `run` in each checkpoint, with the data set and its protocol.
        every_steps: Write `last.ckpt` also every `every_steps` optimizer steps.
        every_minutes: Write `last.ckpt` also every `every_minutes` minutes.

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
        self.best_bound = -math.inf
        self.saved_when = time.monotonic()
        self.read_delayed = DelayedReader()
        self.checked_step = 0  # the last step at which `_is_due` was evaluated
        self.has_begun = False  # True once training has started
        self.started = time.monotonic()
        self.earlier_provenance: dict[str, Any] = {}  # from the checkpoint that this run resumes

    @property
    def best_model_path(self) -> str:
        """Return the path of `best.ckpt`, or an empty string while there is none."""
        return str(self.best) if self.best.is_file() else ""

    @property
    def last_model_path(self) -> str:
        """Return the path of `last.ckpt`, or an empty string while there is none."""
        return str(self.last) if self.last.is_file() else ""

    def check_disk_space(self, trainer: Trainer) -> None:
        """Write and delete a trial checkpoint, to detect a full disk before training.

        Raises:
            OSError: There is not enough space for the checkpoints of the run.
        """
        trial = self.last.with_name("trial.partial")
        trainer.save_checkpoint(trial, weights_only=False)
        if trainer.is_global_zero:
            size, free = trial.stat().st_size, shutil.disk_usage(trial.parent).free
            trial.unlink()
            size *= 1 if trainer.global_step else 3  # Adam allocates its two moments in the first step
            existing = sum(path.stat().st_size for path in (self.best, self.last, self.previous) if path.is_file())
            # best, last, previous, and the next one while it is being written
            if free + existing < 4 * size:
                raise OSError(
                    f"{trial.parent} has {free >> 20} MB left, too little for four checkpoints: free some space first."
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
        step, checked_step = trainer.global_step, self.checked_step
        self.checked_step = step
        # one training batch may take several optimizer steps
        if self.every_steps and step // self.every_steps > checked_step // self.every_steps:
            return True
        if not self.every_minutes:
            return False
        is_overdue = time.monotonic() - self.saved_when > 60 * self.every_minutes
        if trainer.world_size == 1:
            return is_overdue
        # all ranks must agree, and their clocks differ
        flag = torch.full((), float(is_overdue), device=trainer.strategy.root_device)
        agreed = self.read_delayed(all_reduce(flag, "MAX"))
        return bool(agreed and agreed[0])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # without validation in this epoch, the metric is that of an earlier epoch, which is no improvement
        bound = float(trainer.callback_metrics.get("val/bound", math.nan))
        # rank 0 decides for all, because all ranks take part in saving
        if trainer.strategy.broadcast(math.isfinite(bound) and bound > self.best_bound):
            self.best_bound = bound
            self._save(trainer, self.best)
        self.save_last(trainer)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, after an epoch or between two batches, and keep the previous one as `previous.ckpt`."""
        self._save(trainer, self.last, keep=self.previous)
        self.checked_step, self.saved_when = trainer.global_step, time.monotonic()

    def _save(self, trainer: Trainer, path: Path, keep: Path | None = None) -> None:
        check_weights(trainer, trainer.lightning_module)
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)  # with the state of the optimizer
        if trainer.is_global_zero:
            if keep and path.exists():
                link_or_copy(path, keep)  # if killed here, both names refer to the same complete checkpoint
            os.replace(partial, path)  # until here `path` is the old complete checkpoint

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        data = trainer.datamodule
        checkpoint["run"] = {
            "data": type(data).__name__,
            "protocol": data.protocol,
            "seed": self.seed,
            "labels_hash": data.labels_hash,
            "processes": trainer.world_size,
        }
        checkpoint["training"] = training_options(trainer)
        checkpoint["threads"] = (
            torch.get_num_threads()
        )  # a resumed run keeps it: results depend on it in the last digits
        checkpoint["made"] = self.provenance(trainer)

    def provenance(self, trainer: Trainer) -> dict[str, Any]:
        """Return the commits and machines that trained this run, oldest first, and the total seconds of training."""
        current = {"commit": commit(), "machine": machine(trainer.strategy.root_device, trainer.world_size)}
        history = {}
        for key, value in current.items():
            values = dict.fromkeys([*self.earlier_provenance.get(key, []), value])  # without duplicates, in order
            history[key] = [*filter(None, values)]
        seconds = self.earlier_provenance.get("seconds", 0.0) + time.monotonic() - self.started
        return history | {"seconds": seconds}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.earlier_provenance = checkpoint.get("made", {})
        restore_training_weights(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"best_bound": self.best_bound}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.is_file():  # a run resumed in another folder must write a best.ckpt there
            self.best_bound = state_dict["best_bound"]
