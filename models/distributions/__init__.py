"""Distributions of latents and images: torch.distributions, with the event dimensions declared by `Independent`.

`log_prob` returns one number, in nats, per latent vector or image: the objectives never sum over dimensions.
"""

from torch.distributions import Distribution

from models.distributions.bernoulli import BernoulliImage, bernoulli_image, log_bernoulli
from models.distributions.gaussian import (
    DiagonalNormal,
    FullNormal,
    StandardNormal,
    diagonal_normal,
    is_standard_normal,
    normal_image,
    standard_normal,
)
from models.distributions.kl import (
    closed_form_kl,
    kl_per_dimension,
    rsample_with_kl,
    rsample_with_log_prob,
    sampled_kl_per_dimension,
)
from models.distributions.outputs import LATENT_LIMIT, SCALE_LIMIT, at_least_float32, inverse_soft_clip, soft_clip

__all__ = [
    "LATENT_LIMIT",
    "SCALE_LIMIT",
    "BernoulliImage",
    "DiagonalNormal",
    "FullNormal",
    "StandardNormal",
    "at_least_float32",
    "bernoulli_image",
    "closed_form_kl",
    "diagonal_normal",
    "inverse_soft_clip",
    "is_standard_normal",
    "kl_per_dimension",
    "log_bernoulli",
    "normal_image",
    "rsample_with_kl",
    "rsample_with_log_prob",
    "sampled_kl_per_dimension",
    "soft_clip",
    "standard_normal",
]

# Argument validation costs small networks a third of their speed. The data modules validate ranges once, at load time.
Distribution.set_default_validate_args(False)
