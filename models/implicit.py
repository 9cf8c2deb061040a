"""Base class of implicit generative models: a generator without a likelihood and without an encoder."""

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from models.arguments import as_count
from models.base import Model
from models.distributions import at_least_float32, standard_normal
from models.interpolation import interpolate_latents
from models.mmd import mmd2, widths_for, widths_without_data

DEFAULT_SCALE = 0.1  # sigma of p(x|z) until evaluation chooses one
# Two samples are nearly identical if their squared distance is below this fraction of the mean between images. On MNIST
# 4 in 100,000 pairs of images are.
NEARLY_IDENTICAL = 0.05
COLLAPSED_SHARE = 0.2  # of the pairs; m images without variation have a share of 1 / m: fewer than five are a collapse
WIDTH_IMAGES = 10_000  # number of training images from which kernel widths are computed


class ImplicitModel(Model):
    """A generator x = g(z), z ~ p(z), without a likelihood (Mohamed & Lakshminarayanan 2016).

    A subclass defines `prior`, `generate` and its training. If the prior is not N(0, I), it also defines
    `latents_from_noise`. Validation reports the MMD between validation images and samples, which picks the best
    checkpoint: the loss of a generator says little about the quality of its samples. `bound` is -MMD^2, and no bound.

    For evaluation, p(x|z) = N(x; g(z), sigma^2 I) on grey pixels gives it a density, as in Wu et al. (2017), so that
    annealed importance sampling estimates log p(x). AIS moves the noise e ~ N(0, I) that z is a function of.
    """

    metric_names = ("loss", "bound")
    required_methods = ("prior", "generate")
    quantity = None
    default_binarization = "grey"

    observation_scale = DEFAULT_SCALE  # sigma of p(x|z)
    mmd_widths: Tensor  # (S,): kernel widths of the validation metric, in squared units of pixels

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register_buffer("mmd_widths", widths_without_data(math.prod(self.hparams.image_shape)))

    # What a subclass must define

    def prior(self) -> Distribution:
        """Return p(z), batch shape `()`."""
        raise NotImplementedError

    def generate(self, z: Tensor) -> Tensor:
        """Return the images g(z) in [0, 1], `(..., z_dim) -> (..., C, H, W)`, with gradients."""
        raise NotImplementedError

    # What follows from it

    def latents_from_noise(self, e: Tensor) -> Tensor:
        """Return latents z ~ p(z) for noise e ~ N(0, I), of the same shape `(..., z_dim)`. By default z = e."""
        return e

    def check_protocol(self, protocol: str) -> None:
        if protocol == "grey":
            return
        if protocol == "levels":
            raise ValueError(
                f"{type(self).__name__} generates continuous pixels and has no probability of grey levels: use "
                "--data.binarization grey."
            )
        remedy = "choose data with grey values" if protocol == "larochelle" else "use --data.binarization grey"
        raise ValueError(f"{type(self).__name__} generates grey images and cannot match binarized ones: {remedy}.")

    def check_data(self, data) -> None:
        super().check_data(data)
        if min(data.batch_size, len(data.val.y)) < 2:
            raise ValueError(
                f"{type(self).__name__} compares batches of images with samples, which takes at least 2 images: raise "
                "--data.batch_size or --data.val_size."
            )

    @classmethod
    def for_data(cls, data, **options):
        model = super().for_data(data, **options)
        model.set_widths(data.images("train", WIDTH_IMAGES)[0])
        return model

    @torch.no_grad()
    def set_widths(self, x: Tensor) -> None:
        """Set the kernel widths of the validation metric from training images `(N, C, H, W)`."""
        self.mmd_widths.copy_(widths_for(x))

    @property
    def criterion(self) -> str:
        return "MMD^2"

    def validation_metrics(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return the unbiased MMD^2 between the batch and as many samples, the same number for each image.

        A batch of one image has no value, as the estimate compares the images of a batch with each other.
        """
        samples = self.generate(self.prior().sample((len(x),)))
        if len(x) < 2:
            return {"loss": x.new_empty(0), "bound": x.new_empty(0)}
        distance = mmd2(x, samples, self.mmd_widths, unbiased=True).expand(len(x))
        return {"loss": distance, "bound": -distance}

    @torch.no_grad()
    def duplicates(self, x: Tensor) -> float:
        """Return the share of pairs of samples that are nearly identical, beyond that of images `(N, C, H, W)`.

        1 for a generator that ignores z, about 1/m for one with m different images, and about 0 without mode collapse.
        """
        images = at_least_float32(x).flatten(1)
        samples = at_least_float32(self.sample(len(x))).flatten(1)
        between_images, between_samples = (torch.pdist(points).square() for points in (images, samples))
        limit = NEARLY_IDENTICAL * between_images.mean()
        share, expected = ((squared <= limit).double().mean() for squared in (between_samples, between_images))
        return (share - expected).clamp(min=0).item()

    def collapse_remedy(self) -> str:
        """Return a sentence that names an option against mode collapse."""
        return "Try a lower --model.lr."

    # Uses of a trained model

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the images g(z) in [0, 1], `(..., z_dim) -> (..., C, H, W)`."""
        return self.generate(self.as_latents(z))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Return images g(z) for n samples of z from the prior: `(n, C, H, W)`."""
        return self.generate(self.prior().sample((as_count(n, "n"),)))

    @torch.no_grad()
    def interpolate_samples(self, n: int, steps: int = 10, path: str = "linear") -> Tensor:
        """Return images between n pairs of samples from the prior: `(steps, n, C, H, W)`.

        The path is a straight line or an arc (`linear`, `spherical`) between the noise vectors of the two samples, so
        that every latent on the arc is as likely as its ends.
        """
        e0, e1 = self.ais_prior().sample((2, as_count(n, "n")))
        return self.generate(self.latents_from_noise(interpolate_latents(e0, e1, steps, path)))

    # The space of annealed importance sampling: the noise e ~ N(0, I)

    def ais_prior(self) -> Distribution:
        """Return N(0, I), the distribution of the noise that latents are a function of."""
        return standard_normal(self.latent_dim, like=next(self.parameters()))

    def px(self, e: Tensor) -> Independent:
        """Return p(x|z(e)) = N(x; g(z(e)), sigma^2 I) for noise `(..., z_dim)`, batch shape `(...)`."""
        mean = at_least_float32(self.generate(self.latents_from_noise(e)))
        return Independent(Normal(mean, self.observation_scale), 3)

    def ais_log_px(self, x: Tensor, e: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z(e)) for noise `e (..., B, z_dim)`: `(..., B)`."""
        return self.px(e).log_prob(x)

    def ais_simulate(self, e: Tensor, y: Tensor | None = None) -> Tensor:
        """Return an image x ~ p(x|z(e)) for each noise vector `(B, z_dim)`."""
        return self.px(e).sample()
