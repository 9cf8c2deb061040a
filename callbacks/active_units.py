"""How much of the latent space is in use, during training."""

import math

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from callbacks.base import PowersOfTwoCallback
from callbacks.record import finished_epochs, record_figure, record_metrics
from callbacks.titles import subject
from figures import charts
from models import evaluating
from models.estimators.importance import active_units

CHUNK = 500  # images per pass
LEAST_IMAGES = 50  # for a verdict: the variance of posterior means over fewer says little
# A unit's posterior mean that varies less over images, and no more than at an earlier look, is that of a latent which
# is not used and will not be: of the runs that were seen to recover, none fell below 5.9e-5 (VAE, IWAE, CVAE, AffineVAE
# and HierarchicalVAE on MNIST, OMNIGLOT, digits and faces), and one that was stopped too early to tell was at 6e-6;
# collapsed ones fall below 1e-6 within 2,000 steps.
COLLAPSED = 1e-6
APART = 100  # optimiser steps between the two looks, at least
HIGH_RATE = 0.01  # learning rate of Adam from which it is the likely cause
WARM_UP = 1000  # optimiser steps of a KL warm-up after which OMNIGLOT and faces kept all latents


def is_active(means: Tensor) -> Tensor:
    """Which of the d units with posterior means `(N, d)` are active: boolean `(d,)`."""
    return torch.tensor([active_units(unit) == 1 for unit in means.split(1, dim=1)])


def remedy(model: LightningModule, epochs: float) -> str:
    """The options that keep a model like this one from collapsing, as a sentence.

    Args:
        model: The model.
        epochs: Of the whole run, inf without a limit.
    """
    options = model.hparams
    if options.get("beta", 1) > 1:
        return f"Lower --model.beta, which is {options.beta:g}."
    if options["lr"] >= HIGH_RATE:
        return f"Try a lower --model.lr, which is {options['lr']:g}."
    if "beta_warmup" in options and options.get("objective", "elbo") == "elbo":
        present = model.warmup_steps() / model.steps_per_epoch()  # epochs
        wanted = max(math.ceil(WARM_UP / model.steps_per_epoch()), math.ceil(2 * present))
        fits = math.floor(min(wanted, max(1.0, epochs / 2)))
        if fits > present:
            return f"Try --model.beta_warmup {fits}."
    if options.get("batch_norm") is False:
        return "Try --model.batch_norm true."
    if options.get("activation", "tanh") != "tanh":
        return "Try --model.activation tanh."
    return "Try a lower --model.lr."


class LatentSpace(PowersOfTwoCallback):
    """Logs the active units over the validation set as `val/active_units` (`val/active_units_2`, ... for layers above
    the first), draws the KL of each dimension, and warns of a posterior that has collapsed as soon as that is certain.

    Between the epochs at which it draws, it looks at a part of the validation images after every epoch.
    """

    name = "latent_statistics"
    required_method = "latent_statistics"

    def __init__(self):
        self.low: tuple[int, float] | None = None  # step and variance of the first look that found an unused latent
        self.has_warned = False

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        # all of the set, on whatever number of ranks: the loader would hold only this rank's share
        x, y = trainer.datamodule.images("val", device=model.device)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        layers = zip(
            *(model.latent_statistics(part, *model.condition_args(labels)) for part, labels in parts), strict=True
        )
        means, kls = zip(*(map(torch.cat, zip(*parts, strict=True)) for parts in layers), strict=True)  # each (N, d)
        if len(x) < 2:
            return  # a single image has no variance
        active = [is_active(layer) for layer in means]
        counts = [int(layer.sum()) for layer in active]
        names = ["val/active_units", *(f"val/active_units_{layer}" for layer in range(2, len(counts) + 1))]
        record_metrics(trainer, dict(zip(names, counts, strict=True)))
        figure = charts.kl_per_dimension([kl.mean(0) for kl in kls], active, subject(model, trainer.datamodule))
        record_figure(trainer, "kl_per_dimension", figure)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero and not self.has_warned:
            with evaluating(pl_module, self.seed):
                self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, model: LightningModule) -> None:
        """Warn if the latent is not used now, was not at an earlier look, and is no closer to being used."""
        x, y = trainer.datamodule.images("val", CHUNK, model.device)
        if len(x) < LEAST_IMAGES or model.is_kl_warming_up():
            return
        layers = model.latent_statistics(x, *model.condition_args(y))
        largest, step = max(means.double().var(0).max().item() for means, _ in layers), trainer.global_step
        if largest >= COLLAPSED or (self.low and largest > self.low[1]):
            self.low = None
        elif self.low is None:
            self.low = step, largest
        elif step - self.low[0] >= APART:
            self.has_warned = True
            epochs = model.total_steps() / model.steps_per_epoch()
            rank_zero_warn(
                f"No latent unit is active after {finished_epochs(trainer)} epochs: the posterior has collapsed to the "
                f"prior, and nothing about an image reaches the decoder. {remedy(model, epochs)}"
            )
