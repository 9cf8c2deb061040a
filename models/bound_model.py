"""Latent-variable models of images whose likelihood and training objective are chosen by options."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.distributions import Distribution, Independent

from models.arguments import as_count
from models.base import evaluating
from models.distributions import kl_per_dimension
from models.interpolation import interpolate_latents
from models.latent_variable import LatentVariableModel
from models.likelihoods import (
    DEFAULT_SCALE,
    OPTION_DEFAULTS,
    LikelihoodName,
    LogisticScale,
    PixelLikelihood,
    make_likelihood,
)
from models.networks.layers import lookup
from models.objectives import BOUNDS, NEEDS_SCORE, SURROGATES, check_objective, make_bound, make_surrogate

WARMUP_STEPS = 500  # default warm-up of beta, in optimizer steps,
WARMUP_SHARE = 5  # and at most one fifth of the run


def check_beta(objective: str, beta: float, beta_warmup: int | None, beta_cycles: int | None) -> None:
    """Raise ValueError if the weight of the KL is out of range, or an option of it has no effect."""
    if not beta >= 0 or not (beta_warmup is None or beta_warmup >= 0):
        raise ValueError(f"beta and beta_warmup must not be negative; got {beta} and {beta_warmup}.")
    if objective != "elbo" and (beta != 1 or beta_warmup):
        raise ValueError(f"beta and beta_warmup belong to objective elbo: leave them out with objective {objective}.")
    if beta_cycles is None:
        return
    if beta_cycles < 1:
        raise ValueError(f"beta_cycles must be at least 1; got {beta_cycles}.")
    if objective != "elbo" or beta == 0:
        raise ValueError("beta_cycles belongs to objective elbo with beta above 0: leave it out otherwise.")
    if beta_warmup:
        raise ValueError("beta_cycles and beta_warmup are two schedules of beta: leave out one of them.")


def cyclical_factor(step: int, cycle: int, num_cycles: int) -> float:
    """Return the share of its final value that beta has at a step, counted from 0, of cyclical annealing.

    In each cycle it grows linearly from 0 to 1 in the first half and stays at 1 in the second (Fu et al. 2019, eq. 6-8
    with R = 0.5). After the last cycle it stays at 1.

    Args:
        step: The optimizer step.
        cycle: Steps per cycle.
        num_cycles: Number of cycles.
    """
    return 1.0 if step >= num_cycles * cycle else min(1.0, 2 * (step % cycle) / cycle)


def check_free_bits(objective: str, beta: float, free_bits: float | None, free_bits_per: str | None) -> None:
    """Raise ValueError if an option of free bits is out of range, or has no effect with the other options."""
    if free_bits is None:
        if free_bits_per is not None:
            raise ValueError("free_bits_per has no effect without free_bits: add it, or leave both out.")
        return
    if not 0 <= free_bits < math.inf:
        raise ValueError(f"free_bits must be finite and not negative; got {free_bits}.")
    if objective != "elbo":
        raise ValueError(f"free_bits belongs to objective elbo: leave it out with objective {objective}.")
    if beta == 0:
        raise ValueError("free_bits has no effect with beta 0: leave out one of them.")
    if free_bits_per not in (None, "dimension", "layer"):
        raise ValueError(f"Unknown free_bits_per '{free_bits_per}': choose dimension or layer.")


class BoundModel(LatentVariableModel):
    """A latent-variable model of images, trained on a bound on log p(x).

    The likelihood of the pixels, the bound and the weight of the KL are chosen by options. A subclass defines
    `posterior`, `prior` and `px`; its constructor registers `new_likelihood()` as `likelihood`.

    Args:
        likelihood: p(x|z): bernoulli for binarized pixels, gaussian or continuous_bernoulli for dequantised grey ones,
            discretized_logistic or discretized_logistic_mixture for grey levels. By default --data.binarization
            follows from it.
        scale: Standard deviation of a gaussian likelihood, the same for all pixels. A learned one starts there, or at
            the deviation of the training pixels from the mean image if that is smaller.
        learn_scale: Learn the scale of a gaussian likelihood.
        logistic_scale: Scale of a discretized_logistic likelihood: per_image (the default: learned, a function of the
            latent), shared (learned, one for all images), or a number, in units of pixels.
        logistic_components: Components of a discretized_logistic_mixture, 5 by default.
        objective: Bound to train on: elbo, iwae, miwae or ciwae; or, in models with one layer of latents, a surrogate
            with a better gradient of the encoder: stl (of the ELBO), dreg or piwae (of IWAE).
        num_samples: K, the samples of z per image in training.
        num_groups: M, into which miwae and piwae divide the K samples.
        ciwae_beta: Share of the ELBO in ciwae; the rest is IWAE.
        beta: Weight of the KL (Higgins et al. 2017); for objective elbo only.
        beta_warmup: Epochs over which beta grows linearly from 0; by default 500 steps, or a fifth of a shorter run;
            0 is none. For objective elbo only.
        beta_cycles: Cyclical annealing in place of a warm-up (Fu et al. 2019): the run is divided into this number of
            cycles. In each one beta grows linearly from 0 in the first half and stays in the second. For objective elbo
            only.
        free_bits: L, in nats: the loss has sum_j max(L, KL_j) in place of the KL, where KL_j is the mean of part j over
            the batch (Kingma et al. 2016, appendix C.8). Bounds are logged without it. For objective elbo only.
        free_bits_per: The parts j: each dimension of z (the default where the KL of a dimension is known in closed
            form), or each layer of latents.
    """

    objectives = (*BOUNDS, *SURROGATES)  # objectives that it can be trained on
    is_warming_up = False  # whether beta may change at the next step

    likelihood: PixelLikelihood

    def __init__(
        self,
        *,
        likelihood: LikelihoodName = "bernoulli",
        scale: float = DEFAULT_SCALE,
        learn_scale: bool = False,
        logistic_scale: LogisticScale = None,
        logistic_components: int | None = None,
        objective: str = "elbo",
        num_samples: int = 1,
        num_groups: int | None = None,
        ciwae_beta: float | None = None,
        beta: float = 1.0,
        beta_warmup: int | None = None,
        beta_cycles: int | None = None,
        free_bits: float | None = None,
        free_bits_per: Literal["dimension", "layer"] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        lookup(dict.fromkeys(self.objectives), objective, f"objective of {type(self).__name__}")
        check_objective(objective, num_samples, num_groups, ciwae_beta)
        check_beta(objective, beta, beta_warmup, beta_cycles)
        check_free_bits(objective, beta, free_bits, free_bits_per)
        # a tensor, since a loss would be compiled again for each new number; no buffer, which DDP would broadcast
        self.kl_weight = torch.tensor(float(beta))
        # steps of the warm-up, and of a cycle, of the run that this one continues
        self.begun_warmup: float | None = None
        self.begun_cycle: int | None = None

    def new_likelihood(self) -> PixelLikelihood:
        """Return a new likelihood, with the options of the model.

        Raises:
            ValueError: If an option is out of range, or has no effect on this likelihood.
        """
        options = self.hparams
        return make_likelihood(
            options.likelihood, options.image_shape, **{option: options[option] for option in OPTION_DEFAULTS}
        )

    def check_data(self, data) -> None:
        super().check_data(data)
        if self.hparams.objective in SURROGATES:
            with evaluating(self):
                x, y = torch.zeros(1, *data.image_shape), torch.zeros(1, dtype=torch.int64)
                self.detached(self.posterior(x.to(self.device), y.to(self.device)))

    def detached(self, qz_x: Any) -> Any:
        """Return q(z|x) with detached parameters, for a surrogate objective.

        Raises:
            ValueError: If the posterior of the model has no such method.
        """
        if not hasattr(qz_x, "detached"):
            raise ValueError(
                f"Objective {self.hparams.objective} needs a posterior with a method detached(), which "
                f"{type(qz_x).__name__} lacks: add it, or choose one of the objectives {', '.join(BOUNDS)}."
            )
        return qz_x.detached()

    def check_protocol(self, protocol: str) -> None:
        self.likelihood.check_protocol(protocol)

    # The distributions

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """Return p(x|z) for `z (..., latent_dim)`, batch shape `(...)`."""
        raise NotImplementedError

    @property
    def pixel_likelihood(self) -> PixelLikelihood:
        return self.likelihood

    def log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) for latents `(..., B, d)`: `(..., B)`."""
        return self.px(z, y).log_prob(x)

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return an image x ~ p(x|z) for each of the latents `(B, d)`."""
        return self.px(z, y).sample()

    @property
    def has_kl_of_dimensions(self) -> bool:
        """Whether the KL of each dimension of z is known in closed form."""
        return False

    @property
    def free_bits_per(self) -> str:
        """The parts of the KL that have free bits: dimension or layer."""
        return self.hparams.free_bits_per or ("dimension" if self.has_kl_of_dimensions else "layer")

    def rate_of_parts(self, x: Tensor, K: int, y: Tensor, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return the KL of each part that has free bits, `(B, J)`, and the distortion, `(B,)`."""
        rate, distortion = self.rate_distortion(x, K, y, qz_x)
        return rate[:, None], distortion

    def rate_of_layers(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> Tensor:
        """Return the KL of each layer of latents, `(B, L)`; their sum is the rate.

        With the same noise it is the sum that `rate_distortion` returns. Arguments and errors are those of
        `log_weights`.
        """
        x, K, labels, qz_x = self.with_posterior(x, K, y, posterior)
        given: Any = labels
        rates, _ = self.rate_of_parts(x, K, given, qz_x)
        sizes = list(self.latent_sizes)
        if rates.shape[1] == len(sizes):
            return rates
        return torch.stack([of_layer.sum(1) for of_layer in rates.split(sizes, 1)], 1)  # they were of dimensions

    def warmup_steps(self) -> float:
        """Return the number of steps over which beta grows to its final value."""
        epochs = self.hparams.beta_warmup
        if self.hparams.objective != "elbo" or self.hparams.beta_cycles or epochs == 0:
            return 0
        if epochs is None:
            return self.begun_warmup or min(WARMUP_STEPS, self.total_steps() / WARMUP_SHARE)
        return epochs * self.steps_per_epoch()

    def cycle_steps(self) -> int:
        """Return the number of steps per cycle of beta; 0 without cycles."""
        cycles = self.hparams.beta_cycles
        return (self.begun_cycle or math.ceil(self.total_steps() / cycles)) if cycles else 0

    def is_kl_warming_up(self) -> bool:
        """Return whether the weight of the KL may still change: in cyclical annealing until the last growth ends."""
        if self._trainer is None or not self.hparams.beta_cycles:
            return self.beta() < self.hparams.beta
        last_cycle = (self.hparams.beta_cycles - 1) * self.cycle_steps()
        return self.trainer.global_step < last_cycle or self.beta() < self.hparams.beta

    def beta(self) -> float:
        """Return the weight of the KL at this step of training."""
        beta = self.hparams.beta
        if self._trainer is None:
            return beta
        if cycle := self.cycle_steps():
            return beta * cyclical_factor(self.trainer.global_step, cycle, self.hparams.beta_cycles)
        if steps := self.warmup_steps():
            return beta * min(1.0, self.trainer.global_step / steps)
        return beta

    def check_limits(self, max_epochs: int | None, max_steps: int = -1, max_time: object = None) -> None:
        super().check_limits(max_epochs, max_steps, max_time)
        if self.hparams.beta_cycles is None:
            return
        if max_time is not None:
            raise ValueError(
                "beta_cycles needs a known number of steps, which --trainer.max_time leaves open: leave out one of "
                "them."
            )
        if (max_epochs is None or max_epochs < 1) and max_steps < 1:
            raise ValueError("beta_cycles needs a number of epochs or steps: set --trainer.max_epochs or max_steps.")

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["warmup_steps"] = self.warmup_steps()
        if self.hparams.beta_cycles:
            checkpoint["cycle_steps"] = self.cycle_steps()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        # a run that is resumed for more epochs keeps its warm-up: a longer one would lower beta again
        self.begun_warmup = checkpoint.get("warmup_steps")
        # the same holds for cycles, unless this run has another number of them
        if checkpoint["hyper_parameters"].get("beta_cycles") == self.hparams.beta_cycles:
            self.begun_cycle = checkpoint.get("cycle_steps")

    def prepare_step(self) -> None:
        super().prepare_step()
        if self.is_warming_up:
            self.kl_weight.fill_(self.beta())
            self.is_warming_up = self.is_kl_warming_up()

    def on_train_start(self) -> None:
        super().on_train_start()
        self.kl_weight = self.kl_weight.to(self.device)  # where a CUDA graph reads it
        self.is_warming_up = True  # until `prepare_step` finds that it is over
        if self.cycle_steps() == 1:
            rank_zero_warn(
                f"beta_cycles is {self.hparams.beta_cycles} and the run has {self.total_steps()} steps: beta is 0 in "
                "all of them. A cycle needs two steps or more."
            )
        beta, epochs = self.hparams.beta, self.hparams.beta_warmup
        lasts = self.total_steps() / self.steps_per_epoch()  # epochs
        if beta and epochs and lasts < epochs:
            rank_zero_warn(
                f"beta_warmup is {epochs} epochs and the run ends after {lasts:.3g}: beta ends at "
                f"{beta * lasts / epochs:.2g} and never reaches {beta:g}."
            )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        qz_x: Any = self.posterior(x, y)
        return self.loss_from_posterior(qz_x, x, y)

    def loss_from_posterior(self, qz_x: Independent, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, given its posterior."""
        K, objective = self.hparams.num_samples, self.hparams.objective
        if objective == "elbo" and self.hparams.free_bits is not None:
            rates, distortion = self.rate_of_parts(x, K, y, qz_x)
            # a part below the threshold has no gradient
            return distortion.mean() + self.kl_weight * rates.mean(0).clamp(min=self.hparams.free_bits).sum()
        if objective == "elbo":
            rate, distortion = self.rate_distortion(x, K, y, qz_x)
            return (distortion + self.kl_weight * rate).mean()
        if objective not in SURROGATES:
            return -self.bound(self.log_weights(x, K, y, qz_x)).mean()
        log_w, surrogate = self.surrogate(x, K, qz_x, y)
        # the value of the bound, which is comparable between objectives, with the gradient of the surrogate
        return -(self.bound(log_w.detach()) + surrogate - surrogate.detach()).mean()

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the bound that the objective maximises, `(K, B) -> (B,)`."""
        return make_bound(self.hparams.objective, self.hparams.num_groups, self.hparams.ciwae_beta)(log_w)

    def surrogate(self, x: Tensor, K: int, qz_x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log weights `(K, B)` and the surrogate of the objective `(B,)`."""
        z = qz_x.rsample((K,))  # (K, B, z_dim)
        log_w = self.log_px(x, z, y) + self.prior().log_prob(z) - self.detached(qz_x).log_prob(z)
        surrogate: Any = make_surrogate(self.hparams.objective, self.hparams.num_groups)
        score = qz_x.log_prob(z.detach()) if self.hparams.objective in NEEDS_SCORE else None
        return log_w, surrogate(log_w, z, score)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.warmup_steps() or self.cycle_steps():
            self.log("train/beta", self.beta(), sync_dist=True, reduce_fx="max")  # the same on all ranks

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        K = self.hparams.num_samples
        if self.hparams.objective == "elbo":
            rate, distortion = self.rate_distortion(x, K, y, self.posterior(x, y))
            return {"bound": -rate - distortion, "elbo": -rate - distortion, "rate": rate, "distortion": distortion}
        log_px_z, log_ratio = self.log_terms(x, K, self.posterior(x, y), y)
        log_w = log_px_z + log_ratio
        rate, distortion = -log_ratio.mean(0), -log_px_z.mean(0)
        return {"bound": self.bound(log_w), "elbo": log_w.mean(0), "rate": rate, "distortion": distortion}

    # Uses of a trained model

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the posterior mean `(B, z_dim)`."""
        x = self.as_images(x)
        return self.posterior(x, self.as_labels(y, (len(x),))).mean

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) in [0, 1], `(..., z_dim) -> (..., C, H, W)`."""
        z = self.as_latents(z)
        return self.px(z, self.as_labels(y, tuple(z.shape[:-1]), broadcast=True)).mean

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) for n samples of z from the prior: `(n, C, H, W)`."""
        n = as_count(n, "n")
        return self.px(self.prior().sample((n,)), self.as_labels(y, (n,))).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return decode(encode(x)), `(B, C, H, W)`."""
        x = self.as_images(x)
        y = self.as_labels(y, (len(x),))
        return self.px(self.posterior(x, y).mean, y).mean

    @torch.no_grad()
    def interpolate(self, x0: Tensor, x1: Tensor, n: int = 10, path: str = "linear") -> Tensor:
        """Return `n` decoded steps between posterior means: `(n, B, C, H, W)`; path: linear or spherical."""
        return self.px(interpolate_latents(self.encode(x0), self.encode(x1), n, path)).mean

    @torch.no_grad()
    def add_direction(self, x: Tensor, direction: Tensor, weights: Sequence[float], y: Tensor | None = None) -> Tensor:
        """Return decode(encode(x) + w * direction) for each w: `(len(weights), B, C, H, W)`.

        Args:
            x: Images `(B, C, H, W)`.
            direction: Added to the codes, `(z_dim,)`; for example the difference between the mean codes of two classes.
            weights: The factors w.
            y: Labels `(B,)`, for conditional models.
        """
        z = self.encode(x, y)
        direction = self.as_latents(direction)
        if direction.ndim != 1:
            raise ValueError(f"direction must have shape ({self.latent_dim},); got {tuple(direction.shape)}.")
        if not len(weights):
            raise ValueError("weights must hold at least one number.")
        return self.px(torch.stack([z + w * direction for w in weights]), self.as_labels(y, (len(z),))).mean

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return for each stochastic layer the posterior mean and the KL of each dimension, both `(B, d)`."""
        x = self.as_images(x)
        qz_x, prior = self.posterior(x, self.as_labels(y, (len(x),))), self.prior()
        return [(qz_x.mean, kl_per_dimension(qz_x, prior))]
