"""Latent-variable models whose prior and posterior are chosen by options."""

from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from models.encoder_decoder import EncoderDecoder
from models.latent_variable import LatentVariableModel
from models.networks.layers import ImageShape
from models.posteriors import Posterior, PosteriorFlow, PosteriorName, make_posterior
from models.priors import Prior, PriorName, make_prior


class VariationalModel(EncoderDecoder, LatentVariableModel):
    """A latent-variable model with an encoder and a decoder network, whose prior and posterior are chosen by options.

    Its constructor makes them with `new_prior` and `new_posterior` and registers them as `z_prior` and `z_posterior`
    after all other parts: optimizer states of checkpoints are in the order of the parameters. The encoder has
    `z_posterior.num_outputs` outputs.

    Args:
        image_shape: Channels, height and width; from the data.
        prior: p(z), by its name in the registry: standard, N(0, I).
        posterior: q(z|x), by its name in the registry: diagonal, a Gaussian with independent dimensions; full, a
            Gaussian with any covariance; flow, a Gaussian transformed by a normalizing flow.
        posterior_flow: Flow of the posterior flow: iaf (the default), inverse autoregressive affine transforms (Kingma
            et al. 2016); nsf, coupling transforms by splines (Durkan et al. 2019), slower, for any objective.
        posterior_transforms: Transforms of the posterior flow, 2 by default.
        posterior_hidden: Widths of the hidden layers of each transform of the posterior flow, [256] by default.
        posterior_context: Outputs of the encoder that the posterior flow depends on, in addition to mean and scale of
            its Gaussian; 32 by default.
    """

    z_prior: Prior
    z_posterior: Posterior

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        prior: PriorName = "standard",
        posterior: PosteriorName = "diagonal",
        posterior_flow: PosteriorFlow | None = None,
        posterior_transforms: int | None = None,
        posterior_hidden: list[int] | None = None,
        posterior_context: int | None = None,
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
        options = self.hparams
        return make_posterior(
            options.posterior,
            self.latent_sizes[0],
            flow=options.posterior_flow,
            transforms=options.posterior_transforms,
            hidden=options.posterior_hidden,
            context=options.posterior_context,
        )

    def prior(self) -> Distribution:
        """Return p(z), of the last layer of latents, batch shape `()`."""
        return self.z_prior(like=next(self.decoder.parameters()), encode=self.encode_pseudo_inputs)

    def encode_pseudo_inputs(self, u: Tensor) -> Any:
        """Return the Gaussians q(z|u) of images `(N, C, H, W)`, batch shape `(N,)`, for a prior that is made of them.

        They are of the last layer of latents. With a posterior flow they are the Gaussians that it transforms.
        """
        q = self.posterior(u)
        return getattr(q, "base", q)
