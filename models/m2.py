"""The semi-supervised model M2."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn.functional import one_hot

from models import label_checks
from models.arguments import as_count, as_features, as_labels
from models.base import mean_where
from models.distributions import (
    at_least_float32,
    diagonal_normal,
    kl_per_dimension,
    rsample_with_kl,
    rsample_with_log_prob,
)
from models.likelihoods import DEFAULT_SCALE, LikelihoodName, LogisticScale, PixelLikelihood, make_likelihood
from models.marginal_label import MarginalLabel
from models.networks.layers import ImageShape, Network, lookup
from models.priors import PRIORS, Prior
from models.variational import VariationalModel, before_flow


class ClassTerms(NamedTuple):
    """The terms of both bounds of M2 for a batch of images, each of the shape `(..., C, B)` of classes and images."""

    log_py: float  # log p(y), the same for all classes
    log_px_yz: Tensor  # E_q(z|x,y)[log p(x|y,z)]
    kl: Tensor  # KL(q(z|x,y) || p(z))
    log_qy: Tensor  # log q(y|x)

    def labelled_bound(self) -> Tensor:
        """Return -L(x, y) <= log p(x, y) for every class y, `(..., C, B)` (eq. 6)."""
        return self.log_py + self.log_px_yz - self.kl

    def unlabelled_bound(self) -> Tensor:
        """Return -U(x) <= log p(x), `(..., B)` (eq. 7)."""
        return (self.log_qy.exp() * (self.labelled_bound() - self.log_qy)).sum(-2)

    def rate_distortion(self) -> tuple[Tensor, Tensor]:
        """Return U(x) in two parts, each `(..., B)`: KL(q(y,z|x) || p(y) p(z)) and the mean over q of -log p(x|y,z)."""
        qy = self.log_qy.exp()
        return (qy * (self.kl + self.log_qy - self.log_py)).sum(-2), -(qy * self.log_px_yz).sum(-2)


class M2(VariationalModel, MarginalLabel):
    """Semi-supervised VAE, model M2 of Kingma et al. (2014): p(y) p(z) p(x|y,z) with q(y|x) q(z|x,y).

    For an image with label y, and for one without (eqs. 6 and 7, here as bounds: higher is better)

        -L(x, y) = log p(y) + E_q(z|x,y)[log p(x|y,z)] - KL(q(z|x,y) || p(z))            <= log p(x, y)
        -U(x)    = sum_y q(y|x) (-L(x, y)) + H(q(y|x))                                   <= log p(x)

    and the loss of a batch is (N_l mean_l L + N_u mean_u U) / N + alpha mean_l[-log q(y|x)] (eqs. 8 and 9; the paper's
    alpha = 0.1 N is alpha = 0.1 here): means over its labelled and unlabelled images, empty ones 0, and N_l + N_u = N
    the numbers of training images. One pass enumerates all classes for all images. The KL is in closed form if there is
    one for this prior and posterior, else the mean over the samples of z.

    Args:
        image_shape: Channels, height and width; from the data.
        num_classes: Number of labels; from the data.
        labelled_fraction: N_l / N; from the data.
        z_dim: Dimensions of the latent.
        hidden: Sizes of the hidden layers of encoder, decoder (mirrored) and classifier; each network's own by default.
        encoder: Encoder and classifier, by their name in the registry: mlp, conv, dcgan, resnet, gated or
            gated_conv.
        batch_norm: Batch norm before each activation or gate.
        likelihood: p(x|y,z): bernoulli for binarized pixels, gaussian or continuous_bernoulli for dequantised grey
            ones, discretized_logistic or discretized_logistic_mixture for grey levels. By default --data.binarization
            follows from it.
        scale: Standard deviation of a gaussian likelihood, the same for all pixels. A learned one starts there, or at
            the deviation of the training pixels from the mean image if that is smaller.
        learn_scale: Learn the scale of a gaussian likelihood.
        logistic_scale: Scale of a discretized_logistic likelihood: per_image (the default: learned, a function of the
            latent), shared (learned, one for all images), or a number, in units of pixels.
        logistic_components: Components of a discretized_logistic_mixture, 5 by default.
        alpha: Weight of the classifier's cross-entropy on labelled images. The paper has 0.1, a 50th of the default,
            and trains for thousands of epochs.
        share_noise: Draw the same noise of z for all classes of an image when a bound is estimated. The classifier
            learns from differences between classes, which vary less with shared noise; their expectations are the same.
        classify_grey: Predict labels from the images before binarization, in validation and evaluation. Training and
            the likelihood still take binarized pixels.
    """

    metric_names = ("bound", "labelled_bound", "elbo", "rate", "distortion", "entropy", "error")
    learns_from_labels = True
    default_limit = 1000  # the likelihood takes K samples of every class
    default_epochs = 60  # a step evaluates all classes
    data_args = ("image_shape", "num_classes", "labelled_fraction")
    older_defaults: ClassVar[dict[str, Any]] = {"share_noise": False}

    labels: Tensor
    likelihood: Any  # PixelLikelihood, or diagonal_normal with likelihood features

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        labelled_fraction: float,
        z_dim: int = 50,
        hidden: list[int] | None = None,
        encoder: str = "mlp",
        batch_norm: bool = True,
        likelihood: LikelihoodName = "bernoulli",
        scale: float = DEFAULT_SCALE,
        learn_scale: bool = False,
        logistic_scale: LogisticScale = None,
        logistic_components: int | None = None,
        alpha: float = 5.0,
        share_noise: bool = True,
        classify_grey: bool = False,
        **kwargs,
    ):
        super().__init__(image_shape, z_dim=z_dim, hidden=hidden, encoder=encoder, batch_norm=batch_norm, **kwargs)
        if num_classes < 2:
            name = type(self).__name__
            raise ValueError(f"{name} needs labels of two classes or more: choose data that have them, or --model VAE.")
        label_checks.check_number(type(self).__name__, num_classes)
        if not alpha >= 0:
            raise ValueError(f"alpha must not be negative; got {alpha}.")
        posterior = self.new_posterior()
        self.make_inference_networks(posterior.num_outputs)
        if likelihood == "features":  # x is a vector, another model's latent: a mean and a scale for each dimension
            self.likelihood = diagonal_normal
            output: tuple[int, ...] = (2 * image_shape[0],)
        else:
            self.likelihood = make_likelihood(
                likelihood,
                image_shape,
                scale=scale,
                learn_scale=learn_scale,
                logistic_scale=logistic_scale,
                logistic_components=logistic_components,
            )
            output = (self.likelihood.output_channels, *image_shape[1:])
        self.make_generative_networks(output)
        self.register_buffer("labels", torch.eye(num_classes)[:, None], persistent=False)  # (C, 1, C), one-hot
        if isinstance(self.encoder, Network):
            posterior.start(self.encoder.output)
        self.init_near_uniform()
        # registered last: optimizer states of checkpoints are in the order of the parameters
        self.z_prior, self.z_posterior = self.new_prior(), posterior

    def make_inference_networks(self, z_outputs: int) -> None:
        """Create the networks of q(y|x) and q(z|x,y).

        Args:
            z_outputs: Number of outputs of the encoder, from which `z_posterior` makes q(z|x,y).
        """
        options = self.hparams
        self.classifier = self.new_encoder(options.num_classes)
        self.encoder = self.new_encoder(z_outputs, context_dim=options.num_classes)

    def make_generative_networks(self, output_shape: tuple[int, ...]) -> None:
        """Create the network of p(x|y,z), whose outputs are the parameters of the likelihood, of `output_shape`."""
        options = self.hparams
        self.decoder = self.new_decoder(options.z_dim, context_dim=options.num_classes, output_shape=output_shape)

    @torch.no_grad()
    def init_near_uniform(self) -> None:
        """Initialise q(y|x) near uniform, and the networks nearly independent of the class.

        Otherwise random weights separate the classes before the labels do: with them the bounds of two classes differ
        by many nats, and the classifier learns to choose the class with the better bound for every image.
        """
        layers: list[Any] = [self.encoder.context, self.decoder.context, self.classifier.output]
        if self.hparams.likelihood == "features":
            layers.append(self.decoder.output)  # p(x|y,z) close to N(0, I), the prior of the latents of a VAE
        for layer in layers:
            layer.weight.mul_(0.01)

    @property
    def decoder_cost(self) -> int:
        return self.hparams.num_classes * super().decoder_cost

    def check_protocol(self, protocol: str) -> None:
        if self.hparams.likelihood != "features":
            self.likelihood.check_protocol(protocol)

    def check_data(self, data) -> None:
        super().check_data(data)
        if not data.labelled_fraction:
            raise ValueError(f"{type(self).__name__} needs some labels: choose data that have them, or --model VAE.")
        label_checks.check_training_images(type(self).__name__, data)
        if self.classifies_grey and not data.has_grey_levels:
            raise ValueError(f"{type(data).__name__} has no grey levels: leave out --model.classify_grey.")
        if self.classifies_grey and data.protocol in ("grey", "levels"):
            raise ValueError("classify_grey needs binarized images, but these are grey: leave it out.")

    @property
    def classifies_grey(self) -> bool:
        return self.hparams.classify_grey

    @property
    def pixel_likelihood(self) -> PixelLikelihood | None:
        return None if self.hparams.likelihood == "features" else self.likelihood

    def as_images(self, x) -> Tensor:
        """Return images, or latents of M1 `(B, d)` if those are the data."""
        if self.hparams.likelihood == "features":
            return as_features(x, self.hparams.image_shape[0], next(self.parameters()))
        return super().as_images(x)

    def as_labels(self, y, shape: tuple[int, ...], broadcast: bool = False) -> Tensor | None:
        """Return labels of this shape, or None without labels."""
        return None if y is None else as_labels(y, self.hparams.num_classes, next(self.parameters()), shape, broadcast)

    # The distributions. `context` holds one-hot labels that broadcast; by default all classes, `self.labels`.

    def log_qy(self, x: Tensor) -> Tensor:
        """Return log q(y|x) of every class, `(C, B)`."""
        return at_least_float32(self.classifier(x)).log_softmax(-1).T

    def qz(self, x: Tensor, context: Tensor | None = None) -> Independent:
        """Return q(z|x,y), batch shape `(C, B)` for all classes."""
        return self.z_posterior(self.encoder(x, self.labels if context is None else context))

    @property
    def encoded_classes(self) -> int:
        """Number of labels, since q(z|x,y) is given one."""
        return self.hparams.num_classes

    def new_prior(self) -> Prior:
        """Return a new prior of z, with the options of the model.

        Raises:
            ValueError: If an option is out of range, or has no effect on this prior, or the prior does not fit the
                data.
        """
        name = self.hparams.prior
        if self.hparams.likelihood == "features" and lookup(PRIORS, name, "prior").is_encoded:
            raise ValueError(f"Prior {name} is made of posteriors of images, but x are latents of M1: choose another.")
        return super().new_prior()

    def encode_pseudo_inputs(self, u: Tensor, y: Tensor | None) -> Any:
        """Return the Gaussians q(z|u,y) of images `(N, C, H, W)` with labels `(N,)`, batch shape `(N,)`."""
        assert y is not None
        return before_flow(self.qz(u, one_hot(y, self.hparams.num_classes).float()))

    def px(self, z: Tensor, context: Tensor | None = None) -> Independent:
        """Return p(x|y,z) for `z (..., C, B, z_dim)`, batch shape `(..., C, B)`."""
        return self.likelihood(self.decoder(z, self.labels if context is None else context))

    def px_classes(self, z: Tensor) -> Independent:
        """Return p(x|y,z) of every class for `z (..., B, z_dim)`, batch shape `(..., C, B)`."""
        return self.px(z.unsqueeze(-3))

    # The bounds

    def class_terms(self, x: Tensor, K: int = 1, qz_xy: Independent | None = None) -> ClassTerms:
        """Return the terms of the bounds, with log p(x|y,z) averaged over K samples.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples of z per image and class.
            qz_xy: `self.posterior(x)` if it is known already.
        """
        qz_xy = self.qz(x) if qz_xy is None else qz_xy
        z, kl = rsample_with_kl(qz_xy, self.prior(), K, self.class_noise(qz_xy, K))  # (K, C, B, z_dim), (C, B)
        return ClassTerms(self.log_py(), self.px(z).log_prob(x).mean(0), kl, self.log_qy(x))

    def class_noise(self, qz_xy: Distribution, K: int) -> Tensor | None:
        """Return standard normal noise for K samples of q(z|x,y), the same for all classes, `(K, ..., C, B, z_dim)`.

        With `share_noise` false, return None: the samples then draw their own noise.

        Raises:
            ValueError: If the posterior cannot transform given noise.
        """
        if not self.hparams.share_noise:
            return None
        if not hasattr(qz_xy, "at_noise"):
            raise ValueError(
                f"Posterior {self.hparams.posterior} has no at_noise(), which shared noise needs: define it, or use "
                "--model.share_noise false."
            )
        *batch, C, B = qz_xy.batch_shape
        like = at_least_float32(self.labels)  # of the type and on the device of the posterior's parameters
        noise = torch.randn(K, *batch, 1, B, self.hparams.z_dim, dtype=like.dtype, device=like.device)
        return noise.expand(K, *batch, C, B, -1)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -L(x, y) for every class `(C, B)`, -U(x) `(B,)`, and log q(y|x) `(C, B)`."""
        terms = self.class_terms(x)
        return terms.labelled_bound(), terms.unlabelled_bound(), terms.log_qy

    def bound_weights(self) -> tuple[float, float]:
        """Return the weights of the means of L and U in the loss, N_l / N and N_u / N."""
        return self.hparams.labelled_fraction, 1 - self.hparams.labelled_fraction

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        (labelled, unlabelled, log_qy), known = self.bounds(x), y >= 0
        label = y.clamp(min=0)[None]  # unknown labels become class 0; the mask removes them
        N_l, N_u = self.bound_weights()
        L = mean_where(known, -labelled.gather(0, label)[0])
        U = mean_where(~known, -unlabelled)
        return N_l * L + N_u * U + self.hparams.alpha * mean_where(known, -log_qy.gather(0, label)[0])

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None) -> Tensor:
        """Return log sum_y p(y) p(x|y,z_y,k) p(z_y,k) / q(z_y,k|x,y), `(K, B)`: y is summed out, never sampled.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples of z per image and class.
            y: Labels `(B,)`; with labels the weights estimate p(x, y) instead.
            posterior: `self.posterior(x)` if it is known already; x and y are then not checked.

        Raises:
            ValueError: If the likelihood is not defined for these images, or labels do not fit the images.
        """
        x, K, y, qz_xy = self.with_posterior(x, K, y, posterior)
        z, log_q = rsample_with_log_prob(qz_xy, K)  # z (K, C, B, z_dim)
        log_w = self.log_py() + self.px(z).log_prob(x) + self.prior().log_prob(z) - log_q()  # (K, C, B)
        return log_w.logsumexp(1) if y is None else log_w.gather(1, y.expand(K, 1, -1))[:, 0]

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """Return q(z|x,y) for every class y, batch shape `(C, B)`."""
        self.check_form(x)
        return self.qz(x)

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return U(x) in two parts, each `(B,)`: KL(q(y,z|x) || p(y) p(z)) and the mean over q of -log p(x|y,z)."""
        x, K, y, qz_xy = self.with_posterior(x, K, y, posterior)
        return self.class_terms(x, K, qz_xy).rate_distortion()

    def validation_metrics(self, x: Tensor, y: Tensor, grey: Tensor | None = None) -> dict[str, Tensor]:
        terms = self.class_terms(x)
        log_qy = terms.log_qy if grey is None else self.log_qy(grey)
        return self.metrics(terms.labelled_bound(), *terms.rate_distortion(), log_qy, y)

    def metrics(
        self, labelled: Tensor, rate: Tensor, distortion: Tensor, log_qy: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        """Return the validation metrics from -L(x, y) `(C, B)`, the parts of U(x) `(B,)` and log q(y|x) `(C, B)`.

        With `classify_grey`, log q(y|x) is of the images before binarization.
        """
        known = y >= 0
        return {
            "bound": -rate - distortion,
            "labelled_bound": labelled.gather(0, y.clamp(min=0)[None])[0, known],
            "elbo": -rate - distortion,
            "rate": rate,
            "distortion": distortion,
            "entropy": -(log_qy.exp() * log_qy).sum(0),
            "error": (log_qy.argmax(0) != y)[known],
        }

    # Uses of a trained model

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Return q(y|x), `(B, num_classes)`. If `classifies_grey`, x should be images before binarization."""
        return self.log_qy(self.as_images(x)).exp().T

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean of q(z|x,y), `(B, z_dim)`, for the labels y, or without them for the most probable ones."""
        x = self.as_images(x)
        y = self.as_labels(y, (len(x),))
        return self.qz(x, self.context(x, y)).mean

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Return the mean of p(x|y,z) for `z (..., z_dim)` and labels that broadcast with its leading dimensions."""
        z = self.as_latents(z)
        y = self.as_labels(y, tuple(z.shape[:-1]), broadcast=True)
        if y is None:
            name = type(self).__name__
            raise ValueError(f"decode of {name} needs labels y, integers from 0 to {self.hparams.num_classes - 1}.")
        return self.px(z, one_hot(y, self.hparams.num_classes).float()).mean

    def context(self, x: Tensor, y: Tensor | None) -> Tensor:
        """Return one-hot labels `(B, num_classes)`: of y, or without labels of the most probable class of x."""
        y = self.log_qy(x).argmax(0) if y is None else y
        return one_hot(y, self.hparams.num_classes).float()

    @torch.no_grad()
    def sample_classes(self, n: int) -> Tensor:
        """Return the mean of p(x|y,z) for n samples of z, each with every label: `(n, num_classes, C, H, W)`."""
        return self.every_label(self.prior().sample((as_count(n, "n"),)))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Return the mean of p(x|y,z) for n samples of z, with the labels 0, 1, ... in turn: `(n, C, H, W)`."""
        n = as_count(n, "n")
        return self.decode(self.prior().sample((n,)), torch.arange(n, device=self.device) % self.hparams.num_classes)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|y,z) for the most probable label and its mean of z: `(B, C, H, W)`."""
        x = self.as_images(x)
        context = self.context(x, None)
        return self.px(self.qz(x, context).mean, context).mean

    @torch.no_grad()
    def analogies(self, x: Tensor) -> Tensor:
        """Return each image's style with every label (Kingma et al. 2014, fig. 1): `(B, num_classes, C, H, W)`."""
        return self.every_label(self.encode(x))

    def every_label(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|y,z) for each `z (B, z_dim)` and every label: `(B, num_classes, C, H, W)`."""
        return self.px(z).mean.transpose(0, 1)

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the mean of q(z|x,y) at the most probable label and the KL of each dimension, both `(B, z_dim)`."""
        x = self.as_images(x)
        qz_xy = self.qz(x, self.context(x, self.as_labels(y, (len(x),))))
        return [(qz_xy.mean, kl_per_dimension(qz_xy, self.prior()))]
