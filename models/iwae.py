"""The importance-weighted autoencoder."""

from models.networks.layers import ImageShape
from models.vae import VAE


class IWAE(VAE):
    """Importance-weighted autoencoder (Burda et al. 2015): the VAE's networks, trained on log 1/K sum_k w_k (eq. 8).

    Args:
        image_shape: Channels, height and width; from the data.
        objective: Bound or surrogate to train on: iwae, dreg, piwae, miwae, ciwae, elbo or stl.
        num_samples: K, the samples of z per image in training.
    """

    def __init__(self, image_shape: ImageShape, objective: str = "iwae", num_samples: int = 5, **kwargs):
        super().__init__(image_shape, objective=objective, num_samples=num_samples, **kwargs)
