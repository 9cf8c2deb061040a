"""This project, as its users run it: `train.py` and `evaluate.py`, with a callback that tells the time."""

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
    """Tells a meter of each step, or of each epoch with its validation, figures and checkpoints."""

    def __init__(self, meter: Meter, of_steps: bool):
        self.meter, self.of_steps, self.images = meter, of_steps, 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.of_steps and trainer.current_epoch > 1:
            self.meter.tick(len(trainer.datamodule.train.y))
        self.meter.skip()  # over what is between the last step of an epoch and this moment, or over the first epoch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.of_steps:
            parts = [batch] if trainer.datamodule.steps_per_call == 1 else batch
            self.meter.tick(sum(len(y) for _, y in parts))


def options(job: Job) -> list[str]:
    """Those of train.py that a job stands for."""
    precision = {"32": "32-true", "bf16": "bf16-mixed"}[job.precision]
    return ["--data", "MNIST", "--data.root", job.root, "--data.batch_size", str(job.batch), "--run_dir", RUN,
            "--model.hidden", str(list(job.hidden)), "--model.z_dim", str(job.z_dim), "--trainer.precision", precision,
            "--trainer.accelerator", "cpu", *job.flags]  # fmt: skip


def trained(meter: Meter, job: Job, more: list[str], of_steps: bool = True) -> None:
    """train.py for as long as anybody asks."""
    usual = callbacks.for_model

    def with_ticks(*args: Any) -> list[Callback]:
        return [*usual(*args), Ticks(meter, of_steps)]

    callbacks.for_model = with_ticks
    train.main([*more, "--trainer.max_epochs", "100000", *options(job)])


def vae(meter: Meter, job: Job) -> None:
    """The steps of --model VAE, or with K above 1 of --model IWAE."""
    more = ["--model", "IWAE", "--model.num_samples", str(job.K)] if job.K > 1 else []
    trained(meter, job, more)


def vae_epochs(meter: Meter, job: Job) -> None:
    """Whole epochs of --model VAE, from the second one on."""
    trained(meter, job, [], of_steps=False)


def m2(meter: Meter, job: Job) -> None:
    """The steps of --model M2."""
    trained(meter, job, ["--model", "M2", "--data.num_labels", str(job.labels)])


def nll(meter: Meter, job: Job) -> None:
    """evaluate.py, on a model that was trained for 50 steps."""
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "50", "--num_samples", "0"]
    train.main([*short, *options(job._replace(flags=(), precision="32"))])
    usual = metrics.importance

    def ticking(model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        estimate = usual(model, x, *args, **kwargs)
        meter.tick(len(x))
        return estimate

    metrics.importance = ticking
    while True:
        evaluate.main([str(Path(RUN, "checkpoints", "best.ckpt")), "--num_samples", str(job.K), *job.flags])
