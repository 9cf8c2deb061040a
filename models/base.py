"""What all models share: the optimiser, the step, validation; and how to look at a model without changing it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from models import inputs
from models.multistep import take_steps
from models.networks import start_at_mean


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Evaluation mode, no gradients, noise from `seed`; mode and random state are restored afterwards.

    Log weights estimate p(x) only in this mode: batch norm in training mode makes images depend on each other.
    """
    was_training = {module: module.training for module in model.modules()}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # manual_seed reseeds them all
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            torch.manual_seed(seed)
            yield
    finally:
        for module, training in was_training.items():
            module.training = training


class Mean(Metric):
    """The mean over all images of all devices, summed in float64; a NaN stays one.

    torchmetrics' own MeanMetric adds up each batch in float32.
    """

    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Adds one number per image, `(B,)`, or fewer where not every image has one."""
        # a model that moves to 16 bits takes these sums along while they are zero
        self.total = self.total.double() + values.double().sum()
        self.count = self.count.double() + values.numel()

    def compute(self) -> Tensor:
        """The mean of all numbers since the last reset."""
        return self.total / self.count


def mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """The mean of `values (B,)` where `mask`, 0 where that is nowhere; shapes do not depend on the mask."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def learning_rate_factor(progress: float, ratio: float, schedule: str) -> float:
    """lr(progress) / lr(0) for `progress` in [0, 1] and `ratio` = last / first.

    `cosine` is half a wave (Loshchilov & Hutter 2017); `exponential` falls by the same factor each epoch; `stages` is
    the schedule of Burda et al. (2015): eight stages of length 3^0 ... 3^7, whose rates fall evenly in the logarithm.
    """
    if schedule == "cosine":
        return ratio + (1 - ratio) * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "exponential":
        return ratio**progress
    # round() takes away what floating point leaves at the first epoch of a stage
    stage = math.floor(round(math.log(1 + progress * (3**8 - 1), 3), 9))
    return ratio ** (min(stage, 7) / 7)


