"""The variational autoencoder."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from models.base import Model
from models.distributions import LATENT_LIMIT, detached, diagonal_normal, inverse_soft_clip, standard_normal
from models.inputs import as_count
from models.interpolation import interpolate_latents
from models.likelihoods import DEFAULT_SCALE, PixelLikelihood
from models.networks import INITS, make_decoder, make_encoder
from models.networks.layers import ImageShape, Network, lookup
from models.objectives import BOUNDS, SURROGATES, check_objective, make_bound, make_surrogate

POSTERIOR_SCALE = 0.1  # of q(z|x) when training starts by default
WARMUP_STEPS = 500  # of the default warm-up of beta,
WARMUP_SHARE = 5  # or one in so many steps of a shorter run


def check_beta(objective: str, beta: float, beta_warmup: int | None) -> None:
    """ValueError, in a sentence, for a weight of the KL outside its range or where it would do nothing."""
    if not beta >= 0 or not (beta_warmup is None or beta_warmup >= 0):
        raise ValueError(f"beta and beta_warmup must not be negative; got {beta} and {beta_warmup}.")
    if objective != "elbo" and (beta != 1 or beta_warmup):
        raise ValueError(f"beta and beta_warmup belong to objective elbo: leave them out with objective {objective}.")


class VAE(Model):
    """Variational autoencoder (Kingma & Welling 2013), trained on the ELBO or another objective of `models.objectives`.

    p(z) = N(0, I), q(z|x) a diagonal Gaussian, p(x|z) Bernoulli or Gaussian pixels. With objective `elbo` the loss is
    the mean over K samples of -log p(x|z), plus beta * KL(q(z|x) || p(z)) in closed form (eq. 10).

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the latent.
        hidden: Sizes of the hidden layers from image to latent, mirrored by the decoder: widths of an mlp, by default
            [400, 400], or channels of a conv, by default [32, 64].
        activation: Activation of the hidden layers: relu, tanh, softplus, elu, gelu, silu or leaky_relu.
        encoder: Encoder, by its name in the registry: mlp or conv.
        decoder: Decoder, by its name in the registry: mlp, conv or coordinate.
        batch_norm: Batch norm before each activation.
        init: How training starts. default: a narrow posterior, with a scale of 0.1, and in an mlp weights as in He et
            al. (2015), those of the decoder's output a tenth of that. glorot: Glorot-uniform weights, as in Burda et
            al. (2015). Both with output biases at the mean training image.
        likelihood: p(x|z): bernoulli for binarized pixels, gaussian for grey ones.
        scale: Standard deviation of a gaussian likelihood, one for all pixels: where it starts if it is learned.
        learn_scale: Learn the scale of a gaussian likelihood.
        objective: Bound to train on: elbo, iwae, miwae or ciwae; or a surrogate with a better gradient of the encoder:
            stl (of the ELBO), dreg or piwae (of IWAE).
        num_samples: K, the samples of z per image in training.
        num_groups: M, into which miwae and piwae divide the K samples.
        ciwae_beta: Share of the ELBO in ciwae; the rest is IWAE.
        beta: Weight of the KL (Higgins et al. 2017); for objective elbo only.
        beta_warmup: Epochs over which beta grows linearly from 0; by default 500 steps, or a fifth of a shorter run;
            0 is none. For objective elbo only.
    """

    metric_names = ("bound", "elbo", "rate", "distortion")
    objectives = (*BOUNDS, *SURROGATES)  # that it can be trained on
    is_warming_up = False  # whether beta may change at the next step

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: int = 20,
        hidden: list[int] | None = None,
        activation: str = "relu",
        encoder: str = "mlp",
        decoder: str = "mlp",
        batch_norm: bool = False,
        init: Literal["default", "glorot"] = "default",
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        scale: float = DEFAULT_SCALE,
        learn_scale: bool = False,
        objective: str = "elbo",
        num_samples: int = 1,
        num_groups: int | None = None,
        ciwae_beta: float | None = None,
        beta: float = 1.0,
        beta_warmup: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1; got {z_dim}.")
        lookup(dict.fromkeys(self.objectives), objective, f"objective of {type(self).__name__}")
        check_objective(objective, num_samples, num_groups, ciwae_beta)
        check_beta(objective, beta, beta_warmup)
        lookup(dict.fromkeys(INITS), init, "init")
        networks = {"activation": activation, "batch_norm": batch_norm, "context_dim": self.context_dim, "init": init}
        self.encoder = make_encoder(encoder, image_shape, 2 * z_dim, hidden, **networks)
        self.decoder = make_decoder(decoder, self.code_dim, image_shape, self.decoder_hidden, **networks)
        self.likelihood = PixelLikelihood(likelihood, scale, learn_scale)
        if init == "default" and isinstance(self.encoder, Network):
            self.start_narrow()
        # a tensor, since a loss would be compiled again for each new number; no buffer, which DDP would broadcast
        self.kl_weight = torch.tensor(float(beta))
        self.begun_warmup: float | None = None  # steps of the warm-up of the run that this one goes on from

    @torch.no_grad()
    def start_narrow(self) -> None:
        """Start with a scale of q(z|x) of `POSTERIOR_SCALE`.

        A posterior as wide as the prior says little about an image: the decoder learns to ignore it, and the KL then
        keeps it there. From a narrow one the decoder learns at once in what images differ.
        """
        self.encoder.output.bias.chunk(2)[1].fill_(inverse_soft_clip(math.log(POSTERIOR_SCALE), LATENT_LIMIT))

    @property
    def context_dim(self) -> int:
        """What the networks are given beside x and z."""
        return 0

    @property
    def code_dim(self) -> int:
        """Dimensions of z that the decoder's network is given."""
        return self.hparams.z_dim

    @property
    def decoder_hidden(self) -> list[int] | None:
        """Sizes of the decoder's hidden layers, from the image to the code."""
        return self.hparams.hidden

    def check_protocol(self, protocol: str) -> None:
        self.likelihood.check_protocol(protocol)

    # The distributions. `posterior` is the part of q that depends on x alone, computed once per image.

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """q(z|x), batch shape `(B,)`."""
        self.check_form(x)
        return diagonal_normal(self.encoder(x))

    def prior(self) -> Independent:
        """p(z) = N(0, I)."""
        return standard_normal(self.hparams.z_dim, like=next(self.decoder.parameters()))

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """p(x|z) for `z (..., z_dim)`, batch shape `(...)`."""
        return self.likelihood(self.decoder(z))

    # A subclass that replaces `px` alone takes other data than pixels, whose range is not known here.
    px_of_pixels = px

    @property
    def takes_pixels(self) -> bool:
        return type(self).px is type(self).px_of_pixels

    @property
    def needs_binary(self) -> bool:
        return self.takes_pixels and self.likelihood.is_of_binary_pixels

    # What annealed importance sampling knows of a model: all that is drawn before x, and x

    def ais_prior(self) -> Independent:
        """The distribution of all latents, here p(z)."""
        return self.prior()

    def ais_log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x|z) for latents `(..., B, d)`: `(..., B)`."""
        return self.px(z, y).log_prob(x)

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """An image x ~ p(x|z) for each of the latents `(B, d)`."""
        return self.px(z, y).sample()

    # The bounds. `y (B,)` are labels, which this model passes on to its distributions and they leave aside.

    def log_terms(self, x: Tensor, K: int, qz_x: Independent, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """log p(x|z_k) and log p(z_k) - log q(z_k|x) for K draws from `qz_x`, the posterior of x: each `(K, B)`."""
        z = qz_x.rsample((K,))  # (K, B, z_dim)
        return self.px(z, y).log_prob(x), self.prior().log_prob(z) - qz_x.log_prob(z)

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Independent | None = None) -> Tensor:
        """log p(x|z_k) + log p(z_k) - log q(z_k|x), `(K, B)`: the exponential of each is an unbiased estimate of p(x).

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples per image.
            y: Labels `(B,)`, for models that are given them.
            posterior: `self.posterior(x, y)`, where it has been computed already; x and y are then not checked.

        Raises:
            ValueError: Images that the likelihood gives no probability, or labels that do not fit them.
        """
        if posterior is None:
            (x, y), K = self.as_evidence(x, y), as_count(K, "K")
        log_px_z, log_ratio = self.log_terms(x, K, self.posterior(x, y) if posterior is None else posterior, y)
        return log_px_z + log_ratio

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Independent | None = None
    ) -> tuple[Tensor, Tensor]:
        """KL(q(z|x) || p(z)) in closed form and the mean of K -log p(x|z_k), each `(B,)`; ELBO = -(their sum)."""
        if posterior is None:
            (x, y), K = self.as_evidence(x, y), as_count(K, "K")
        qz_x = self.posterior(x, y) if posterior is None else posterior
        z = qz_x.rsample((K,))  # (K, B, z_dim)
        return kl_divergence(qz_x, self.prior()), -self.px(z, y).log_prob(x).mean(0)

    def warmup_steps(self) -> float:
        """Steps of this run over which beta grows to its value."""
        epochs = self.hparams.beta_warmup
        if self.hparams.objective != "elbo" or epochs == 0:
            return 0
        if epochs is None:
            return self.begun_warmup or min(WARMUP_STEPS, self.total_steps() / WARMUP_SHARE)
        return epochs * self.steps_per_epoch()

    def beta(self) -> float:
        """The weight of the KL at this step of training."""
        beta = self.hparams.beta
        if self._trainer is None or not (steps := self.warmup_steps()):
            return beta
        return beta * min(1.0, self.trainer.global_step / steps)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["warmup_steps"] = self.warmup_steps()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        # a run that goes on for more epochs keeps the warm-up it began with: else beta would fall again
        self.begun_warmup = checkpoint.get("warmup_steps")

    def prepare_step(self) -> None:
        super().prepare_step()
        if self.is_warming_up:
            self.kl_weight.fill_(self.beta())
            self.is_warming_up = self.beta() < self.hparams.beta

    def on_train_start(self) -> None:
        super().on_train_start()
        self.is_warming_up = True  # until a step shows that it is over
        beta, epochs = self.hparams.beta, self.hparams.beta_warmup
        lasts = self.total_steps() / self.steps_per_epoch()  # epochs
        if beta and epochs and lasts < epochs:
            rank_zero_warn(
                f"beta_warmup is {epochs} epochs and the run ends after {lasts:.3g}: beta ends at "
                f"{beta * lasts / epochs:.2g} and never reaches {beta:g}."
            )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss_from_posterior(self.posterior(x, y), x, y)

    def loss_from_posterior(self, qz_x: Independent, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch whose posterior has been computed."""
        K, objective = self.hparams.num_samples, self.hparams.objective
        if objective == "elbo":
            rate, distortion = self.rate_distortion(x, K, y, qz_x)
            return (distortion + self.kl_weight * rate).mean()
        if objective not in SURROGATES:
            return -self.bound(self.log_weights(x, K, y, qz_x)).mean()
        log_w, surrogate = self.surrogate(x, K, qz_x, y)
        # the value of the bound, which can be compared with others, with the gradient of the surrogate
        return -(self.bound(log_w.detach()) + surrogate - surrogate.detach()).mean()

    def bound(self, log_w: Tensor) -> Tensor:
        """The bound that the objective climbs, `(K, B) -> (B,)`."""
        return make_bound(self.hparams.objective, self.hparams.num_groups, self.hparams.ciwae_beta)(log_w)

    def surrogate(self, x: Tensor, K: int, qz_x: Independent, y: Tensor) -> tuple[Tensor, Tensor]:
        """Log weights `(K, B)` and, of them, the surrogate `(B,)` of the objective."""
        z = qz_x.rsample((K,))  # (K, B, z_dim)
        log_w = self.px(z, y).log_prob(x) + self.prior().log_prob(z) - detached(qz_x).log_prob(z)
        surrogate = make_surrogate(self.hparams.objective, self.hparams.num_groups)
        return log_w, surrogate(log_w, z, qz_x.log_prob(z.detach()))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.warmup_steps():
            self.log("train/beta", self.beta())

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        K = self.hparams.num_samples
        if self.hparams.objective == "elbo":
            rate, distortion = self.rate_distortion(x, K, y, self.posterior(x, y))
            return {"bound": -rate - distortion, "elbo": -rate - distortion, "rate": rate, "distortion": distortion}
        log_px_z, log_ratio = self.log_terms(x, K, self.posterior(x, y), y)
        log_w = log_px_z + log_ratio
        rate, distortion = -log_ratio.mean(0), -log_px_z.mean(0)
        return {"bound": self.bound(log_w), "elbo": log_w.mean(0), "rate": rate, "distortion": distortion}

    # What a trained model is for

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The posterior mean `(B, z_dim)`."""
        x = self.as_images(x)
        return self.posterior(x, self.as_labels(y, (len(x),))).mean

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean of p(x|z) in [0, 1], `(..., z_dim) -> (..., C, H, W)`."""
        z = self.as_latents(z)
        return self.px(z, self.as_labels(y, tuple(z.shape[:-1]), broadcast=True)).mean

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """The mean of p(x|z) for n draws of z from the prior: `(n, C, H, W)`."""
        n = as_count(n, "n")
        return self.px(self.prior().sample((n,)), self.as_labels(y, (n,))).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """decode(encode(x)), `(B, C, H, W)`."""
        x = self.as_images(x)
        y = self.as_labels(y, (len(x),))
        return self.px(self.posterior(x, y).mean, y).mean

    @torch.no_grad()
    def interpolate(self, x0: Tensor, x1: Tensor, n: int = 10, path: str = "linear") -> Tensor:
        """`n` decoded steps between posterior means of two batches: `(n, B, C, H, W)`; path: linear or spherical."""
        return self.px(interpolate_latents(self.encode(x0), self.encode(x1), n, path)).mean

    @torch.no_grad()
    def add_direction(self, x: Tensor, direction: Tensor, weights: Sequence[float], y: Tensor | None = None) -> Tensor:
        """decode(encode(x) + w * direction), `(len(weights), B, C, H, W)`: attribute arithmetic.

        Args:
            x: Images `(B, C, H, W)`.
            direction: What is added to their codes, `(z_dim,)`, such as the mean code of a class.
            weights: How much of it: each w.
            y: Labels `(B,)`, for models that are given them.
        """
        z = self.encode(x, y)
        direction = self.as_latents(direction)
        if direction.ndim != 1:
            raise ValueError(f"direction must have shape ({self.latent_dim},); got {tuple(direction.shape)}.")
        if not len(weights):
            raise ValueError("weights must hold at least one number.")
        return self.px(torch.stack([z + w * direction for w in weights]), self.as_labels(y, (len(z),))).mean

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """For each stochastic layer: the posterior mean and the KL of each dimension, both `(B, d)`."""
        x = self.as_images(x)
        qz_x, prior = self.posterior(x, self.as_labels(y, (len(x),))), self.prior()
        return [(qz_x.mean, kl_divergence(qz_x.base_dist, prior.base_dist))]
