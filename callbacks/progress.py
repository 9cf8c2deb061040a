"""How far the run is: one bar on a terminal, now and then a line in a log file."""

import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from tqdm import tqdm

from callbacks.schedule import Scheduled, finished_epochs

REFRESH = 0.2  # seconds
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left"


def duration(seconds: float) -> str:
    """Seconds as a person would say them: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress(Scheduled):
    """One bar for the whole run, with the time left; without a terminal, a line after epochs 1, 2, 4, 8, ... and the
    last, because a bar would fill a log file."""

    bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started, self.first_step = time.monotonic(), trainer.global_step
        self.first_epoch = finished_epochs(trainer)
        # inf without any limit; the last call of an epoch may be of fewer steps, which nobody sees
        self.total = trainer.estimated_stepping_batches * trainer.datamodule.steps_per_call
        self.shown = self.started
        if trainer.is_global_zero and sys.stderr.isatty():
            total = None if self.total == float("inf") else self.total
            text = self._state(trainer, trainer.current_epoch + 1)
            self.bar = tqdm(
                desc=text, total=total, initial=self.first_step, bar_format=BAR, dynamic_ncols=True, file=sys.stderr
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is not None and time.monotonic() - self.shown > REFRESH:
            self._refresh(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None:
            self._refresh(trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        if self.bar is not None:
            return
        elapsed, epoch = time.monotonic() - self.started, finished_epochs(trainer)
        parts = [self._state(trainer, epoch), f"{elapsed / (epoch - self.first_epoch):.1f} s/epoch"]
        left = elapsed * (self.total - trainer.global_step) / (trainer.global_step - self.first_step)
        if 0 < left < float("inf"):
            parts.append(f"{duration(left)} left")
        print("  ".join(parts), file=sys.stderr, flush=True)

    def _refresh(self, trainer: Trainer) -> None:
        self.shown = time.monotonic()
        self.bar.n = trainer.global_step
        self.bar.set_description_str(self._state(trainer, trainer.current_epoch + 1))

    def _state(self, trainer: Trainer, epoch: int) -> str:
        limit = f"/{trainer.max_epochs}" if trainer.max_epochs > 0 else ""
        metrics = trainer.callback_metrics
        shown = (("val/bound", "val/bound"), ("loss", "train/loss"))
        return "  ".join([f"epoch {epoch}{limit}", *(f"{a} {metrics[b].item():.2f}" for a, b in shown if b in metrics)])

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
