"""Latent-variable models whose prior and posterior are chosen by options."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from models.distributions.conditional_flow import GaussianFlow
from models.encoder_decoder import EncoderDecoder
from models.latent_variable import LatentVariableModel
from models.networks.layers import ImageShape
from models.posteriors import Posterior, PosteriorFlow, PosteriorName, make_posterior
from models.priors import OPTION_DEFAULTS, PRIORS, Prior, PriorFlow, PriorName, PseudoInputs, make_prior


def before_flow(q: Any) -> Any:
    """Return the Gaussian that a posterior flow transforms; any other posterior as it is."""
    return q.base if isinstance(q, GaussianFlow) else q


class VariationalModel(EncoderDecoder, LatentVariableModel):
    """A latent-variable model with an encoder and a decoder network, whose prior and posterior are chosen by options.

    Its constructor makes them with `new_prior` and `new_posterior` and registers them as `z_prior` and `z_posterior`
    after all other parts: optimizer states of checkpoints are in the order of the parameters. The encoder has
    `z_posterior.num_outputs` outputs.

    Args:
        image_shape: Channels, height and width; from the data.
        prior: p(z), by its name in the registry: standard, N(0, I); mixture, Gaussians with learned weights, means and
            scales; vamp, a mixture of the posteriors of learned images (VampPrior); or flow, a normalizing flow.
        prior_components: Gaussians of prior mixture, 10 by default, or of prior vamp, 500 by default.
        prior_inputs: What the learned images of prior vamp start at: images (the default), which are training images,
            or noise.
        prior_flow: Transformations of prior flow: nsf, splines on [-5, 5] (the default), or maf, affine ones.
        prior_transforms: Number of transformations of prior flow, 2 by default.
        prior_hidden: Widths of the hidden layers of each transformation of prior flow, [128, 128] by default.
        posterior: q(z|x), by its name in the registry: diagonal, a Gaussian with independent dimensions; full, a
            Gaussian with any covariance; flow, a Gaussian transformed by a normalizing flow.
        posterior_flow: Flow of the posterior flow: iaf (the default), inverse autoregressive affine transforms (Kingma
            et al. 2016); nsf, spline coupling transforms (Durkan et al. 2019), which are slower; stl, dreg and piwae
            need them.
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
        prior_components: int | None = None,
        prior_inputs: PseudoInputs | None = None,
        prior_flow: PriorFlow | None = None,
        prior_transforms: int | None = None,
        prior_hidden: Sequence[int] | None = None,
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
        hparams = self.hparams
        options = {option: hparams[option] for option in OPTION_DEFAULTS}
        prior = make_prior(hparams.prior, self.latent_sizes[-1], hparams.image_shape, self.encoded_classes, **options)
        if PRIORS[hparams.prior].is_encoded and hparams.batch_norm:
            raise ValueError(
                f"Prior {hparams.prior} cannot be combined with batch_norm, whose statistics are those of images: "
                "choose another prior or --model.batch_norm false."
            )
        return prior

    @property
    def encoded_classes(self) -> int:
        """Number of labels that q(z|x, y) is given; 0 if it is given none."""
        return self.hparams.num_classes if self.is_conditional else 0

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

    def start_at_data(self, data) -> None:
        """Initialise the prior from training images, if it has parameters that are images.

        Raises:
            ValueError: If there are too few images.
        """
        super().start_at_data(data)

        def random_images(n: int) -> tuple[Tensor, Tensor]:
            if n > len(data.train.x):
                raise ValueError(
                    f"prior_components {n} is more than the {len(data.train.x)} training images that the prior starts "
                    "at: choose fewer, or prior_inputs noise."
                )
            chosen = data.train.subset(torch.randperm(len(data.train.x))[:n])
            return self.as_images(chosen.x), chosen.y

        self.z_prior.start_at(random_images)

    def prior(self) -> Distribution:
        """Return p(z), batch shape `()`; in a hierarchy, that of the last layer.

        It is computed only once in `evaluating`, and in a validation.
        """
        cache = None if torch.is_grad_enabled() else self.evaluation_cache
        if cache is not None and "prior" in cache:
            return cache["prior"]
        prior = self.z_prior(like=next(self.decoder.parameters()), encode=self.encode_pseudo_inputs)
        if cache is not None:
            cache["prior"] = prior
        return prior

    def encode_pseudo_inputs(self, u: Tensor, y: Tensor | None) -> Any:
        """Return the Gaussians q(z|u) of images `(N, C, H, W)`, batch shape `(N,)`, for a prior that is made of them.

        They are of the last layer of latents. A conditional model receives labels `y (N,)`. With a posterior flow they
        are the Gaussians that it transforms.
        """
        return before_flow(self.posterior(u, y))
