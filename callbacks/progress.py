"""Progress of a run: one bar on a terminal, or an occasional line in a log file."""

import math
import sys
import time
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from tqdm import tqdm

from callbacks.base import PowersOfTwoCallback, finished_epochs

REFRESH = 0.2  # seconds
SHOWN = (("val/bound", "val/bound"), ("loss", "train/loss"), ("D(x)", "train/d_real"), ("D(G(z))", "train/d_fake"))
BAR = "{desc} {percentage:3.0f}%|{bar}|"


def duration(seconds: float) -> str:
    """Return a duration in seconds as text: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def is_scheduled(epoch: int) -> bool:
    """Return whether the epoch is a power of two, after which figures are drawn."""
    return epoch & (epoch - 1) == 0


def rounds_between(epoch: int, last_epoch: int) -> int:
    """Return how many rounds of figures are still to come after `epoch`, including that of the last epoch."""
    if epoch >= last_epoch:
        return 0
    return last_epoch.bit_length() - epoch.bit_length() + (not is_scheduled(last_epoch))


class Pace:
    """Estimate the remaining time from the seconds per step and per round of figures, measured separately.

    The seconds per step include validation and checkpoints. They are measured over the epochs since the last power of
    two, to follow the load of the machine, and without the first step, which allocates memory. A round of figures is
    drawn after epochs 1, 2, 4, 8, ... and the last, and is expected to take as long as the previous one.

    Args:
        now: Time at the start of training, in seconds.
        step: Number of optimizer steps taken before.
    """

    def __init__(self, now: float, step: int):
        self.since, self.first_step = now, step  # start of the interval over which the rate is measured
        self.figures = 0.0  # seconds of the interval that were spent on figures
        self.seconds_per_step = math.inf
        self.seconds_per_round = 0.0
        self.has_begun = False
        self.has_whole_epoch = False  # whether the rate was measured over whole epochs, with validation

    def work_until(self, now: float, step: int) -> None:
        """Record the end of a batch. The first batch only starts the first interval."""
        if not self.has_begun:
            self.has_begun = True
            self.first = now - self.since, step - self.first_step
            self.since, self.first_step = now, step
        elif self.seconds_per_step == math.inf or not self.has_whole_epoch:
            self._measure(now, step)

    def epoch_ended(self, worked_until: float, now: float, step: int, restart: bool) -> None:
        """Record the end of an epoch.

        Args:
            worked_until: Time at the end of its training and validation.
            now: Time after its figures were drawn.
            step: Number of optimizer steps taken.
            restart: Whether a new interval starts, after a round of figures.
        """
        if step > self.first_step:
            self._measure(worked_until, step)
        elif self.seconds_per_step == math.inf and self.has_begun and self.first[1]:
            self.seconds_per_step = (self.first[0] + worked_until - self.since) / self.first[1]  # an epoch of one step
        self.has_whole_epoch = True
        self.figures += now - worked_until
        if restart:
            self.seconds_per_round = now - worked_until
            self.since, self.first_step, self.figures = now, step, 0.0

    def _measure(self, now: float, step: int) -> None:
        if step > self.first_step:
            self.seconds_per_step = (now - self.since - self.figures) / (step - self.first_step)

    def left(self, steps: float, rounds: int) -> float:
        """Return the expected seconds for a number of steps and rounds of figures."""
        return (steps * self.seconds_per_step if steps else 0.0) + rounds * self.seconds_per_round


class Progress(PowersOfTwoCallback):
    """Show one bar for the whole run with the time left, or lines in a log file.

    Without a terminal, a line is printed after epochs 1, 2, 4, 8, ... and the last: a bar would fill the log file.
    """

    bar: tqdm | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.monotonic()
        self.pace = Pace(now, trainer.global_step)
        self.worked_until = self.shown = now
        self.steps_per_epoch, self.total = pl_module.steps_per_epoch(), pl_module.total_steps()
        # inf without a limit
        self.last_epoch = self.total if self.total == math.inf else math.ceil(self.total / self.steps_per_epoch)
        if trainer.is_global_zero and sys.stderr.isatty():
            total = None if self.total == math.inf else self.total
            text = self._state(trainer, trainer.current_epoch + 1)
            self.bar = tqdm(
                desc=text, total=total, initial=trainer.global_step, bar_format=BAR, dynamic_ncols=True, file=sys.stderr
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.worked_until = time.monotonic()
        self.pace.work_until(self.worked_until, trainer.global_step)
        if self.bar is not None and self.worked_until - self.shown > REFRESH:
            self._refresh(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.worked_until = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # this callback comes after those that draw figures
        restart = is_scheduled(finished_epochs(trainer))
        self.pace.epoch_ended(self.worked_until, time.monotonic(), trainer.global_step, restart)
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
        per_epoch = self.pace.seconds_per_step * self.steps_per_epoch
        parts = [self._state(trainer, finished_epochs(trainer)), f"{per_epoch:.1f} s/epoch"]
        if 0 < (left := self._left(trainer)) < math.inf:
            at_most = "at most " if trainer.early_stopping_callback else ""
            parts.append(f"{at_most}{duration(left)} left")
        print("  ".join(parts), file=sys.stderr, flush=True)

    def _left(self, trainer: Trainer) -> float:
        """Return the expected remaining seconds of training, inf without a limit."""
        if self.total == math.inf:
            return math.inf
        steps = max(0, self.total - trainer.global_step)
        rounds = rounds_between(finished_epochs(trainer), self.last_epoch)
        return self.pace.left(steps, rounds)

    def _refresh(self, trainer: Trainer) -> None:
        self.shown = time.monotonic()
        self.bar.n = trainer.global_step
        left = self._left(trainer)
        text = tqdm.format_interval(left) if left < math.inf else "?"
        self.bar.bar_format = f"{BAR} {text} left"  # tqdm's own estimate ignores the time for figures
        self.bar.set_description_str(self._state(trainer, trainer.current_epoch + 1))

    def _state(self, trainer: Trainer, epoch: int) -> str:
        limit = f"/{self.last_epoch}" if self.last_epoch < math.inf else ""
        parts = [f"epoch {epoch}{limit}"]
        for label, metric in SHOWN:
            if metric in trainer.callback_metrics:
                value = trainer.callback_metrics[metric].item()
                parts.append(f"{label} {value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{label} {value:.2g}")
        return "  ".join(parts)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
