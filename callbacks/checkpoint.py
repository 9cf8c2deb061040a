"""The two checkpoints of a run: the best by `val/bound`, and the last."""

import math
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint


class RunCheckpoint(Checkpoint):
    """Writes `best.ckpt` whenever `val/bound` is higher than ever, and `last.ckpt` after each epoch.

    Lightning's ModelCheckpoint would write `last.ckpt` only in epochs that are also the best, and would take a first
    epoch of NaN for the best.

    Args:
        folder: The run folder; the two files lie in its `checkpoints`.
        seed: The run's seed; each checkpoint holds it, with the data and their protocol, under `run`.
    """

    def __init__(self, folder: str | Path, seed: int):
        self.best, self.last = (Path(folder, "checkpoints", name) for name in ("best.ckpt", "last.ckpt"))
        self.seed = seed
        self.best_bound = -math.inf

    @property
    def best_model_path(self) -> str:
        """The path of `best.ckpt`, or nothing while there is none."""
        return str(self.best) if self.best.is_file() else ""

    @property
    def last_model_path(self) -> str:
        """The path of `last.ckpt`, or nothing while there is none."""
        return str(self.last) if self.last.is_file() else ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # an epoch without validation shows the bound of an earlier one, which is no improvement either
        bound = float(trainer.callback_metrics.get("val/bound", math.nan))
        if math.isfinite(bound) and bound > self.best_bound:
            self.best_bound = bound
            self._save(trainer, self.best)
        self._save(trainer, self.last)

    def _save(self, trainer: Trainer, path: Path) -> None:
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)  # the optimiser too
        if trainer.is_global_zero:
            os.replace(partial, path)  # a run that is killed keeps the file it had

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        data = trainer.datamodule
        checkpoint["run"] = {
            "data": type(data).__name__,
            "protocol": data.protocol,
            "seed": self.seed,
            "labels_hash": data.labels_hash,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"best_bound": self.best_bound}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.best.is_file():  # a run that goes on in another folder needs a best of its own there
            self.best_bound = state_dict["best_bound"]