class Model(LightningModule):
    """The base of all models.

    A subclass defines `loss(x, y)`, which training minimises, and `validation_metrics(x, y)`, the per-image metrics of
    validation, named in `metric_names`; `bound` among them picks the best checkpoint. What else a model can do is what
    it defines (`reconstruct`, `interpolate`, `sample`, `log_weights`, ...).

    Args:
        lr: Learning rate of Adam.
        lr_final: Learning rate at the end of training, by whichever of max_epochs and max_steps comes first; none keeps
            it constant. Early stopping does not move the end of the schedule.
        lr_schedule: How the rate gets from `lr` to `lr_final`: by half a cosine wave, by the same factor each epoch, or
            in the eight stages of Burda et al. (2015). It changes once per epoch, or at every step where max_steps ends
            the run or there is only one epoch.
        adam_eps: Epsilon of Adam (1e-4 in Burda et al. 2015).
    """

    metric_names: tuple[str, ...] = ("bound",)
    data_args: tuple[str, ...] = ("image_shape",)  # arguments that the data give, and the command line does not
    learns_from_labels = False  # whether training batches of partly labelled data are to hold some labels each
    is_conditional = False  # whether the label is given to the model with each image, as to CVAE
    default_limit: int | None = None  # test images whose likelihood is evaluated by default; none is all of them
    default_epochs = 300  # of training at most, where nobody says how many
    quantity: str | None = "log p(x)"  # what log weights are estimates of
    scheduled_steps: int | None = None  # steps over which the learning rate falls, where it does so step by step

    def __init__(
        self,
        lr: float = 1e-3,
        lr_final: float | None = None,
        lr_schedule: Literal["cosine", "exponential", "stages"] = "cosine",
        adam_eps: float = 1e-8,
    ):
        super().__init__()
        if not lr > 0 or not adam_eps > 0 or not (lr_final is None or lr_final > 0):  # NaN is none of these
            raise ValueError(f"Learning rates and adam_eps must be positive; got {lr}, {lr_final} and {adam_eps}.")
        if lr_schedule not in ("cosine", "exponential", "stages"):
            raise ValueError(f"Unknown lr_schedule '{lr_schedule}': choose cosine, exponential or stages.")
        if lr_schedule != "cosine" and lr_final is None:
            raise ValueError(f"lr_schedule {lr_schedule} needs lr_final, the learning rate of the last epoch.")
        self.save_hyperparameters()
        self.val_means = nn.ModuleDict({name: Mean() for name in self.metric_names})

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The scalar that training minimises: a mean over the batch, in nats per image."""
        raise NotImplementedError

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Metrics of validation, one number `(B,)` per image for each name in `metric_names`, or fewer."""
        raise NotImplementedError

    @classmethod
    def for_data(cls, data, **options):
        """The model for a data module that has been set up; ValueError where it cannot be trained on these data."""
        model = cls(**{name: getattr(data, name) for name in cls.data_args}, **options)
        model.check_data(data)
        model.start_at_mean(data.train_mean())
        return model

    @property
    def decoder_cost(self) -> int:
        """What one sample of one image costs, in rows of a fully connected decoder."""
        return self.decoder.rows_per_image if hasattr(self, "decoder") else 1

    @property
    def has_batch_norm(self) -> bool:
        """Whether it trains a layer that looks at all images of a batch."""
        layers = (module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        return any(parameter.requires_grad for layer in layers for parameter in layer.parameters())

    def start_at_mean(self, mean: Tensor) -> None:
        """Starts the decoder's output at the mean training image `(C, H, W)`."""
        if hasattr(self, "decoder"):
            start_at_mean(self.decoder, mean)

    def check_data(self, data) -> None:
        """ValueError where these data are none for this model: here, by their protocol alone."""
        self.check_protocol(data.protocol)

    def check_protocol(self, protocol: str) -> None:
        """ValueError where images of this protocol are no data for this model. Any are, unless a subclass objects."""

    def condition_args(self, *labels: Tensor) -> tuple[Tensor, ...]:
        """The labels, as further arguments of a conditional model's methods; none for the others, to whom `log_weights`
        with labels would be another quantity."""
        return labels if self.is_conditional else ()

    # Inputs of the methods that users call: each returns them as the model computes with them, or raises ValueError

    @property
    def latent_dim(self) -> int:
        """Dimensions of what `encode` gives and `decode` takes."""
        return self.hparams.z_dim

    @property
    def takes_pixels(self) -> bool:
        """Whether x is an image with values in [0, 1]."""
        return True

    @property
    def needs_binary(self) -> bool:
        """Whether the likelihood is one of pixels that are 0 or 1 alone."""
        return False

    def as_images(self, x) -> Tensor:
        """Images `(B, C, H, W)` in [0, 1] from floats, bytes or booleans, on the model's device."""
        like, shape = next(self.parameters()), tuple(self.hparams.image_shape)
        return inputs.as_images(x, shape, like, self.takes_pixels)

    def as_labels(self, y, shape: tuple[int, ...], broadcast: bool = False) -> Tensor | None:
        """Labels of this shape, or one that broadcasts with it. Models without labels leave them aside."""
        return y

    def as_latents(self, z) -> Tensor:
        """Latents `(..., latent_dim)` on the model's device."""
        return inputs.as_latents(z, self.latent_dim, next(self.parameters()))

    def as_evidence(self, x, y=None) -> tuple[Tensor, Tensor | None]:
        """Images, and labels `(B,)`, that the likelihood is one of: 0 or 1 alone under Bernoulli pixels."""
        x = self.as_images(x)
        if not len(x):
            raise ValueError("A likelihood needs at least one image; got an empty batch.")
        if self.needs_binary:
            inputs.check_binary(x, type(self).__name__)
        return x, self.as_labels(y, (len(x),))

    def check_form(self, x: Tensor) -> None:
        """Raise ValueError unless x has the type and shape of images: a check without a look at values."""
        if not torch.compiler.is_compiling():
            inputs.check_form(x, tuple(self.hparams.image_shape))

    def check_limits(self, max_epochs: int | None, max_steps: int = -1, max_time: object = None) -> None:
        """Raise ValueError if the learning rate is to end at `lr_final` but the end of training is not known.

        Args:
            max_epochs: Limit of epochs of the Trainer, -1 for none.
            max_steps: Limit of optimiser steps of the Trainer, -1 for none.
            max_time: Limit of time of the Trainer.
        """
        if self.hparams.lr_final is None:
            return
        if max_time is not None:
            raise ValueError(
                "lr_final needs a known number of steps, which --trainer.max_time leaves open: leave out one of them."
            )
        if (max_epochs is None or max_epochs < 1) and max_steps < 1:
            raise ValueError("lr_final needs a number of epochs or steps: set --trainer.max_epochs or max_steps.")

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule
        if data is not None:
            self.check_data(data)

    def on_train_batch_start(self, batch: tuple, batch_idx: int) -> None:
        self.prepare_step()

    def training_step(self, batch: tuple, batch_idx: int) -> Tensor:
        loss = self.loss(*batch) if self.automatic_optimization else take_steps(self, batch)
        self.log("train/loss", loss)
        return loss

    def on_train_epoch_end(self) -> None:
        # of this epoch, or of its last step: the optimiser has that of the next one by now
        lr = self.hparams.lr * self.lr_factor(self.current_epoch, self.trainer.global_step - 1)
        if not self.automatic_optimization and (schedule := self.lr_schedulers()):
            schedule.step()
        self.log("train/lr", lr, sync_dist=True, reduce_fx="max")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        for name, values in self.validation_metrics(x, y).items():
            self.val_means[name].update(values)
            self.log(f"val/{name}", self.val_means[name], batch_size=len(x))

    def trained_parameters(self) -> list[nn.Parameter]:
        """All parameters but frozen ones."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self):
        hparams = self.hparams
        # Lightning refuses to clip gradients in 16 bit under a fused optimiser
        fused = self.trainer.gradient_clip_val is None
        adam = torch.optim.Adam(self.trained_parameters(), lr=hparams.lr, eps=hparams.adam_eps, fused=fused)
        if hparams.lr_final is None:
            return adam
        self.check_limits(self.trainer.max_epochs, self.trainer.max_steps)
        return [adam], [torch.optim.lr_scheduler.LambdaLR(adam, self.lr_factor)]

    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch of this run."""
        if self.automatic_optimization:
            return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return self.trainer.datamodule.batches_per_epoch  # several in each of the trainer's batches

    def total_steps(self) -> float:
        """Optimiser steps of the whole run, up to the limit that comes first; inf without limits."""
        max_epochs, max_steps = self.trainer.max_epochs, self.trainer.max_steps
        by_epochs = math.inf if max_epochs is None or max_epochs < 0 else max_epochs * self.steps_per_epoch()
        return by_epochs if max_steps is None or max_steps < 0 else min(by_epochs, max_steps)

    def steps_of_schedule(self) -> int | None:
        """The steps over which the learning rate falls if it does so step by step, None if it does so by epochs.

        A schedule of epochs would not reach its end where training stops by a limit of steps, and could not start where
        there is but one epoch.
        """
        if self.hparams.lr_final is None:
            return None
        steps, max_epochs = self.total_steps(), self.trainer.max_epochs
        if max_epochs is not None and max_epochs > 1 and steps == max_epochs * self.steps_per_epoch():
            return None
        return int(steps)

    def lr_factor(self, epoch: int, step: int | None = None) -> float:
        """The learning rate of an epoch or step of this run, counted from 0, as a part of `lr`.

        Args:
            epoch: The epoch, for a schedule of epochs.
            step: The optimiser step, for a schedule of steps; by default the next one.
        """
        hparams = self.hparams
        if hparams.lr_final is None:
            return 1.0
        done, total = epoch, self.trainer.max_epochs
        if self.scheduled_steps is not None:
            done, total = self.trainer.global_step if step is None else step, self.scheduled_steps
            done = min(done, total - 1)  # of the last step, after it
        # the last epoch or step has lr_final; stages divide the run itself
        span = total if hparams.lr_schedule == "stages" else max(1, total - 1)
        return learning_rate_factor(done / span, hparams.lr_final / hparams.lr, hparams.lr_schedule)

    def prepare_step(self) -> None:
        """Set what changes from step to step: here the learning rate, where its schedule is one of steps."""
        if self.scheduled_steps is not None:
            for group in self.optimizers().param_groups:
                group["lr"] = self.hparams.lr * self.lr_factor(self.current_epoch)

    def on_train_start(self) -> None:
        self.scheduled_steps = self.steps_of_schedule()
        # a run that goes on keeps the optimiser's moments, but this model's options win over what they came with
        lr = self.hparams.lr * self.lr_factor(self.current_epoch)
        for group in self.optimizers().param_groups:
            group["lr"], group["eps"] = lr, self.hparams.adam_eps
        if schedule := self.lr_schedulers():
            schedule.base_lrs, schedule.last_epoch = [self.hparams.lr], self.current_epoch

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["model"] = type(self).__name__  # looked up in `models`, and nowhere else, when it is loaded
