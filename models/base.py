"""Base class of all models: optimizer, learning rate schedule, training step, validation, and checks of inputs."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric

from models import arguments
from models.likelihoods import PixelLikelihood
from models.multistep import correct_counters, restore_progress, take_steps
from models.networks import start_at_mean


@contextmanager
def evaluating(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Switch to evaluation mode without gradients, with noise from `seed`; restore mode and random state afterwards.

    Log weights estimate p(x) only in this mode: in training mode, batch norm makes images depend on each other.
    Parameters must not change within it: a prior that is computed from them is computed only once.
    """
    was_training = {module: module.training for module in model.modules()}
    caches = {part: part.evaluation_cache for part in models_in(model)}
    for part in caches:
        part.evaluation_cache = {}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # manual_seed reseeds all GPUs
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            torch.manual_seed(seed)
            yield
    finally:
        for module, training in was_training.items():
            module.training = training
        for part, cache in caches.items():
            part.evaluation_cache = cache


def models_in(model: nn.Module) -> list["Model"]:
    """Return a model and the trained models within it, such as the M1 of an M1M2."""
    return [module for module in model.modules() if isinstance(module, Model)]


class Mean(Metric):
    """Mean over all images of all devices, summed in float64. NaN values propagate.

    MeanMetric of torchmetrics sums each batch in float32.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add one value per image, `(B,)`; fewer if some images have no value."""
        # converting the model to 16 bits converts these sums too, while they are still zero
        self.total = self.total.double() + values.double().sum()
        self.count = self.count.double() + values.numel()

    def compute(self) -> Tensor:
        """Return the mean of all values since the last reset."""
        return self.total / self.count


def mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """Return the mean of `values (B,)` where `mask` is true, or 0 if it is true nowhere.

    Shapes do not depend on the mask, so that the loss can be compiled.
    """
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def learning_rate_factor(progress: float, ratio: float, schedule: str) -> float:
    """Return lr(progress) / lr(0) for `progress` in [0, 1], where `ratio` is the last learning rate over the first.

    `cosine` is half a cosine wave (Loshchilov & Hutter 2017). `exponential` multiplies by the same factor each epoch.
    `stages` is the schedule of Burda et al. (2015): eight stages of length 3^0 ... 3^7 with rates evenly spaced in log.
    """
    if schedule == "cosine":
        return ratio + (1 - ratio) * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "exponential":
        return ratio**progress
    # round() removes rounding errors at the first epoch of a stage
    stage = math.floor(round(math.log(1 + progress * (3**8 - 1), 3), 9))
    return ratio ** (min(stage, 7) / 7)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of an optimizer; a tensor, which a CUDA graph reads, is changed in place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Model(LightningModule):
    """Base class of all models.

    A subclass defines `loss(x, y)`, which training minimises, and `validation_metrics(x, y)`, whose names are
    `metric_names`; the best checkpoint is the one with the highest `bound`. Models with latent variables derive from
    `LatentVariableModel`, which has defaults for both.

    Everything else is optional: a model has the capabilities whose methods it defines. `can(name)` says which, and
    figures and evaluation adapt.

    Args:
        lr: Learning rate of Adam.
        lr_final: Learning rate at the end of training, by whichever of max_epochs and max_steps comes first; none keeps
            it constant. Early stopping does not move the end of the schedule.
        lr_schedule: How the rate gets from `lr` to `lr_final`: by half a cosine wave, by the same factor each epoch, or
            in the eight stages of Burda et al. (2015). It changes once per epoch, or at every step where max_steps ends
            the run or there is only one epoch.
        adam_eps: Epsilon of Adam (1e-4 in Burda et al. 2015).
        weight_decay: Weight of an L2 penalty on all parameters w, weight_decay / 2 * ||w||^2 per image in nats. 1/N is
            the prior N(0, I) on weights of Kingma et al. (2014). Losses are logged without it. With adamw it is the
            decoupled decay of Loshchilov & Hutter (2019): each step multiplies all parameters by 1 - lr * weight_decay.
        optimizer: adam or adamw, which differ in weight_decay only.
    """

    # Declarations that a subclass may override
    metric_names: tuple[str, ...] = ("bound",)  # keys of `validation_metrics`, logged as val/<name>
    required_methods: tuple[str, ...] = ("loss", "validation_metrics")  # that every subclass must define
    data_args: tuple[str, ...] = ("image_shape",)  # constructor arguments that are read from the data module
    checkpoint_args: tuple[str, ...] = ()  # constructor arguments that are read from another model's checkpoint
    learns_from_labels = False  # whether each training batch of partly labelled data contains labelled images
    takes_pixels = True  # whether x is an image with values in [0, 1], which methods that users call then check
    is_conditional = False  # whether methods receive the label y with each image, as in a CVAE
    latent_part = "layer"  # what an entry of `latent_sizes` is called in figures; of a sequential model "step"
    takes_own_steps = False  # whether it overrides `take_step`, because it has several optimizers
    default_limit: int | None = None  # default number of test images for the likelihood; None: all of them
    default_epochs = 300  # default limit of --trainer.max_epochs
    older_defaults: ClassVar[dict[str, Any]] = {}  # values of options in checkpoints from before these existed
    default_binarization: str | None = None  # default of --data.binarization; None: that of the data
    quantity: str | None = "log p(x)"  # what log weights estimate; None without a likelihood
    scheduled_steps: int | None = None  # length of a learning rate schedule by steps; None: schedule by epochs
    trained_epochs: int | None = None  # epochs of training, of a model that was loaded from a checkpoint
    evaluation_cache: dict[str, Any] | None = None  # results that are kept in `evaluating` and in a validation
    graphed_step: Callable[..., dict[str, Tensor]] | None = None  # replaces `take_step` on a GPU; set by train.py

    decoder: nn.Module  # optional
    val_means: Any  # nn.ModuleDict of Mean, by name of the metric

    if TYPE_CHECKING:  # Lightning declares types that lack the attributes used here
        hparams: Any
        trainer: Any
        optimizers: Callable[..., Any]
        lr_schedulers: Callable[..., Any]

    # Capabilities: methods that a subclass may define. Conditional models receive labels as further arguments.
    encode: Callable[..., Tensor]  # images (B, C, H, W) -> latent codes (B, latent_dim)
    decode: Callable[..., Tensor]  # latent codes (..., latent_dim) -> mean images (..., C, H, W) in [0, 1]
    reconstruct: Callable[..., Tensor]  # images -> mean images (B, C, H, W)
    interpolate: Callable[..., Tensor]  # (x0, x1, n) -> images from x0 to x1 (n, B, C, H, W); needs encode and decode
    add_direction: Callable[..., Tensor]  # (x, direction, weights) -> images of moved codes (len(weights), B, C, H, W)
    sample: Callable[..., Tensor]  # n -> mean images of samples from the prior (n, C, H, W)
    sample_layers: Callable[..., Tensor]  # (n, rows) -> samples with fixed upper layers (L, rows, n, C, H, W)
    generate_steps: Callable[..., Any]  # n -> `Steps` of samples: canvas (T, n, C, H, W), windows (T, n, 4) or None
    reconstruct_steps: Callable[..., Any]  # images -> the same of reconstructions, with the windows that are read
    duplicates: Callable[..., float]  # images -> share of pairs of samples that are nearly identical
    sample_classes: Callable[..., Tensor]  # n -> the same for every label (n, num_classes, C, H, W)
    analogies: Callable[..., Tensor]  # images -> each image in the style of every label (B, num_classes, C, H, W)
    classify: Callable[..., Tensor]  # images -> class probabilities (B, num_classes)
    latent_statistics: Callable[..., list[tuple[Tensor, Tensor]]]  # images -> per layer: posterior mean, KL; (B, d)
    canonical: Callable[..., Tensor]  # images -> images without their pose
    pose: Callable[..., Tensor]  # images -> affine maps (B, 2, 3)
    log_weights: Callable[..., Tensor]  # (x, K, [y], [posterior]) -> log importance weights (K, B); needs posterior
    rate_distortion: Callable[..., tuple[Tensor, Tensor]]  # the same arguments -> rate and distortion, each (B,)
    rate_of_layers: Callable[..., Tensor]  # the same arguments -> KL of each layer of latents (B, L)

    def __init__(
        self,
        lr: float = 1e-3,
        lr_final: float | None = None,
        lr_schedule: Literal["cosine", "exponential", "stages"] = "cosine",
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        optimizer: Literal["adam", "adamw"] = "adam",
    ):
        super().__init__()
        if not lr > 0 or not adam_eps > 0 or not (lr_final is None or lr_final > 0):  # NaN is none of these
            raise ValueError(f"Learning rates and adam_eps must be positive; got {lr}, {lr_final} and {adam_eps}.")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative; got {weight_decay}.")
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"Unknown optimizer '{optimizer}': choose {' or '.join(OPTIMIZERS)}.")
        if optimizer == "adamw" and not weight_decay:
            raise ValueError("optimizer adamw without weight_decay is adam: add weight_decay, or leave optimizer out.")
        if lr_schedule not in ("cosine", "exponential", "stages"):
            raise ValueError(f"Unknown lr_schedule '{lr_schedule}': choose cosine, exponential or stages.")
        if lr_schedule != "cosine" and lr_final is None:
            raise ValueError(f"lr_schedule {lr_schedule} needs lr_final, the learning rate of the last epoch.")
        self.save_hyperparameters()
        self.val_means = nn.ModuleDict({name: Mean() for name in self.metric_names})
        self.automatic_optimization = not self.takes_own_steps

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the scalar that training minimises: a mean over the batch, in nats per image."""
        raise NotImplementedError

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return `(B,)` values for each name in `metric_names`; fewer if some images have no value, such as no label.

        `bound` must be among them. A model without likelihood adds `loss`, the quantity named by `criterion`. If
        `classifies_grey`, the images before binarization are a third argument.
        """
        raise NotImplementedError

    def training_features(self, data) -> Tensor | None:
        """Return features `(N, D)` of all training images, which `loss` then gets instead of the images, or None.

        A model overrides it if its loss needs the same features of an image at every step.

        Args:
            data: The data module, set up.
        """
        return None

    @classmethod
    def can(cls, method: str) -> bool:
        """Return whether the model has the capability `method`, one of the methods declared above or its own."""
        return callable(getattr(cls, method, None))

    @property
    def criterion(self) -> str | None:
        """Name of the loss of a model without likelihood, reported with its value; None for other models."""
        return None

    def check_definition(self) -> None:
        """Raise ValueError if the class lacks something that training or evaluation needs."""
        name = type(self).__name__
        bases: list[Any] = [base for base in type(self).__mro__ if "required_methods" in vars(base)]
        for base in bases:
            for method in base.required_methods:
                if getattr(type(self), method) is vars(base).get(method):
                    raise ValueError(f"{name} defines no {method}(): every {base.__name__} needs it.")
        if "bound" not in self.metric_names:
            raise ValueError(f"{name} has no metric 'bound', which picks the best checkpoint: add it to metric_names.")
        if self.can("encode"):
            _ = self.latent_dim  # raises ValueError if it is not known
        if self.can("log_weights"):
            if not self.can("posterior"):
                raise ValueError(f"{name} defines log_weights() without posterior(x, y), which evaluation calls first.")
        elif self.criterion is None or "loss" not in self.metric_names:
            raise ValueError(
                f"{name} has no likelihood, so that evaluation reports its loss: define the property criterion, the "
                "name of the loss, and add 'loss' to metric_names."
            )

    @classmethod
    def for_data(cls, data, **options):
        """Return a new model for a data module that is set up.

        Raises:
            ValueError: If the model cannot be trained on this data, or its class is not complete.
        """
        model = cls(**{name: getattr(data, name) for name in cls.data_args}, **options)
        model.check_definition()
        model.check_data(data)
        model.start_at_mean(data.train_mean())
        model.start_at_data(data)
        return model

    @property
    def decoder_cost(self) -> int:
        """Cost of decoding one sample of one image, in rows of a fully connected decoder."""
        return getattr(getattr(self, "decoder", None), "rows_per_image", 1)

    @property
    def has_batch_norm(self) -> bool:
        """Whether the model trains batch norm, which makes images of a batch depend on each other."""
        layers = (module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
        return any(parameter.requires_grad for layer in layers for parameter in layer.parameters())

    def start_at_mean(self, mean: Tensor) -> None:
        """Initialise the output of the decoder, if there is one, to the mean training image `(C, H, W)`."""
        if hasattr(self, "decoder"):
            likelihood = self.pixel_likelihood
            start_at_mean(self.decoder, mean, torch.logit if likelihood is None else likelihood.link)

    def start_at_data(self, data) -> None:
        """Initialise further parameters from the training images of a data module: a learned scale of the pixels.

        Random choices are drawn from the global random state, as initial weights are: the same on every rank.
        """
        likelihood = self.pixel_likelihood
        if likelihood is not None and likelihood.has_learned_scale:
            likelihood.start_at_deviation(data.train_deviation())

    def check_data(self, data) -> None:
        """Raise ValueError if the model cannot train on this data. The base class checks only the protocol."""
        self.check_protocol(data.protocol)

    def check_protocol(self, protocol: str) -> None:
        """Raise ValueError if the model cannot train on images of this protocol. The base class accepts any."""

    def condition_args(self, *labels: Tensor) -> tuple[Tensor, ...]:
        """Return `(y,)` for conditional models, else `()`: an unconditional model given y would estimate p(x, y)."""
        return labels if self.is_conditional else ()

    def is_kl_warming_up(self) -> bool:
        """Return whether the weight of the KL term may still change."""
        return False

    @property
    def pixel_likelihood(self) -> PixelLikelihood | None:
        """p(x|z) of a model with independent pixels, one of `LIKELIHOODS`; None for other models."""
        return None

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        """Dimensions of each layer of latents, starting at the image. Empty for a model without `z_dim`."""
        z_dim = self.hparams.get("z_dim", ())
        return (z_dim,) if isinstance(z_dim, int) else tuple(z_dim)

    @property
    def latent_dim(self) -> int:
        """Dimensions of the codes that `encode` returns and `decode` takes."""
        if not self.latent_sizes:
            raise ValueError(
                f"{type(self).__name__} has no option z_dim: define the property latent_sizes, the dimensions of each "
                "layer of latents."
            )
        return self.latent_sizes[0]

    @property
    def code_dim(self) -> int:
        """Dimensions of the code that the decoder network takes; further ones are a transformation of the image."""
        return self.latent_dim

    def has_standard_normal_prior(self) -> bool:
        """Return whether the latent codes that `encode` returns have the prior N(0, I)."""
        return False

    # Inputs of the methods that users call: each of these methods returns a tensor that the model can compute with, or
    # raises ValueError.

    @property
    def classifies_grey(self) -> bool:
        """Whether labels are predicted from images before binarization, unlike the likelihood."""
        return False

    @property
    def encodes_grey(self) -> bool:
        """Whether `analogies` takes images before binarization."""
        return False

    def as_images(self, x) -> Tensor:
        """Return images `(B, C, H, W)` in [0, 1] from floats, bytes or booleans, on the model's device."""
        like, shape = next(self.parameters()), tuple(self.hparams.image_shape)
        return arguments.as_images(x, shape, like, self.takes_pixels)

    def as_labels(self, y, shape: tuple[int, ...], broadcast: bool = False) -> Tensor | None:
        """Return labels of this shape, or one that broadcasts with it. Models without labels return them unchanged."""
        return y

    def as_latents(self, z) -> Tensor:
        """Return latents `(..., latent_dim)` on the model's device."""
        return arguments.as_latents(z, self.latent_dim, next(self.parameters()))

    def as_evidence(self, x, y=None) -> tuple[Tensor, Tensor | None]:
        """Return images and labels `(B,)` for the likelihood, which must be defined for these pixel values."""
        x = self.as_images(x)
        if not len(x):
            raise ValueError("A likelihood needs at least one image; got an empty batch.")
        if self.takes_pixels and self.pixel_likelihood is not None:
            self.pixel_likelihood.check_pixels(x, type(self).__name__)
        return x, self.as_labels(y, (len(x),))

    def check_form(self, x: Tensor) -> None:
        """Raise ValueError unless x has the type and shape of images. Values are not checked."""
        if not torch.compiler.is_compiling():
            arguments.check_form(x, tuple(self.hparams.image_shape))

    def check_limits(self, max_epochs: int | None, max_steps: int = -1, max_time: object = None) -> None:
        """Raise ValueError if `lr_final` is given but the number of steps is not known.

        Args:
            max_epochs: Limit of epochs of the Trainer, -1 for none.
            max_steps: Limit of optimizer steps of the Trainer, -1 for none.
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

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.automatic_optimization:
            values = {"loss": self.loss(*batch)}
        else:
            values = take_steps(self, [batch] if isinstance(batch[0], Tensor) else batch.batches)
        for name, value in values.items():
            self.log(f"train/{name}", value)
        return values["loss"]

    def take_step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Take one optimizer step without Lightning's hooks and return the values to log as `train/<name>`.

        A model with several optimizers overrides this method and sets `takes_own_steps`. `loss` must be among the
        values. On a GPU the step may be captured as a CUDA graph and replayed: whatever changes from step to step
        must be a tensor on the device.
        """
        optimizer = self.all_optimizers()[0]
        loss = self.loss(x, y)
        optimizer.zero_grad()
        # Backward runs outside autocast, as in automatic optimization.
        with torch.autocast(loss.device.type, enabled=False):
            loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    def all_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers, in the order of `make_optimizers`, without Lightning's wrappers."""
        wrapped = self.optimizers()
        return [wrapper.optimizer for wrapper in (wrapped if isinstance(wrapped, list) else [wrapped])]

    def all_lr_schedulers(self) -> list[Any]:
        """Return the learning rate schedule of each optimizer; none without `lr_final`."""
        found = self.lr_schedulers() or []
        return found if isinstance(found, list) else [found]

    def learning_rates(self) -> list[float]:
        """Return the learning rate at the start of training of each optimizer."""
        return [self.hparams.lr]

    def on_train_epoch_end(self) -> None:
        # the rate of this epoch, or of its last step; the optimizer holds the next one already
        lr = self.hparams.lr * self.lr_factor(self.current_epoch, self.trainer.global_step - 1)
        if not self.automatic_optimization:
            for schedule in self.all_lr_schedulers():
                schedule.step()
        self.log("train/lr", lr, sync_dist=True, reduce_fx="max")

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        for name, values in self.validation_metrics(*batch).items():
            self.val_means[name].update(values)

    def on_validation_epoch_start(self) -> None:
        for part in models_in(self):
            part.evaluation_cache = {}  # the weights stay as they are until the end

    def on_validation_epoch_end(self) -> None:
        for part in models_in(self):
            part.evaluation_cache = None
        # not after each batch: on a GPU, four calls of Lightning's log take longer than the batch
        for name, mean in self.val_means.items():
            if mean.update_called:
                self.log(f"val/{name}", mean)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return all parameters that are not frozen."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return new optimizers of the trained parameters."""
        # Lightning cannot clip gradients in 16 bit with a fused optimizer
        fused = self.trainer.gradient_clip_val is None
        hparams = self.hparams
        options = {"lr": hparams.lr, "eps": hparams.adam_eps, "weight_decay": hparams.weight_decay}
        return [OPTIMIZERS[hparams.optimizer](self.trained_parameters(), **options, fused=fused)]

    def configure_optimizers(self):
        optimizers = self.make_optimizers()
        if self.hparams.lr_final is None:
            return optimizers if len(optimizers) > 1 else optimizers[0]
        self.check_limits(self.trainer.max_epochs, self.trainer.max_steps)
        return optimizers, [torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor) for optimizer in optimizers]

    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps per epoch of this run."""
        loader = self.trainer.train_dataloader
        if getattr(loader, "size", 1) > 1:
            return loader.steps  # a batch of the trainer holds several
        return math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)

    def total_steps(self) -> float:
        """Return the number of optimizer steps of the whole run, up to the first limit; inf without limits."""
        max_epochs, max_steps = self.trainer.max_epochs, self.trainer.max_steps
        by_epochs = math.inf if max_epochs is None or max_epochs < 0 else max_epochs * self.steps_per_epoch()
        return by_epochs if max_steps is None or max_steps < 0 else min(by_epochs, max_steps)

    def steps_of_schedule(self) -> int | None:
        """Return the length of a learning rate schedule by steps, or None for a schedule by epochs.

        A schedule by epochs would not reach its end if training stops at a limit of steps, and one epoch is too short
        for it.
        """
        if self.hparams.lr_final is None:
            return None
        steps, max_epochs = self.total_steps(), self.trainer.max_epochs
        if max_epochs is not None and max_epochs > 1 and steps == max_epochs * self.steps_per_epoch():
            return None
        return int(steps)

    def lr_factor(self, epoch: int, step: int | None = None) -> float:
        """Return the learning rate of an epoch or step of this run, counted from 0, as a factor of `lr`.

        Args:
            epoch: The epoch, for a schedule by epochs.
            step: The optimizer step, for a schedule by steps; by default the next one.
        """
        done, total = epoch, self.trainer.max_epochs
        if self.scheduled_steps is not None:
            done, total = self.trainer.global_step if step is None else step, self.scheduled_steps
            done = min(done, total - 1)  # after the last step: its own rate
        return self.scheduled_lr_factor(done, total)

    def scheduled_lr_factor(self, done: int, total: int) -> float:
        """Return the learning rate after `done` of `total` epochs or steps, as a factor of `lr`."""
        hparams = self.hparams
        if hparams.lr_final is None:
            return 1.0
        # the last epoch or step has lr_final; stages divide the whole run
        span = total if hparams.lr_schedule == "stages" else max(1, total - 1)
        return learning_rate_factor(done / span, hparams.lr_final / hparams.lr, hparams.lr_schedule)

    def prepare_step(self) -> None:
        """Set what changes from step to step: here the learning rate, if its schedule is by steps."""
        if self.scheduled_steps is not None:
            self._set_learning_rates()

    def _set_learning_rates(self) -> None:
        factor = self.lr_factor(self.current_epoch)
        for optimizer, lr in zip(self.all_optimizers(), self.learning_rates(), strict=True):
            set_learning_rate(optimizer, lr * factor)

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        correct_counters(checkpoint)

    def on_train_start(self) -> None:
        restore_progress(self.trainer)
        self.scheduled_steps = self.steps_of_schedule()
        # a resumed run keeps the moments of the optimizer, but the options of this run take precedence
        for optimizer, lr in zip(self.all_optimizers(), self.learning_rates(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * self.lr_factor(self.current_epoch)  # a tensor after steps in a CUDA graph
                if "capturable" in group:
                    group["capturable"] = False
                group["eps"] = self.hparams.adam_eps
                group["weight_decay"] = self.hparams.weight_decay
                group["decoupled_weight_decay"] = self.hparams.optimizer == "adamw"
        for schedule, lr in zip(self.all_lr_schedulers(), self.learning_rates(), strict=False):
            schedule.base_lrs, schedule.last_epoch = [lr], self.current_epoch

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        correct_counters(checkpoint)
        checkpoint["model"] = type(self).__name__  # loading looks it up in `models.MODELS` only
