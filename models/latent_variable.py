"""The contract of latent-variable models: what a subclass defines, and what follows from it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from models.arguments import as_count
from models.base import Model
from models.distributions import is_standard_normal, rsample_with_log_prob


class LatentVariableModel(Model):
    """A model p(x) = E_p(z)[p(x|z)] with an approximate posterior q(z|x).

    A subclass defines `posterior`, `prior` and `log_px`. Everything else has a default, estimated by Monte Carlo:
    importance weights, rate and distortion, the ELBO as training objective and validation metric, and the space that
    annealed importance sampling (AIS) works in. A subclass overrides a default to be exact or faster, for example with
    a KL divergence in closed form. `B` images, `K` samples per image; log-probabilities in nats per image.

    A conditional model (`is_conditional`) receives labels `y (B,)` in every method. Other models ignore `y`.
    """

    metric_names: tuple[str, ...] = ("bound", "elbo", "rate", "distortion")
    required_methods: tuple[str, ...] = ("posterior", "prior", "log_px")

    # What a subclass must define

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z|x), batch shape `(B,)`. It is computed once per image and passed to the methods below."""
        raise NotImplementedError

    def prior(self) -> Distribution:
        """Return p(z), batch shape `()`: any distribution with `log_prob` and `sample`, not only N(0, I)."""
        raise NotImplementedError

    def log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) of images `(B, C, H, W)` for latents `(..., B, d)`: `(..., B)`."""
        raise NotImplementedError

    # What follows from it

    def log_terms(self, x: Tensor, K: int, qz_x: Distribution, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(x|z_k) and log p(z_k) - log q(z_k|x) for K samples z_k ~ q(z|x), each `(K, B)`."""
        z, log_q = rsample_with_log_prob(qz_x, K)  # z (K, B, d)
        return self.log_px(x, z, y), self.prior().log_prob(z) - log_q()

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None) -> Tensor:
        """Return log p(x|z_k) + log p(z_k) - log q(z_k|x), `(K, B)`: each weight is an unbiased estimate of p(x).

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples per image.
            y: Labels `(B,)`, for conditional models.
            posterior: `self.posterior(x, y)` if it is known already; x and y are then not checked.

        Raises:
            ValueError: If the likelihood is not defined for these images, or labels do not fit the images.
        """
        x, K, y, posterior = self.with_posterior(x, K, y, posterior)
        log_px_z, log_ratio = self.log_terms(x, K, posterior, y)
        return log_px_z + log_ratio

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the rate KL(q(z|x) || p(z)) and the distortion -E_q[log p(x|z)], each `(B,)`; ELBO = -(their sum).

        Both are means over K samples. Arguments and errors are those of `log_weights`.
        """
        x, K, y, posterior = self.with_posterior(x, K, y, posterior)
        log_px_z, log_ratio = self.log_terms(x, K, posterior, y)
        return -log_ratio.mean(0), -log_px_z.mean(0)

    def with_posterior(
        self, x: Tensor, K: int, y: Tensor | None, posterior: Distribution | None
    ) -> tuple[Tensor, int, Tensor | None, Any]:  # last: what the `posterior` of the subclass returns
        """Return the arguments of `log_weights`: unchanged with a posterior, else checked and with q(z|x) computed."""
        if posterior is None:
            (x, y), K = self.as_evidence(x, y), as_count(K, "K")
            posterior = self.posterior(x, y)
        return x, K, y, posterior

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return minus the ELBO with one sample per image, averaged over the batch."""
        rate, distortion = self.rate_distortion(x, 1, y, self.posterior(x, y))
        return (distortion + rate).mean()

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        rate, distortion = self.rate_distortion(x, 1, y, self.posterior(x, y))
        return {"bound": -rate - distortion, "elbo": -rate - distortion, "rate": rate, "distortion": distortion}

    # Annealed importance sampling: the space of everything that is drawn before x. By default that is z.

    ais_simulate: Callable[..., Tensor]  # (z (B, d), y) -> images x ~ p(x|z); without it AIS has no bound on its error

    def ais_prior(self) -> Distribution:
        """Return the distribution of everything that is drawn before x, batch shape `()`."""
        return self.prior()

    def ais_posterior(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """Return q(z|x), batch shape `(B,)`: chains can start there if it covers the space of `ais_prior`."""
        return self.posterior(x, y)

    def ais_log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) for `z (..., B, d)` from the space of `ais_prior`: `(..., B)`."""
        return self.log_px(x, z, y)

    # What figures and evaluation need to know about the latents

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        return super().latent_sizes or tuple(self.prior().event_shape)

    @torch.no_grad()
    def has_standard_normal_prior(self) -> bool:
        """Return whether the latent codes that `encode` returns have the prior N(0, I)."""
        return len(self.latent_sizes) == 1 and is_standard_normal(self.prior())
