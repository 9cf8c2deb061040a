"""The variational autoencoder."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from models.bound_model import BoundModel
from models.distributions import rsample_with_kl
from models.networks import INITS
from models.networks.layers import ImageShape, Network, lookup
from models.objectives import BOUNDS, SURROGATES
from models.variational import VariationalModel


class VAE(VariationalModel, BoundModel):
    """Variational autoencoder (Kingma & Welling 2013), trained on the ELBO or another objective of `models.objectives`.

    By default p(z) = N(0, I) and q(z|x) is a diagonal Gaussian; p(x|z) are independent pixels (`models.likelihoods`).
    With objective `elbo` the loss is the mean over K samples of -log p(x|z), plus beta * KL(q(z|x) || p(z)), in closed
    form (eq. 10) if there is one.

    Args:
        image_shape: Channels, height and width; from the data.
        init: How training starts. default: a posterior with a scale of 0.1 (in an AffineVAE of 1), and in an mlp or a
            resnet weights as in He et al. (2015), in a gated network the same with a gain for gates, those of the
            decoder's output a tenth of that. glorot: a posterior with a scale of 1, and Glorot-uniform weights, as in
            Burda et al. (2015). Both with output biases at the mean training image.
    """

    starts_narrow = True  # whether the posterior starts narrow with init default

    def __init__(self, image_shape: ImageShape, *, init: Literal["default", "glorot"] = "default", **kwargs):
        super().__init__(image_shape, **kwargs)
        lookup(dict.fromkeys(INITS), init, "init")
        pixels, posterior = self.new_likelihood(), self.new_posterior()
        objective, free_bits_per = self.hparams.objective, self.hparams.free_bits_per
        if objective in SURROGATES and posterior.has_slow_density:
            raise ValueError(
                f"Objective {objective} needs the density of q(z|x) at given z, which takes posterior_flow iaf z_dim "
                f"passes: choose posterior_flow nsf, or one of the objectives {', '.join(BOUNDS)}."
            )
        self.encoder = self.new_encoder(posterior.num_outputs, self.context_dim, init)
        output_shape = (pixels.output_channels, *image_shape[1:])
        self.decoder = self.new_decoder(self.code_dim, self.context_dim, init, output_shape)
        # registered last: optimizer states of checkpoints are in the order of the parameters
        self.likelihood, self.z_prior, self.z_posterior = pixels, self.new_prior(), posterior
        if free_bits_per == "dimension" and not self.has_kl_of_dimensions:
            raise ValueError(
                f"{type(self).__name__} with prior {self.hparams.prior} and posterior {self.hparams.posterior} has no "
                "closed-form KL of each dimension: use free_bits_per layer."
            )
        if isinstance(self.encoder, Network):
            posterior.start(self.encoder.output)
            if init == "default" and self.starts_narrow:
                self.start_narrow()

    @torch.no_grad()
    def start_narrow(self) -> None:
        """Start with a narrow posterior.

        A posterior as wide as the prior carries little information about an image: the decoder learns to ignore it, and
        the KL then keeps it wide (posterior collapse). A narrow posterior is informative from the first step.
        """
        output: Any = self.encoder.output  # of a Network
        self.z_posterior.start_narrow(output.bias)

    @property
    def context_dim(self) -> int:
        """Dimensions of the context that both networks receive in addition to x or z."""
        return 0

    @property
    def code_dim(self) -> int:
        """Dimensions of z that the decoder network takes."""
        return self.hparams.z_dim

    # The distributions

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """Return q(z|x), batch shape `(B,)`."""
        self.check_form(x)
        return self.z_posterior(self.encoder(x))

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """Return p(x|z) for `z (..., z_dim)`, batch shape `(...)`."""
        return self.likelihood(self.decoder(z))

    # The bounds. Labels `y (B,)` are passed on to the distributions, which ignore them here; a subclass may use them.

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return KL(q(z|x) || p(z)) and the mean of K -log p(x|z_k), each `(B,)`; ELBO = -(their sum).

        The KL is in closed form if there is one, else the mean of log q(z_k|x) - log p(z_k).
        """
        x, K, y, qz_x = self.with_posterior(x, K, y, posterior)
        z, rate = rsample_with_kl(qz_x, self.prior(), K)  # (K, B, z_dim), (B,)
        return rate, -self.log_px(x, z, y).mean(0)

    @property
    def has_kl_of_dimensions(self) -> bool:
        """Whether the KL of each dimension of z is known in closed form; not for a subclass with a prior of its own."""
        is_registered = type(self).prior is VariationalModel.prior
        parts = (self.z_prior, self.z_posterior)
        return is_registered and all(part.has_independent_dimensions for part in parts)

    def rate_of_parts(self, x: Tensor, K: int, y: Tensor, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return the KL of each part that has free bits, `(B, J)`, and the distortion, `(B,)`."""
        if self.free_bits_per == "layer":
            return super().rate_of_parts(x, K, y, qz_x)
        prior: Any = self.prior()
        rates = kl_divergence(qz_x.base_dist, prior.base_dist)  # (B, z_dim)
        return rates, -self.log_px(x, qz_x.rsample((K,)), y).mean(0)
