"""Active units and KL per latent dimension during training, and a warning about posterior collapse."""

import math
from collections.abc import Sequence

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from callbacks.base import PowersOfTwoCallback
from callbacks.codes import prior_variance
from callbacks.record import finished_epochs, record_figure, record_metrics
from callbacks.titles import subject
from figures import charts
from models import Model
from models.distributions.marginals import without_estimates
from models.estimators.active_units import is_active

CHUNK = 500  # images per pass
MIN_IMAGES = 50  # the variance of posterior means over fewer images is too noisy to decide on
# The posterior has collapsed if no unit's posterior mean varies more than this over images, and the variance does not
# grow. In runs that recovered (VAE, IWAE, CVAE, AffineVAE and HierarchicalVAE on MNIST, OMNIGLOT, digits and faces) it
# never fell below 5.9e-5; one run that was stopped before it could recover was at 6e-6; in collapsed runs it falls
# below 1e-6 within 2,000 steps.
COLLAPSE_VARIANCE = 1e-6
MIN_STEPS_BETWEEN_CHECKS = 100  # optimizer steps between the two checks that must agree
HIGH_RATE = 0.01  # from this learning rate of Adam on, the rate is the likely cause of a collapse
WARM_UP_STEPS = 1000  # optimizer steps of KL warm-up with which OMNIGLOT and faces kept all latent dimensions


def active_of_layers(model: Model, layers: Sequence[Tensor]) -> list[Tensor]:
    """Return which units of each layer are active, from their posterior means `(N, d)`.

    With several layers the threshold is that of Burda et al. (2015) in all of them.
    """
    variance = prior_variance(model) if len(layers) == 1 else 1.0
    return [is_active(means, variance) for means in layers]


def remedy(model: LightningModule, epochs: float) -> str:
    """Return a sentence that names an option against posterior collapse in this model.

    Args:
        model: The model.
        epochs: Length of the whole run, inf without a limit.
    """
    options = model.hparams
    if options.get("beta", 1) > 1:
        return f"Lower --model.beta, which is {options.beta:g}."
    if options["lr"] >= HIGH_RATE:
        return f"Try a lower --model.lr, which is {options['lr']:g}."
    has_warmup = "beta_warmup" in options and options.get("beta_cycles") is None
    if has_warmup and options.get("objective", "elbo") == "elbo":
        current = model.warmup_steps() / model.steps_per_epoch()  # all lengths in epochs
        recommended = max(math.ceil(WARM_UP_STEPS / model.steps_per_epoch()), math.ceil(2 * current))
        suggested = math.floor(min(recommended, max(1.0, epochs / 2)))
        if suggested > current:
            return f"Try --model.beta_warmup {suggested}."
    if options.get("batch_norm") is False:
        return "Try --model.batch_norm true."
    if options.get("activation", "tanh") != "tanh":
        return "Try --model.activation tanh."
    return "Try a lower --model.lr."


class ActiveUnits(PowersOfTwoCallback):
    """Log the number of active units, draw the KL per latent dimension, and warn once if the posterior collapses.

    Active units (Burda et al. 2015) are counted over the whole validation set and logged as `val/active_units`
    (`val/active_units_2`, ... for stochastic layers above the first). The collapse check runs after every epoch on the
    first validation images.
    """

    name = "latent_statistics"
    required_method = "latent_statistics"

    def __init__(self):
        self.first_collapsed: tuple[int, float] | None = None  # step and largest variance of the first suspicious check
        self.has_warned = False

    def act(self, trainer: Trainer, model: LightningModule) -> None:
        # the whole set on any number of ranks: the data loader holds only this rank's share
        x, y = trainer.datamodule.images("val", device=model.device)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        layers = zip(
            *(model.latent_statistics(part, *model.condition_args(labels)) for part, labels in parts), strict=True
        )
        means, kls = zip(*(map(torch.cat, zip(*parts, strict=True)) for parts in layers), strict=True)  # each (N, d)
        if len(x) < 2:
            return  # a single image has no variance
        active = active_of_layers(model, means)
        counts = [int(layer.sum()) for layer in active]
        names = ["val/active_units", *(f"val/active_units_{layer}" for layer in range(2, len(counts) + 1))]
        record_metrics(trainer, dict(zip(names, counts, strict=True)))
        of = subject(model, trainer.datamodule)
        figure = charts.kl_per_dimension([kl.mean(0) for kl in kls], active, of, model.latent_part)
        record_figure(trainer, "kl_per_dimension", figure)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.is_global_zero and not self.has_warned:
            with self.evaluating(trainer, pl_module):
                self._check_collapse(trainer, pl_module)

    def _check_collapse(self, trainer: Trainer, model: LightningModule) -> None:
        """Warn if no unit was active at an earlier check or is now, and the variance has not grown in between."""
        x, y = trainer.datamodule.images("val", CHUNK, model.device)
        if len(x) < MIN_IMAGES or model.is_kl_warming_up():
            return
        with without_estimates():
            layers = model.latent_statistics(x, *model.condition_args(y))
        largest, step = max(means.double().var(0).max().item() for means, _ in layers), trainer.global_step
        if largest >= COLLAPSE_VARIANCE or (self.first_collapsed and largest > self.first_collapsed[1]):
            self.first_collapsed = None
        elif self.first_collapsed is None:
            self.first_collapsed = step, largest
        elif step - self.first_collapsed[0] >= MIN_STEPS_BETWEEN_CHECKS:
            self.has_warned = True
            epochs = model.total_steps() / model.steps_per_epoch()
            rank_zero_warn(
                f"No latent unit is active after {finished_epochs(trainer)} epochs: the posterior has collapsed to the "
                f"prior, and the decoder ignores z. {remedy(model, epochs)}"
            )
