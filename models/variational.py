"""Latent-variable models whose prior and posterior are chosen by options."""

from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from models.encoder_decoder import EncoderDecoder
from models.latent_variable import LatentVariableModel
from models.networks.layers import ImageShape
from models.posteriors import Posterior, PosteriorName, make_posterior
from models.priors import Prior, PriorName, make_prior


class VariationalModel(EncoderDecoder, LatentVariableModel):
    """A latent-variable model with an encoder and a decoder network, whose prior and posterior are chosen by options.

    Its constructor makes them with `new_prior` and `new_posterior` and registers them as `z_prior` and `z_posterior`
    after all other parts: optimizer states of checkpoints are in the order of the parameters. The encoder has
    `z_posterior.num_outputs` outputs.

    Args:
        image_shape: Channels, height and width; from the data.
        prior: p(z), by its name in the registry: standard, N(0, I).
        posterior: q(z|x), by its name in the registry: diagonal, a Gaussian with independent dimensions.
    """

    z_prior: Prior
    z_posterior: Posterior

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        prior: PriorName = "standard",
        posterior: PosteriorName = "diagonal",
        **kwargs: Any,
    ):
        super().__init__(image_shape, **kwargs)

    def new_prior(self) -> Prior:
        """Return a new prior of the last layer of latents, with the options of the model.

        Raises:
            ValueError: If an option is out of range, or has no effect on this prior.
        """
        return make_prior(self.hparams.prior, self.latent_sizes[-1])

    def new_posterior(self) -> Posterior:
        """Return a new posterior of the first layer of latents, with the options of the model.

        Raises:
            ValueError: If an option is out of range, or has no effect on this posterior.
        """
        return make_posterior(self.hparams.posterior, self.latent_sizes[0])

    def prior(self) -> Distribution:
        """Return p(z), of the last layer of latents, batch shape `()`."""
        return self.z_prior(like=next(self.decoder.parameters()), encode=self.encode_pseudo_inputs)

    def encode_pseudo_inputs(self, u: Tensor) -> Any:
        """Return the Gaussians q(z|u) of images `(N, C, H, W)`, batch shape `(N,)`, for a prior that is made of them.

        They are of the last layer of latents.
        """
        return self.posterior(u)
