"""The auxiliary deep generative models ADGM and SDGM."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from models.distributions import (
    at_least_float32,
    diagonal_normal,
    kl_per_dimension,
    rsample_with_kl,
    rsample_with_log_prob,
    standard_normal,
)
from models.distributions.concatenation import concatenated
from models.m2 import M2, ClassTerms
from models.networks import make_decoder
from models.networks.layers import ImageShape

NOISE_SEED = 0  # of the samples of a that classification averages over
SMALL_OUTPUTS = 0.1  # factor of the initial output weights of the networks of a and z


class Draw(NamedTuple):
    """K samples of a and, for each class, of z, with what the bounds and weights need at them."""

    a: Tensor  # (K, 1, B, a_dim), from q(a|x)
    z: Tensor  # (K, C, B, z_dim), from q(z|x,a,y)
    log_px: Tensor  # log p(x|y,z), of SDGM log p(x|a,y,z), (K, C, B)
    rate_z: Tensor  # log q(z|x,a,y) - log p(z), or KL(q(z|x,a,y) || p(z)) in closed form, (K, C, B)
    log_ratio_a: Tensor  # log p(a|x,y,z) - log q(a|x), (K, C, B)


class ADGM(M2):
    """Auxiliary deep generative model of Maaloe et al. (2016): M2 with an auxiliary variable a, which makes q flexible.

    p(y) p(z) p(x|y,z) p(a|x,y,z) with q(a|x) q(y|x,a) q(z|x,a,y). Summed over a, p(x,y,z) is that of M2, and
    q(y,z|x) is a mixture in which y and z depend on each other and need not be Gaussian. For one image with label y,
    and for one without,

        -L(x, y) = E_q(a,z|x,y)[log p(y) + log p(z) + log p(x|y,z) + log p(a|x,y,z) - log q(a|x) - log q(z|x,a,y)]
        -U(x)    = E_q(a|x)[sum_y q(y|x,a) (-L(x, y, a)) + H(q(y|x,a))]

    where L(x, y, a) is L(x, y) at one a. The KL of z is in closed form if there is one. `posterior` chooses q(z|x,a,y);
    q(a|x) is a diagonal Gaussian with every posterior. The loss is that of M2, with the cross-entropy
    E_q(a|x)[-log q(y|x,a)]. One pass enumerates all classes for all images.

    Images are classified by q(y|x) = E_q(a|x)[q(y|x,a)], as in the paper: the mean over `classifier_samples` samples of
    a (100 in its released code). Their noise is fixed and the same for all images, so that the class of an image is
    deterministic and does not depend on the others.

    Args:
        image_shape: Channels, height and width; from the data.
        num_classes: Number of labels; from the data.
        labelled_fraction: N_l / N; from the data.
        z_dim: Dimensions of the latent.
        a_dim: Dimensions of the auxiliary variable.
        num_samples: K, the samples of a per image in training, with one of z for each class.
        classifier_samples: Samples of a that classification averages over.
        labelled_weight: Weight of the mean of L over labelled images in the loss, by default N_l / N. The released code
            of the paper has 1, the same as for U, and alpha 0.1 N / N_l, which is 60 for 100 labels.
    """

    aux_encoder: Any  # nn.Module
    aux_decoder: Any
    classifier_noise: Tensor

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        labelled_fraction: float,
        z_dim: int = 100,
        a_dim: int = 100,
        num_samples: int = 1,
        classifier_samples: int = 50,
        labelled_weight: float | None = None,
        **kwargs,
    ):
        for name, value in (("a_dim", a_dim), ("num_samples", num_samples), ("classifier_samples", classifier_samples)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if labelled_weight is not None and not labelled_weight >= 0:
            raise ValueError(f"labelled_weight must not be negative; got {labelled_weight}.")
        super().__init__(image_shape, num_classes, labelled_fraction, z_dim=z_dim, **kwargs)
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(classifier_samples, 1, a_dim, generator=generator, device="cpu")
        self.register_buffer("classifier_noise", noise, persistent=False)

    # The networks. Contexts are given in parts, the labels last.

    def make_inference_networks(self, z_outputs: int) -> None:
        """Create the networks of q(a|x), q(y|x,a) and q(z|x,a,y)."""
        options = self.hparams
        self.aux_encoder = self.new_encoder(2 * options.a_dim)
        self.classifier = self.new_encoder(options.num_classes, context_dim=options.a_dim)
        self.encoder = self.new_encoder(z_outputs, context_dim=options.a_dim + options.num_classes)

    def make_generative_networks(self, output_shape: tuple[int, ...]) -> None:
        """Create the networks of p(a|x,y,z) and p(x|y,z)."""
        options = self.hparams
        self.aux_decoder = self.new_encoder(2 * options.a_dim, context_dim=options.z_dim + options.num_classes)
        super().make_generative_networks(output_shape)

    @torch.no_grad()
    def init_near_uniform(self) -> None:
        """Initialise q(y|x,a) near uniform, the networks nearly independent of the class, and a and z near N(0, I).

        See M2. The densities of a would differ by many nats between the samples of z of different classes.
        """
        classifier: Any = self.classifier  # a Network
        classifier.output.weight.mul_(0.01)
        for network in (self.encoder, self.decoder, self.aux_decoder):
            network.context.weight[:, -self.hparams.num_classes :].mul_(0.01)
        for network in (self.encoder, self.aux_encoder, self.aux_decoder):
            network.output.weight.mul_(SMALL_OUTPUTS)

    # The distributions. `context` holds one-hot labels that broadcast; by default all classes, `self.labels`.

    def qa(self, x: Tensor) -> Independent:
        """Return q(a|x), batch shape `(B,)`."""
        return diagonal_normal(self.aux_encoder(x))

    def log_qy_given(self, x: Tensor, a: Tensor) -> Tensor:
        """Return log q(y|x,a) of every class for `a (..., B, a_dim)`: `(..., C, B)`."""
        return at_least_float32(self.classifier(x, (a,))).log_softmax(-1).transpose(-1, -2)

    def log_qy(self, x: Tensor) -> Tensor:
        """Return log q(y|x) of every class, `(C, B)`: the mean of q(y|x,a) over samples of a with fixed noise."""
        qa_x = self.qa(x).base_dist
        log_qy = self.log_qy_given(x, qa_x.loc + qa_x.scale * self.classifier_noise)  # (S, C, B)
        return log_qy.logsumexp(0) - math.log(len(log_qy))

    def qz(self, x: Tensor, context: Tensor | None = None, a: Tensor | None = None) -> Independent:
        """Return q(z|x,a,y), batch shape `(..., C, B)` for all classes.

        Args:
            x: Images `(B, C, H, W)`.
            context: One-hot labels.
            a: Auxiliary variables that broadcast with the labels, by default the mean of q(a|x).
        """
        a = self.qa(x).mean if a is None else a
        return self.z_posterior(self.encoder(x, (a, self.labels if context is None else context)))

    def pa(self, x: Tensor, z: Tensor, context: Tensor | None = None) -> Independent:
        """Return p(a|x,y,z) for `z (..., C, B, z_dim)`, batch shape `(..., C, B)`."""
        return diagonal_normal(self.aux_decoder(x, (z, self.labels if context is None else context)))

    def px_given(self, z: Tensor, a: Tensor) -> Independent:
        """Return p(x|y,z) of all classes for `z (..., C, B, z_dim)`, batch shape `(..., C, B)`; it does not need a."""
        return self.px(z)

    # The bounds

    def bound_weights(self) -> tuple[float, float]:
        """Return the weights of the means of L and U in the loss."""
        labelled, unlabelled = super().bound_weights()
        given = self.hparams.labelled_weight
        return labelled if given is None else given, unlabelled

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """Return q(a|x), batch shape `(1, B)`, which broadcasts with the classes."""
        self.check_form(x)
        return diagonal_normal(self.aux_encoder(x)[None])

    def draw_all(self, x: Tensor, K: int, qa_x: Independent, for_bound: bool) -> Draw:
        """Draw K samples of a and, for each of them and each class, one sample of z.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples of a per image.
            qa_x: q(a|x), from `posterior`.
            for_bound: Whether `rate_z` is the KL, in closed form if there is one, and classes may share the noise of z.
        """
        a, prior = qa_x.rsample((K,)), self.prior()
        qz = self.qz(x, a=a)
        if for_bound:
            z, rate_z = rsample_with_kl(qz, prior, 1, self.class_noise(qz, 1))
        else:
            z, log_q = rsample_with_log_prob(qz, 1)
            rate_z = (log_q() - prior.log_prob(z))[0]
        z = z[0]  # (K, C, B, z_dim)
        log_ratio_a = self.pa(x, z).log_prob(a) - qa_x.log_prob(a)
        return Draw(a, z, self.px_given(z, a).log_prob(x), rate_z, log_ratio_a)

    def class_terms(self, x: Tensor, K: int = 1, qz_xy: Independent | None = None) -> ClassTerms:
        """Return the terms of the bounds for each of K samples of a, with the shape `(K, C, B)`.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples of a per image, with one of z for each class.
            qz_xy: `self.posterior(x)`, here q(a|x), if it is known already.
        """
        draw = self.draw_all(x, K, self.posterior(x) if qz_xy is None else qz_xy, for_bound=True)
        kl = draw.rate_z - draw.log_ratio_a
        return ClassTerms(self.log_py(), draw.log_px, kl, self.log_qy_given(x, draw.a[:, 0]))

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -L(x, y) for every class `(C, B)`, -U(x) `(B,)` and log q(y|x,a) `(C, B)`, means over samples of a."""
        terms = self.class_terms(x, self.hparams.num_samples)
        return terms.labelled_bound().mean(0), terms.unlabelled_bound().mean(0), terms.log_qy.mean(0)

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None) -> Tensor:
        """Return the log weights `(K, B)` of K samples of a. Each comes with one sample of z per class.

        They are log sum_y p(y) p(z) p(x|y,z) p(a|x,y,z) / (q(a|x) q(z|x,a,y)), where z is a sample of its own for each
        y: the label is summed out, never sampled.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples per image.
            y: Labels `(B,)`; with labels the weights estimate p(x, y) instead.
            posterior: `self.posterior(x)` if it is known already; x and y are then not checked.

        Raises:
            ValueError: If the likelihood is not defined for these images, or labels do not fit the images.
        """
        x, K, y, qa_x = self.with_posterior(x, K, y, posterior)
        draw = self.draw_all(x, K, qa_x, for_bound=False)
        log_w = self.log_py() + draw.log_px - draw.rate_z + draw.log_ratio_a  # (K, C, B)
        return log_w.logsumexp(1) if y is None else log_w.gather(1, y.expand(K, 1, -1))[:, 0]

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return U(x) in two parts, each `(B,)`: the mean over q of -log p(x|y,z), after everything else."""
        x, K, y, qa_x = self.with_posterior(x, K, y, posterior)
        rate, distortion = self.class_terms(x, K, qa_x).rate_distortion()
        return rate.mean(0), distortion.mean(0)

    def validation_metrics(self, x: Tensor, y: Tensor, grey: Tensor | None = None) -> dict[str, Tensor]:
        terms = self.class_terms(x)
        rate, distortion = terms.rate_distortion()
        log_qy = self.log_qy(x if grey is None else grey)
        return self.metrics(terms.labelled_bound()[0], rate[0], distortion[0], log_qy, y)

    # Uses of a trained model

    @torch.no_grad()
    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the posterior mean and the KL of each dimension, both `(B, d)`: of z, then of a.

        They are of q(z|x,a,y) to N(0, I) at the mean of a, and of q(a|x) to p(a|x,y,z) at that mean of z, each for the
        labels y, or without them for the most probable ones.
        """
        x = self.as_images(x)
        context = self.context(x, self.as_labels(y, (len(x),)))
        qa_x, qz_x = self.qa(x), self.qz(x, context)
        pa_x = self.pa(x, qz_x.mean, context)
        return [(qz_x.mean, kl_per_dimension(qz_x, self.prior())), (qa_x.mean, kl_per_dimension(qa_x, pa_x))]


