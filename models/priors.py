"""Registry of priors p(z). A prior is a module with its parameters; calling it returns the distribution.

CONTRIBUTING.md shows how to add one.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from models.distributions import LATENT_LIMIT, at_least_float32, inverse_soft_clip, soft_clip, standard_normal
from models.distributions.flow import FlowDistribution
from models.distributions.mixture import GaussianMixture
from models.networks import check_sizes
from models.networks.layers import ImageShape, lookup

PriorName = Literal["standard", "mixture", "vamp", "flow"]
PseudoInputs = Literal["images", "noise"]
PriorFlow = Literal["nsf", "maf"]
# images (N, C, H, W) and labels (N,) of a conditional model -> the Gaussians q(z|x), batch shape (N,)
Encode = Callable[[Tensor, Tensor | None], Any]

# Options of all priors with their defaults; `Prior.options` says which of them a prior has
OPTION_DEFAULTS: dict[str, Any] = dict.fromkeys(
    ("prior_components", "prior_inputs", "prior_flow", "prior_transforms", "prior_hidden")
)
MIXTURE_COMPONENTS = 10  # default of prior_components with prior mixture,
VAMP_COMPONENTS = 500  # and with prior vamp
PIXEL_MARGIN = 0.01  # pixels of the pseudo-inputs start within [0.01, 0.99], where the logit is not too steep
FLOW_TRANSFORMS = 2  # default of prior_transforms
FLOW_HIDDEN = (128, 128)  # default of prior_hidden


class Prior(nn.Module):
    """Base class of priors.

    Its constructor takes the arguments below, and the options that it lists in `options`.

    Args:
        z_dim: Dimensions of z.
        image_shape: Channels, height and width of the images.
        num_classes: Number of labels that q(z|x, y) is given; 0 if it is given none.
    """

    options: ClassVar[tuple[str, ...]] = ()  # keys of `OPTION_DEFAULTS`
    is_encoded = False  # whether its parameters pass through the encoder
    has_independent_dimensions = False  # whether p(z) is `Independent`, with a closed-form KL per dimension

    def __init__(self, z_dim: int, image_shape: ImageShape, num_classes: int = 0):
        super().__init__()
        self.z_dim = z_dim

    def forward(self, like: Tensor, encode: Encode) -> Distribution:
        """Return p(z), batch shape `()`, with `log_prob`, `sample` and `expand`.

        Args:
            like: A parameter of the model, for the device and the precision of a prior without parameters.
            encode: The posterior of the model, for a prior that is made of posteriors.
        """
        raise NotImplementedError

    def start_at(self, images: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        """Initialise from training images. The base class does not.

        Args:
            images: Returns n random training images `(n, C, H, W)` in [0, 1] and their labels `(n,)`.
        """


class StandardPrior(Prior):
    """N(0, I)."""

    has_independent_dimensions = True

    def forward(self, like: Tensor, encode: Encode) -> Independent:
        return standard_normal(self.z_dim, like)


def number_of_components(value: int | None, default: int) -> int:
    """Return the number of components of a mixture. Raise ValueError unless it is positive."""
    if value is not None and value < 1:
        raise ValueError(f"prior_components must be at least 1; got {value}.")
    return default if value is None else value


class MixturePrior(Prior):
    """p(z) = sum_c w_c N(z; mu_c, diag(s_c^2)) with learned weights, means and scales.

    It starts with the mean and about the variance of N(0, I), half of which is the spread of the random means.

    Args:
        z_dim: Dimensions of z.
        image_shape: Channels, height and width of the images.
        num_classes: Number of labels that q(z|x, y) is given; 0 if it is given none.
        prior_components: Number of Gaussians.
    """

    options = ("prior_components",)

    def __init__(self, z_dim: int, image_shape: ImageShape, num_classes: int = 0, prior_components: int | None = None):
        super().__init__(z_dim, image_shape, num_classes)
        C = number_of_components(prior_components, MIXTURE_COMPONENTS)
        scale = math.sqrt(0.5)
        self.weight_logits = nn.Parameter(torch.zeros(C))
        self.means = nn.Parameter(scale * torch.randn(C, z_dim))
        self.raw_scales = nn.Parameter(torch.full((C, z_dim), inverse_soft_clip(math.log(scale), LATENT_LIMIT)))

    def forward(self, like: Tensor, encode: Encode) -> GaussianMixture:
        scales = soft_clip(at_least_float32(self.raw_scales), LATENT_LIMIT).exp()
        return GaussianMixture(self.weight_logits, Independent(Normal(at_least_float32(self.means), scales), 1))


class VampPrior(Prior):
    """p(z) = sum_c w_c q(z|u_c) with learned weights and pseudo-inputs u_c (Tomczak & Welling 2018, section 2.2).

    The pixels of u_c are the sigmoid of a parameter, so that they stay in [0, 1]. Weights start equal. The paper keeps
    them equal.

    Args:
        z_dim: Dimensions of z.
        image_shape: Channels, height and width of the images.
        num_classes: Number of labels that q(z|x, y) is given; each pseudo-input then has a fixed label.
        prior_components: Number of pseudo-inputs.
        prior_inputs: What they start at: images of the training data, or noise.
    """

    options = ("prior_components", "prior_inputs")
    is_encoded = True

    labels: Tensor | None

    def __init__(
        self,
        z_dim: int,
        image_shape: ImageShape,
        num_classes: int = 0,
        prior_components: int | None = None,
        prior_inputs: PseudoInputs | None = None,
    ):
        super().__init__(z_dim, image_shape, num_classes)
        C = number_of_components(prior_components, VAMP_COMPONENTS)
        lookup(dict.fromkeys(("images", "noise")), prior_inputs or "images", "prior_inputs")
        self.starts_at_images = prior_inputs != "noise"
        self.weight_logits = nn.Parameter(torch.zeros(C))
        self.pixel_logits = nn.Parameter(torch.randn(C, *image_shape))  # noise, until there are data
        self.register_buffer("labels", torch.arange(C) % num_classes if num_classes else None)

    @property
    def pseudo_inputs(self) -> Tensor:
        """The images u_c, `(prior_components, C, H, W)` in [0, 1]."""
        return at_least_float32(self.pixel_logits).sigmoid()

    @torch.no_grad()
    def start_at(self, images: Callable[[int], tuple[Tensor, Tensor]]) -> None:
        if not self.starts_at_images:
            return
        x, y = images(len(self.pixel_logits))
        self.pixel_logits.copy_(x.clamp(PIXEL_MARGIN, 1 - PIXEL_MARGIN).logit())
        if self.labels is not None:
            self.labels.copy_(torch.where(y >= 0, y, self.labels))  # images without a label: 0, 1, ... in turn

    def forward(self, like: Tensor, encode: Encode) -> GaussianMixture:
        # The precision of 16 bits is too low for the parameters of a density.
        with torch.autocast(like.device.type, enabled=False):
            return GaussianMixture(self.weight_logits, encode(self.pseudo_inputs, self.labels))


class FlowPrior(Prior):
    """A normalizing flow: f(z) ~ N(0, I), where f is a composition of autoregressive transformations.

    nsf are neural spline flows (Durkan et al. 2019): monotonic rational-quadratic splines on [-5, 5], the identity
    outside of it. maf are affine transformations (Papamakarios et al. 2017). The order of the dimensions is reversed
    from one transformation to the next. The density takes one pass, a sample one pass for each dimension.

    Args:
        z_dim: Dimensions of z.
        image_shape: Channels, height and width of the images.
        num_classes: Number of labels that q(z|x, y) is given; 0 if it is given none.
        prior_flow: Kind of transformation, nsf (the default) or maf.
        prior_transforms: Number of transformations.
        prior_hidden: Widths of the hidden layers of the network of each transformation.
    """

    options = ("prior_flow", "prior_transforms", "prior_hidden")

    def __init__(
        self,
        z_dim: int,
        image_shape: ImageShape,
        num_classes: int = 0,
        prior_flow: PriorFlow | None = None,
        prior_transforms: int | None = None,
        prior_hidden: Sequence[int] | None = None,
    ):
        super().__init__(z_dim, image_shape, num_classes)
        from zuko import flows  # imported here because most models do not need it

        kind = lookup({"nsf": flows.NSF, "maf": flows.MAF}, prior_flow or "nsf", "prior_flow")
        transforms = FLOW_TRANSFORMS if prior_transforms is None else prior_transforms
        if transforms < 1:
            raise ValueError(f"prior_transforms must be at least 1; got {transforms}.")
        hidden = list(FLOW_HIDDEN if prior_hidden is None else prior_hidden)
        check_sizes(hidden, "prior_hidden")
        # with one dimension there are no dimensions that a network could depend on
        networks = {"hidden_features": hidden} if z_dim > 1 else {}
        # zuko computes masks from values, which a model on the meta device does not have
        with torch.device("cpu" if torch.get_default_device().type == "meta" else torch.get_default_device()):
            self.flow = kind(z_dim, transforms=transforms, **networks)

    def forward(self, like: Tensor, encode: Encode) -> FlowDistribution:
        with torch.autocast(like.device.type, enabled=False):
            return FlowDistribution(self.flow(), next(self.flow.parameters()))


PRIORS: dict[str, type[Prior]] = {
    "standard": StandardPrior,
    "mixture": MixturePrior,
    "vamp": VampPrior,
    "flow": FlowPrior,
}


def make_prior(name: str, z_dim: int, image_shape: ImageShape, num_classes: int = 0, **options: Any) -> Prior:
    """Return a new prior of the registry.

    Args:
        name: Its name.
        z_dim: Dimensions of z.
        image_shape: Channels, height and width of the images.
        num_classes: Number of labels that q(z|x, y) is given; 0 if it is given none.
        options: A value for each of `OPTION_DEFAULTS`.

    Raises:
        ValueError: If the name is unknown, or an option is out of range or has no effect on this prior.
    """
    chosen: Any = lookup(PRIORS, name, "prior")
    for option, default in OPTION_DEFAULTS.items():
        if options[option] != default and option not in chosen.options:
            owners = [owner for owner, prior in PRIORS.items() if option in prior.options]
            raise ValueError(f"{option} is only for prior {' or '.join(owners)}: remove it for prior {name}.")
    return chosen(z_dim, image_shape, num_classes, **{option: options[option] for option in chosen.options})
