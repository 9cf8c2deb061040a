"""This project: train.py and evaluate.py with the options of a user, and a callback that reports to the meter."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

import callbacks
import evaluate
import train
from benchmarks.jobs import Job
from benchmarks.meter import Meter
from evaluation import metrics

RUN = "run"


class Ticks(Callback):
    """Report each training step to a meter, or each epoch with its validation, figures and checkpoints.

    Args:
        meter: The meter.
        of_steps: Whether to count steps only, without what happens between epochs.
    """

    def __init__(self, meter: Meter, of_steps: bool):
        self.meter, self.of_steps, self.images = meter, of_steps, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.of_steps and trainer.current_epoch > 1:
            self.meter.tick(len(trainer.datamodule.train.y))
        self.meter.skip()  # exclude the work between epochs, or start-up before the first epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.of_steps:
            batches = getattr(batch, "batches", [batch])  # a group, if the Trainer takes several steps per call
            self.meter.tick(sum(len(y) for _, y in batches))


def options(job: Job) -> list[str]:
    """Return the options of train.py for a job."""
    precision = {"32": "32-true", "bf16": "bf16-mixed"}[job.precision]
    argv = ["--data", "MNIST", "--data.root", job.root, "--data.batch_size", str(job.batch), "--run_dir", RUN]
    argv += ["--model.hidden", str(list(job.hidden)), "--model.z_dim", str(job.z_dim)]
    return [*argv, "--trainer.precision", precision, "--trainer.accelerator", "cpu", *job.flags]


def train_forever(meter: Meter, job: Job, more: list[str], of_steps: bool = True) -> None:
    """Run train.py until the process is killed."""
    for_model = callbacks.for_model

    def with_ticks(*args: Any) -> list[Callback]:
        return [*for_model(*args), Ticks(meter, of_steps)]

    callbacks.for_model = with_ticks
    train.main([*more, "--trainer.max_epochs", "100000", *options(job)])


def vae(meter: Meter, job: Job) -> None:
    """Training steps of --model VAE, or of --model IWAE if K is above 1."""
    more = ["--model", "IWAE", "--model.num_samples", str(job.K)] if job.K > 1 else []
    train_forever(meter, job, more)


def vae_epochs(meter: Meter, job: Job) -> None:
    """Whole epochs of --model VAE, from the second epoch on."""
    train_forever(meter, job, [], of_steps=False)


def m2(meter: Meter, job: Job) -> None:
    """Training steps of --model M2."""
    train_forever(meter, job, ["--model", "M2", "--data.num_labels", str(job.labels)])


def nll(meter: Meter, job: Job) -> None:
    """evaluate.py on a model trained for 50 steps."""
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "50", "--num_samples", "0"]
    train.main([*short, *options(job._replace(flags=(), precision="32"))])
    importance = metrics.importance

    def importance_with_tick(model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        estimate = importance(model, x, *args, **kwargs)
        meter.tick(len(x))
        return estimate

    metrics.importance = importance_with_tick
    while True:
        evaluate.main([str(Path(RUN, "checkpoints", "best.ckpt")), "--num_samples", str(job.K), *job.flags])