class SDGM(ADGM):
    """Skip deep generative model of Maaloe et al. (2016): an ADGM with two layers of latents, where x depends on a.

    p(y) p(z) p(a|y,z) p(x|a,y,z) with q(a|x) q(y|x,a) q(z|x,a,y): p(x|a,y,z) has skip connections from y and z.
    Bounds, loss and classification are those of ADGM. Decoded and sampled images are the mean of p(x|a,y,z) at the mean
    of p(a|y,z).

    p(a|y,z) is an mlp, with the widths of `hidden` if the decoder is one, else its default ones.
    """

    has_activation = True  # of the mlp of p(a|y,z)

    def make_generative_networks(self, output_shape: tuple[int, ...]) -> None:
        """Create the networks of p(a|y,z) and p(x|a,y,z)."""
        options = self.hparams
        self.aux_decoder = make_decoder(
            "mlp",
            options.z_dim,
            (2 * options.a_dim,),  # type: ignore[arg-type]  # parameters of a, not an image
            self.decoder_hidden if options.decoder == "mlp" else None,
            options.activation,
            options.batch_norm,
            options.num_classes,
        )
        context_dim = options.a_dim + options.num_classes
        self.decoder = self.new_decoder(options.z_dim, context_dim=context_dim, output_shape=output_shape)

    def pa(self, x: Tensor | None, z: Tensor, context: Tensor | None = None) -> Independent:
        """Return p(a|y,z) for `z (..., C, B, z_dim)`, batch shape `(..., C, B)`. It does not depend on x."""
        return diagonal_normal(self.aux_decoder(z, self.labels if context is None else context))

    def px(self, z: Tensor, context: Tensor | None = None, a: Tensor | None = None) -> Independent:
        """Return p(x|a,y,z) for `z (..., C, B, z_dim)`, batch shape `(..., C, B)`.

        Args:
            z: Latents.
            context: One-hot labels.
            a: Auxiliary variables that broadcast with z, by default the mean of p(a|y,z).
        """
        context = self.labels if context is None else context
        a = self.pa(None, z, context).mean if a is None else a
        return self.likelihood(self.decoder(z, (a, context)))

    def px_given(self, z: Tensor, a: Tensor) -> Independent:
        """Return p(x|a,y,z) of all classes, batch shape `(..., C, B)`."""
        return self.px(z, a=a)

    # The space of annealed importance sampling: z, and the noise of a = mu(y,z) + sigma(y,z) noise

    def ais_prior(self) -> Distribution:
        """Return the distribution of z and of the noise of a given y and z, which is N(0, I)."""
        return concatenated(self.prior(), standard_normal(self.hparams.a_dim, like=next(self.decoder.parameters())))

    def px_classes(self, z: Tensor) -> Independent:
        """Return p(x|a,y,z) of every class for z and noise of a, `(..., B, d_z + d_a)`; batch shape `(..., C, B)`."""
        z, noise = z.unsqueeze(-3).split([self.hparams.z_dim, self.hparams.a_dim], -1)
        pa = self.pa(None, z).base_dist  # (..., C, B, a_dim)
        return self.px(z, a=pa.loc + pa.scale * noise)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|a,y,z), where y is the most probable label, and a and z are their posterior means."""
        x = self.as_images(x)
        context = self.context(x, None)
        a = self.qa(x).mean
        return self.px(self.qz(x, context, a).mean, context, a).mean
