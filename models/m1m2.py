"""The stacked model M1+M2."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from models import label_checks
from models.arguments import as_labels, as_latents
from models.base import evaluating
from models.distributions import rsample_with_log_prob, standard_normal
from models.distributions.concatenation import concatenated
from models.likelihoods import PixelLikelihood
from models.m2 import M2
from models.marginal_label import MarginalLabel
from models.networks.layers import ImageShape
from models.posteriors import PosteriorFlow, PosteriorName
from models.pretrained import make_part, open_part
from models.priors import PriorFlow, PriorName
from models.vae import VAE

LEAST_DEVIATION = 0.1  # standard deviation over images of the posterior mean of a latent in use
CHUNK = 1000  # images per pass through M1
# Options of M1M2 that choose the prior and the posterior of its M2
PARTS_OF_M2 = (
    "prior",
    "prior_components",
    "prior_flow",
    "prior_transforms",
    "prior_hidden",
    "posterior",
    "posterior_flow",
    "posterior_transforms",
    "posterior_hidden",
    "posterior_context",
)


def used_latents(m1: VAE, x: Tensor) -> list[int]:
    """Return the dimensions of z1 whose posterior mean varies over `x`, as in the code of Kingma et al. (2014)."""
    with evaluating(m1):
        means = torch.cat([m1.encode(part) for part in x.split(CHUNK)])
    return (means.double().std(0) > LEAST_DEVIATION).nonzero()[:, 0].tolist()


def check_features(features: str, data) -> None:
    """Raise ValueError if the data have no grey levels or, with `features` binarized, nothing is binarized."""
    if features == "grey" and not data.has_grey_levels:
        raise ValueError(f"{type(data).__name__} has no grey levels: add --model.features binarized.")
    if features == "binarized" and data.protocol in ("grey", "levels"):
        raise ValueError("features binarized needs binarized images, but these are grey: leave it out.")


def open_m1(path: str | Path, data) -> VAE:
    """Return the trained M1 in a checkpoint. Raise ValueError if it is no VAE or was trained on other data."""
    return open_part(
        path, data, VAE, "M1", ("VAE", "IWAE"), "train one with --model VAE (or IWAE) and give its checkpoint"
    )


class M1M2(MarginalLabel):
    """Stacked semi-supervised model M1+M2 of Kingma et al. (2014): an M2 on the latent z1 of a trained VAE, the M1.

    p(x, y, z1, z2) = p(y) p(z2) p(z1|y,z2) p(x|z1), where the latents that M1 does not use are pruned as in the paper's
    code and keep their prior N(0, 1). Training draws z1 ~ q(z1|x) afresh and minimises the loss of M2 on it, with M1
    fixed; classification takes the mean of z1. The log weight of the stack is

        log p(x|z1) - log q(z1|x) + log weight of M2 at the kept dimensions of z1 + log N(pruned dimensions of z1; 0, I)

    With `features` grey, as in the paper's code, training and classification use q(z1|x) of the image before
    binarization, which has more information about the class. The likelihood is still that of binarized pixels, by the
    formula above.

    M1 may have any prior and posterior. Its prior is not part of the stack, which replaces it by p(z1|y,z2) and, for
    the pruned dimensions, by N(0, I). That is also the prior of a standard M1. An M1 with a learned prior may have
    moved pruned dimensions away from N(0, I): log p(x) of the stack is then low, whatever M2 has learned. `prior` and
    `posterior` are options of p(z2) and q(z2|z1,y).

    Args:
        image_shape: Channels, height and width; from the data.
        num_classes: Number of labels; from the data.
        labelled_fraction: N_l / N; from the data.
        m1: Checkpoint of the trained VAE; read when training starts or goes on. This model's own checkpoints hold it.
        m1_options: Arguments of the VAE; from its checkpoint.
        kept: Dimensions of z1 that are not pruned; from the VAE and the training images.
        features: Pixels that M1 encodes for training and for predicting labels: grey (before binarization) or
            binarized. With grey, q(z1|x) of each training image is computed once.
        sample_z1: Train on samples of q(z1|x), drawn afresh at each step; otherwise on its mean.
        z_dim: Dimensions of z2.
        hidden: Sizes of the hidden layers of M2's networks.
        activation: Activation of M2's hidden layers.
        batch_norm: Batch norm before each activation of M2.
        prior: p(z2): standard, N(0, I); mixture, Gaussians with learned weights, means and scales; or flow, a
            normalizing flow.
        prior_components: Gaussians of prior mixture, 10 by default.
        prior_flow: Transformations of prior flow, nsf (the default) or maf.
        prior_transforms: Number of transformations of prior flow, 2 by default.
        prior_hidden: Widths of the hidden layers of each transformation of prior flow, by default [128, 128].
        posterior: q(z2|z1,y): diagonal, a Gaussian with independent dimensions; full, a Gaussian with any covariance;
            flow, a Gaussian transformed by a normalizing flow.
        posterior_flow: Flow of the posterior flow, iaf (the default) or nsf.
        posterior_transforms: Transforms of the posterior flow, 2 by default.
        posterior_hidden: Widths of the hidden layers of each transform of the posterior flow, [256] by default.
        posterior_context: Outputs of M2's encoder that the posterior flow depends on, in addition to mean and scale of
            its Gaussian; 32 by default.
        alpha: Weight of the classifier's cross-entropy on labelled images. The paper has 0.1, a 50th of the default,
            and trains for thousands of epochs.
        share_noise: Draw the same noise of z2 for all classes of an image when a bound is estimated.
    """

    metric_names = M2.metric_names
    learns_from_labels = True
    quantity = "log p(x)"
    default_limit = M2.default_limit
    default_epochs = 150
    data_args = ("image_shape", "num_classes", "labelled_fraction")
    checkpoint_args = ("m1_options", "kept")
    older_defaults: ClassVar[dict[str, Any]] = {"features": "binarized", "share_noise": False}

    m1: VAE
    m2: M2
    kept: Tensor
    pruned: Tensor

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        labelled_fraction: float,
        m1: str,
        m1_options: dict,
        kept: list[int],
        features: Literal["grey", "binarized"] = "grey",
        sample_z1: bool = True,
        z_dim: int = 50,
        hidden: list[int] = (500,),  # type: ignore[assignment]  # --help shows a list
        activation: str = "relu",
        batch_norm: bool = True,
        alpha: float = 5.0,
        share_noise: bool = True,
        prior: PriorName = "standard",
        prior_components: int | None = None,
        prior_flow: PriorFlow | None = None,
        prior_transforms: int | None = None,
        prior_hidden: list[int] | None = None,
        posterior: PosteriorName = "diagonal",
        posterior_flow: PosteriorFlow | None = None,
        posterior_transforms: int | None = None,
        posterior_hidden: list[int] | None = None,
        posterior_context: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if features not in ("grey", "binarized"):
            raise ValueError(f"Unknown features '{features}': choose grey or binarized.")
        options = {"z_dim": z_dim, "hidden": list(hidden), "activation": activation, "batch_norm": batch_norm}
        self.m1 = make_part(VAE, m1_options).requires_grad_(False).eval()
        options |= {"num_classes": num_classes, "labelled_fraction": labelled_fraction, "alpha": alpha}
        options |= {"share_noise": share_noise}
        options |= {name: self.hparams[name] for name in PARTS_OF_M2}
        self.m2 = make_part(M2, {"image_shape": (len(kept),), "likelihood": "features", **options})
        pruned = sorted(set(range(self.m1.hparams.z_dim)) - set(kept))
        self.register_buffer("kept", torch.tensor(kept), persistent=False)
        self.register_buffer("pruned", torch.tensor(pruned, dtype=torch.long), persistent=False)

    @classmethod
    def for_data(cls, data, m1: str, **options):  # type: ignore[override]  # this model needs a checkpoint
        """Return a new model for a data module, with the M1 in the checkpoint `m1`."""
        trained = open_m1(m1, data)
        features = options.setdefault("features", "grey")
        check_features(features, data)
        kept = used_latents(trained, data.images("train", grey=features == "grey")[0])
        if not kept:
            raise ValueError(f"The M1 in {m1} uses none of its latents: train a better one.")
        model = super().for_data(data, m1=m1, m1_options=dict(trained.hparams), kept=kept, **options)
        model.m1.load_state_dict(trained.state_dict())
        return model

    def start_at_mean(self, mean: Tensor) -> None:
        """Do nothing: M1 is trained already."""

    def start_at_data(self, data) -> None:
        """Do nothing: M1 is trained already."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.m1.eval()  # its weights are fixed
        return self

    @property
    def decoder_cost(self) -> int:
        return self.m2.decoder_cost + self.m1.decoder_cost - 1

    def check_data(self, data) -> None:
        self.m1.check_protocol(data.protocol)
        check_features(self.hparams.features, data)
        if not data.labelled_fraction:
            raise ValueError("M1M2 needs some labels: choose data that have them, or --model VAE.")
        label_checks.check_training_images("M1M2", data)

    @property
    def classifies_grey(self) -> bool:
        return self.hparams.features == "grey"

    @property
    def encodes_grey(self) -> bool:
        return self.classifies_grey

    def training_features(self, data) -> Tensor | None:
        """Return what z1 of the grey training images is drawn from, one row per image.

        A row holds mean and scale of q(z1|x) at the kept dimensions, `(N, 2 d)`. If dimensions of z1 depend on each
        other, these do not determine q(z1|x), and a row holds the outputs of M1's encoder instead.
        """
        if not self.classifies_grey:
            return None
        with evaluating(self.m1):
            parts = data.images("train", grey=True)[0].split(CHUNK)
            return torch.cat([self.feature_rows(part.to(self.device)) for part in parts])

    @property
    def keeps_encoder_outputs(self) -> bool:
        """Whether training keeps outputs of M1's encoder: dimensions of z1 that depend on each other are drawn."""
        return self.hparams.sample_z1 and self.m1.hparams.posterior != "diagonal"

    def feature_rows(self, x: Tensor) -> Tensor:
        """Return the rows of `training_features` for images `(B, C, H, W)`."""
        if self.keeps_encoder_outputs:
            return self.m1.encoder(x)
        q = self.posterior(x)
        return torch.cat([q.mean[:, self.kept], q.stddev[:, self.kept]], -1)

    def draw_features(self, x: Tensor) -> Tensor:
        """Return the kept dimensions of z1 ~ q(z1|x), or with sample_z1 false of its mean, `(B, d)`.

        Args:
            x: Images, or rows of `training_features`.
        """
        sampled = self.hparams.sample_z1
        if x.ndim == 2 and not self.keeps_encoder_outputs:
            mean, scale = x.chunk(2, -1)
            return mean + scale * torch.randn_like(mean) if sampled else mean
        qz1_x = self.m1.z_posterior(x) if x.ndim == 2 else self.posterior(x)
        # without gradient, as `sample` returns it, but `sample` would wait for the GPU, which a CUDA graph cannot do
        z1 = qz1_x.rsample().detach() if sampled else qz1_x.mean  # (B, d1)
        return z1[:, self.kept]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of M2 on the features of a batch.

        Args:
            x: Rows of `training_features`, or images.
            y: Labels `(B,)`, -1 for unlabelled images.
        """
        return self.m2.loss(self.draw_features(x), y)

    @property
    def pixel_likelihood(self) -> PixelLikelihood:
        return self.m1.pixel_likelihood

    def as_labels(self, y, shape: tuple[int, ...], broadcast: bool = False) -> Tensor | None:
        """Return labels of this shape, or None without labels."""
        return None if y is None else as_labels(y, self.hparams.num_classes, next(self.parameters()), shape, broadcast)

    # The distributions. The prior is that of z2; p(z1) has no closed form.

    def prior(self) -> Distribution:
        """Return p(z2)."""
        return self.m2.prior()

    def ais_prior(self) -> Distribution:
        """Return the distribution of z2, of the noise of z1 given z2, and of the pruned dimensions of z1.

        That of the last two is N(0, I).
        """
        noise = standard_normal(self.m1.hparams.z_dim, like=next(self.m1.decoder.parameters()))
        return concatenated(self.prior(), noise)

    def px_classes(self, z: Tensor) -> Independent:
        """Return p(x|z1) for z2 and noise `(..., B, d2 + d1)` with every class, batch shape `(..., C, B)`."""
        z2, noise, pruned = z.split([self.m2.hparams.z_dim, len(self.kept), len(self.pruned)], -1)
        pz1 = self.m2.px_classes(z2).base_dist  # (..., C, B, d)
        z1 = pz1.loc.new_empty(*pz1.loc.shape[:-1], self.m1.hparams.z_dim)
        z1[..., self.kept] = pz1.loc + pz1.scale * noise.unsqueeze(-3)
        z1[..., self.pruned] = pruned.unsqueeze(-3).expand(*z1.shape[:-1], -1)
        return self.m1.px(z1)

    # The bounds

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """Return q(z1|x), batch shape `(B,)`."""
        return self.m1.posterior(x)

    def log_p_pruned(self, z1: Tensor) -> Tensor:
        """Return log N(pruned dimensions of z1; 0, I) for `z1 (..., d1)`: `(...)`."""
        return Normal(0.0, 1.0).log_prob(z1[..., self.pruned]).sum(-1)

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None) -> Tensor:
        """Return the log weights of the stack, `(K, B)`, each from its own sample of z1 and one sample of z2 per class.

        Args:
            x: Images `(B, C, H, W)`.
            K: Samples per image.
            y: Labels `(B,)`; with labels the weights estimate p(x, y) instead.
            posterior: `self.posterior(x)` if it is known already; x and y are then not checked.

        Raises:
            ValueError: If the likelihood is not defined for these images, or labels do not fit the images.
        """
        x, K, y, qz1_x = self.with_posterior(x, K, y, posterior)
        z1, log_q = rsample_with_log_prob(qz1_x, K)  # z1 (K, B, d1)
        repeated = None if y is None else y.repeat(K)
        features = z1[..., self.kept].flatten(0, 1)
        log_w = self.m2.log_weights(features, 1, repeated, self.m2.posterior(features))[0].view(K, -1)  # (K, B)
        return self.m1.px(z1).log_prob(x) - log_q() + log_w + self.log_p_pruned(z1)

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return minus the bound of the stack in two parts, each `(B,)`.

        The second is -log p(x|z1), the first everything else; both are means over K samples. Labels are ignored.
        """
        x, K, y, qz1_x = self.with_posterior(x, K, y, posterior)
        rate, distortion, _ = self.terms(x, K, qz1_x)
        return rate.mean(0), distortion.mean(0)

    def terms(self, x: Tensor, K: int, qz1_x: Independent) -> tuple[Tensor, Tensor, Tensor]:
        """Return rate and distortion `(K, B)` for K samples of z1, and labelled minus unlabelled bound `(C, K, B)`."""
        z1, log_q = rsample_with_log_prob(qz1_x, K)  # z1 (K, B, d1)
        labelled, unlabelled, _ = self.m2.bounds(z1[..., self.kept].flatten(0, 1))  # (C, K B), (K B,)
        rate = log_q() - unlabelled.view(K, -1) - self.log_p_pruned(z1)
        return rate, -self.m1.px(z1).log_prob(x), (labelled - unlabelled).unflatten(1, rate.shape)

    def validation_metrics(self, x: Tensor, y: Tensor, grey: Tensor | None = None) -> dict[str, Tensor]:
        rate, distortion, more = (part.squeeze(-2) for part in self.terms(x, 1, self.posterior(x)))
        elbo, qy, known = -rate - distortion, self.qy(x if grey is None else grey), y >= 0
        return {
            "bound": elbo,
            "labelled_bound": (elbo + more.gather(0, y.clamp(min=0)[None])[0])[known],
            "elbo": elbo,
            "rate": rate,
            "distortion": distortion,
            "entropy": -torch.xlogy(qy, qy).sum(1),
            "error": (qy.argmax(1) != y)[known],
        }

    @torch.no_grad()
    def qy(self, x: Tensor) -> Tensor:
        """Return q(y|z1) at the mean of z1, `(B, num_classes)`. Images are not checked."""
        return self.m2.log_qy(self.m1.posterior(x).mean[:, self.kept]).exp().T

    # Uses of a trained model

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the posterior mean of the latents of M1 that are kept, `(B, d)`, of images as they are given."""
        return self.m1.encode(x)[:, self.kept]

    def classify(self, x: Tensor) -> Tensor:
        """Return q(y|z1) at the mean of z1, `(B, num_classes)`: of grey images for a model trained on grey features."""
        return self.qy(self.as_images(x))

    @torch.no_grad()
    def decode_features(self, features: Tensor) -> Tensor:
        """Return images for kept latents `(..., d)`, with the pruned ones at 0: `(..., C, H, W)`."""
        features = as_latents(features, len(self.kept), next(self.parameters()))
        z1 = features.new_zeros(*features.shape[:-1], self.m1.hparams.z_dim)
        z1[..., self.kept] = features
        return self.m1.decode(z1)

    def sample(self, n: int) -> Tensor:
        """Return the mean of p(x|z1) at the mean of p(z1|y,z2): n samples of z2, with the labels 0, 1, ... in turn."""
        return self.decode_features(self.m2.sample(n))

    def sample_classes(self, n: int) -> Tensor:
        """Return the same with every label: `(n, num_classes, C, H, W)`."""
        return self.decode_features(self.m2.sample_classes(n))

    def analogies(self, x: Tensor) -> Tensor:
        """Return each image's style z2 with every label: `(B, num_classes, C, H, W)`."""
        return self.decode_features(self.m2.analogies(self.features(x)))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of p(x|z1) through both decoders, for the most probable label: `(B, C, H, W)`."""
        return self.decode_features(self.m2.reconstruct(self.features(x)))

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return for z1 and z2 the posterior mean and the KL of each dimension, both `(B, d)`: of z1, to M1's prior."""
        return [*self.m1.latent_statistics(x), *self.m2.latent_statistics(self.features(x))]
