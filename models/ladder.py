"""The ladder variational autoencoder."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from models.arguments import as_count
from models.distributions import (
    LATENT_LIMIT,
    DiagonalNormal,
    at_least_float32,
    closed_form_kl,
    diagonal_normal,
    kl_per_dimension,
    soft_clip,
    standard_normal,
)
from models.distributions.concatenation import concatenated
from models.layer_samples import redrawn_layers
from models.networks import check_sizes
from models.networks.ladder import (
    ConvLadderDecoder,
    ConvLadderEncoder,
    LadderDecoder,
    Lowest,
    MLPLadderDecoder,
    MLPLadderEncoder,
    image_latent_shapes,
)
from models.networks.layers import ACTIVATIONS, ImageShape, lookup
from models.objectives import BOUNDS
from models.posteriors import NARROW_RAW, Posterior
from models.vae import VAE

Z_DIM = (64, 32, 16, 8, 4)  # defaults of encoder mlp (Sonderby et al. 2016)
HIDDEN = (512, 256, 128, 64, 32)
CONV_Z_DIM = (4, 4, 4, 8)  # and of encoder conv
CONV_HIDDEN = (24, 48, 64)
LAYERS_PER_SCALE = (1, 2, 1)
STATISTICS_SAMPLES = 16  # samples that the KL of each dimension is a mean of


def mean_and_log_scale(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and log scale `(..., d)` from outputs of a network `(..., 2 d)`."""
    mean, raw = at_least_float32(parameters).chunk(2, -1)
    return mean, soft_clip(raw, LATENT_LIMIT)


def merge(evidence: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return r and s of q(z_l|x, z_l+1) = N(mu_p + sigma_p r, (sigma_p s)^2), weighted by precision.

    1 / sigma^2 = 1 / sigma_hat^2 + 1 / sigma_p^2 and mu = sigma^2 (mu_hat / sigma_hat^2 + mu_p / sigma_p^2) (Sonderby
    et al. 2016, eq. 11 and 12). In units of p, with the share w = sigma_p^2 / (sigma_p^2 + sigma_hat^2) of the
    evidence, r = w (mu_hat - mu_p) / sigma_p and s^2 = 1 - w.

    Args:
        evidence: mu_hat and log sigma_hat, from the image.
        p: mu_p and log sigma_p of p(z_l|z_l+1).
    """
    (mu_hat, log_hat), (mu_p, log_p) = evidence, p
    log_odds = 2 * (log_p - log_hat)
    r = log_odds.sigmoid() * (mu_hat - mu_p) * (-log_p).exp()
    return r, (-0.5 * softplus(log_odds)).exp()


class Pass(NamedTuple):
    """One top-down pass: samples of q, and the distributions that they are from.

    u is the noise of p: z_L = u_L and z_l = mu_p + sigma_p u_l with the parameters of p(z_l|z_l+1). The distributions
    are those of u, in which p is N(0, I) below the last layer; log ratios and KLs of z and u are equal.
    """

    z: Tensor  # latents of all layers, (..., d)
    u: Tensor  # their noise, (..., d)
    q_below: DiagonalNormal  # q of the noise of layers 1 ... L - 1, batch shape (...)
    log_scale: Tensor  # log sigma_p of layers 1 ... L - 1, summed over dimensions, (...)
    lowest: Lowest  # for the image


# layer l, r and s of q -> noise u_l (..., d_l); and mu_p, log sigma_p, or None for the last layer
ChooseNoise = Callable[[int, Tensor, Tensor, tuple[Tensor, Tensor] | None], Tensor]


class LadderPosterior(Distribution):
    """q(z|x) = q(z_L|x) prod_l q(z_l|x, z_l+1) over the latents of all layers.

    q(z_L|x) is a Gaussian from the bottom-up pass alone. Below, q is the product of a Gaussian from the bottom-up pass
    and of p(z_l|z_l+1). So a sample takes a top-down pass, and the density of a given z as well.

    Args:
        evidence: Output of the bottom-up pass, `(B, 2 d)`.
        decoder: The network of the top-down pass.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = True

    def __init__(self, evidence: Tensor, decoder: LadderDecoder):
        *below, top = evidence.split([2 * size for size in decoder.sizes], -1)
        self.evidence, self.decoder = [mean_and_log_scale(part) for part in below], decoder
        self.q_top: Any = diagonal_normal(top)  # q(z_L|x), DiagonalNormal
        super().__init__(evidence.shape[:-1], torch.Size([sum(decoder.sizes)]))

    def descend(self, choose: ChooseNoise) -> Pass:
        """Run a top-down pass in which `choose` returns the noise of each layer, from the last to the first."""
        u, z, means, scales, log_scales = [], [], [], [], []

        def choose_latents(layer: int, parameters: Tensor | None) -> Tensor:
            if parameters is None:
                q = self.q_top.base_dist
                u.append(choose(layer, q.loc, q.scale, None))
                z.append(u[-1])
                return z[-1]
            mu_p, log_p = p = mean_and_log_scale(parameters)
            mean, scale = merge(self.evidence[layer], p)
            u.append(choose(layer, mean, scale, p))
            z.append(mu_p + log_p.exp() * u[-1])
            means.append(mean)
            scales.append(scale)
            log_scales.append(log_p)
            return z[-1]

        lowest = self.decoder.descend(choose_latents)
        none = z[0][..., :0]  # if there is only one layer
        r, s, log_p = (torch.cat([*parts[::-1], none], -1) for parts in (means, scales, log_scales))
        q_below = DiagonalNormal(Normal(r, s), 1)
        return Pass(torch.cat(z[::-1], -1), torch.cat(u[::-1], -1), q_below, log_p.sum(-1), lowest)

    def draw(self, sample_shape: Any) -> Pass:
        """Return samples `(*sample_shape, B, d)` with all that the bounds need."""
        noise = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.q_top.mean.dtype, device=self.q_top.mean.device
        ).split(self.decoder.sizes, -1)
        return self.descend(lambda layer, r, s, p: r + s * noise[layer])

    def at_means(self) -> Pass:
        """Return the pass in which each layer is at its mean given the layers above."""
        return self.descend(lambda layer, r, s, p: r)

    @property
    def mean(self) -> Tensor:
        """The latents `(B, d)` in which each layer is at its mean given the layers above."""
        return self.at_means().z

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.draw(sample_shape).z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z|x) of latents `(..., B, d)` in nats, `(..., B)`."""
        shape = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)
        z = value.expand(shape).split(self.decoder.sizes, -1)

        def choose(layer: int, r: Tensor, s: Tensor, p: tuple[Tensor, Tensor] | None) -> Tensor:
            return z[layer] if p is None else (z[layer] - p[0]) * (-p[1]).exp()

        found = self.descend(choose)
        return self.log_q_of_noise(found) - found.log_scale

    def log_q_of_noise(self, found: Pass) -> Tensor:
        """Return log q(u|x) of the noise of a pass in nats, `(..., B)`."""
        below, top = split_top(found.u, self.decoder.sizes)
        return found.q_below.log_prob(below) + self.q_top.log_prob(top)


class NoisePosterior(Distribution):
    """q(u|x) over the noise of all layers, of which z is a function.

    Args:
        qz_x: q(z|x).
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, qz_x: LadderPosterior):
        self.qz_x = qz_x
        super().__init__(qz_x.batch_shape, qz_x.event_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.qz_x.draw(sample_shape).u

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(u|x) of noise `(..., B, d)` in nats, `(..., B)`."""
        u = value.split(self.qz_x.decoder.sizes, -1)
        return self.qz_x.log_q_of_noise(self.qz_x.descend(lambda layer, r, s, p: u[layer]))


def split_top(latents: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the latents, or the noise, of all layers but the last and of the last layer."""
    below, top = latents.split([sum(sizes[:-1]), sizes[-1]], -1)
    return below, top


def latents_of(noise: Tensor, decoder: LadderDecoder) -> tuple[Tensor, Lowest]:
    """Return the latents `(..., d)` for the noise of p of all layers `(..., d)`, and the end of the top-down pass."""
    u, z = noise.split(decoder.sizes, -1), []

    def choose(layer: int, parameters: Tensor | None) -> Tensor:
        if parameters is None:
            z.append(u[layer])
        else:
            mu_p, log_p = mean_and_log_scale(parameters)
            z.append(mu_p + log_p.exp() * u[layer])
        return z[-1]

    lowest = decoder.descend(choose)
    return torch.cat(z[::-1], -1), lowest


class LadderPrior(Distribution):
    """p(z) = p(z_L) prod_l p(z_l|z_l+1) over the latents of all layers, batch shape `()`.

    Args:
        noise: Distribution of the noise of all layers, as `LadderVAE.ais_prior` returns it.
        top: p(z_L).
        decoder: The network of the top-down pass.
    """

    arg_constraints: ClassVar[dict] = {}

    def __init__(self, noise: Distribution, top: Distribution, decoder: LadderDecoder):
        self.noise, self.top, self.decoder = noise, top, decoder
        super().__init__(torch.Size(), noise.event_shape)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return samples `(*sample_shape, d)`."""
        return latents_of(self.noise.sample(torch.Size(sample_shape)), self.decoder)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z) of latents `(..., d)` in nats, `(...)`."""
        z = value.split(self.decoder.sizes, -1)
        terms = []

        def choose(layer: int, parameters: Tensor | None) -> Tensor:
            p = self.top if parameters is None else diagonal_normal(parameters)
            terms.append(p.log_prob(z[layer]))
            return z[layer]

        self.decoder.descend(choose)
        return torch.stack(terms).sum(0)


class LadderVAE(VAE):
    """Ladder VAE (Sonderby et al. 2016): layers of latents with top-down inference.

    p(x, z) = p(x|z_1) p(z_L) prod_l p(z_l|z_l+1). A deterministic bottom-up pass, once per image, gives Gaussians
    N(mu_hat_l, sigma_hat_l^2) for every layer. q(z_L|x) is the last of them, and q(z_l|x, z_l+1) is the product of
    N(mu_hat_l, sigma_hat_l^2) and p(z_l|z_l+1): their means are weighted by their precisions (eq. 11 and 12). p and q
    share the networks of the top-down pass.

    With encoder conv the latents are images of a few channels, and p(z_l|z_l+1, ..., z_L) and p(x|z) depend on all
    layers above, through a deterministic hidden state that carries information past the latents (skip connection).

    A code holds the latents of all layers, those of the first layer, next to the image, first. `encode` returns the
    code in which each layer is at its mean given the layers above. The KL of each layer is in closed form given a
    sample of the layers above it.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of each layer of latents, from the image upwards, by default [64, 32, 16, 8, 4]; with encoder
            conv their channels, by default [4, 4, 4, 8].
        hidden: Width of the two hidden layers for each layer of latents, from the image upwards, by default
            [512, 256, 128, 64, 32]; with encoder conv the channels at each resolution, by default [24, 48, 64]. One
            entry, such as [100], holds for all of them. The top-down pass has the same.
        activation: Activation of the hidden layers: relu, tanh, softplus, elu, gelu, silu, leaky_relu, leaky_relu_0.1
            or leaky_relu_0.2.
        encoder: mlp, or conv for image-shaped latents.
        decoder: That of the encoder, since q and p share the networks of the top-down pass: leave it out.
        batch_norm: Batch norm before each activation.
        layers_per_scale: With encoder conv: number of layers of latents at 1/2, 1/4, ... of the resolution of the
            image, by default [1, 2, 1].
    """

    # the surrogate gradients assume one layer of latents
    objectives = tuple(BOUNDS)

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: Sequence[int] | None = None,
        hidden: Sequence[int] | None = None,
        activation: str = "leaky_relu_0.1",
        encoder: Literal["mlp", "conv"] = "mlp",
        decoder: Literal["mlp", "conv"] | None = None,
        batch_norm: bool = True,
        layers_per_scale: Sequence[int] | None = None,
        **kwargs,
    ):
        if z_dim is not None and (not isinstance(z_dim, Sequence) or len(z_dim) < 1 or min(z_dim) < 1):
            raise ValueError(f"z_dim of LadderVAE takes one or more positive sizes, such as [64, 32]; got {z_dim}.")
        lookup({"mlp": None, "conv": None}, encoder, "encoder of LadderVAE")
        if decoder not in (None, encoder):
            raise ValueError(
                f"The decoder of LadderVAE is that of its encoder, since q and p share it: leave decoder {decoder} "
                f"out, or choose encoder {decoder}."
            )
        if layers_per_scale is not None and encoder != "conv":
            raise ValueError("layers_per_scale is only for encoder conv: leave it out with encoder mlp.")
        super().__init__(
            image_shape,
            z_dim=1,
            hidden=hidden,
            activation=activation,
            encoder=encoder,
            decoder=encoder,
            batch_norm=batch_norm,
            **kwargs,
        )

    # The networks

    @property
    def is_conv(self) -> bool:
        return self.hparams.encoder == "conv"

    @property
    def z_dim(self) -> tuple[int, ...]:
        """Dimensions of each layer of latents, or their channels, from the image upwards."""
        default = CONV_Z_DIM if self.is_conv else Z_DIM
        return tuple(self.hparams.z_dim or default)

    def network_options(self) -> dict[str, Any]:
        """Return the arguments that the networks of both passes have in common.

        Raises:
            ValueError: If an option is out of range, or does not fit the others.
        """
        options, layers = self.hparams, len(self.z_dim)
        lookup(ACTIVATIONS, options.activation, "activation")
        hidden = options.hidden
        if hidden is not None:
            check_sizes(hidden)
        shared = {"z_dim": self.z_dim, "activation": options.activation, "batch_norm": options.batch_norm}
        if not self.is_conv:
            widths = one_for_each(first(HIDDEN, layers) if hidden is None else hidden, layers, "layers of latents")
            return shared | {"hidden": widths}
        per_scale = list(LAYERS_PER_SCALE if options.layers_per_scale is None else options.layers_per_scale)
        if min(per_scale, default=0) < 1 or sum(per_scale) != layers:
            raise ValueError(
                f"layers_per_scale must hold positive numbers whose sum is the number of layers of latents, {layers}; "
                f"got {per_scale}."
            )
        scales = len(per_scale)
        widths = one_for_each(
            first(CONV_HIDDEN, scales) if hidden is None else hidden, scales, "entries of layers_per_scale"
        )
        return shared | {"hidden": widths, "layers_per_scale": per_scale}

    def new_encoder(self, out_dim: int, context_dim: int = 0, init: str = "glorot") -> nn.Module:
        kind: Any = ConvLadderEncoder if self.is_conv else MLPLadderEncoder
        encoder = kind(self.hparams.image_shape, **self.network_options())
        if init == "default":
            encoder.initialise(self.hparams.activation)
            self.start_posterior_narrow(encoder)
        return encoder

    def new_decoder(
        self, in_dim: int, context_dim: int = 0, init: str = "glorot", output_shape: tuple[int, ...] | None = None
    ) -> nn.Module:
        kind: Any = ConvLadderDecoder if self.is_conv else MLPLadderDecoder
        decoder = kind(output_shape, **self.network_options())
        if init == "default":
            decoder.initialise(self.hparams.activation)
        return decoder

    @torch.no_grad()
    def start_posterior_narrow(self, encoder: nn.Module) -> None:
        """Start with a narrow posterior in every layer."""
        for head in encoder.heads:  # type: ignore[union-attr]  # nn.ModuleList
            bias = (head[-1] if self.is_conv else head).bias
            bias[len(bias) // 2 :].fill_(NARROW_RAW)

    def new_posterior(self) -> Posterior:
        """Return the diagonal posterior, which has no parameters; all of q(z|x) is in the networks.

        Raises:
            ValueError: If another posterior is chosen.
        """
        if self.hparams.posterior != "diagonal":
            raise ValueError(
                "The posteriors of LadderVAE are diagonal Gaussians, which it weights by their precisions: leave out "
                f"posterior {self.hparams.posterior}."
            )
        return super().new_posterior()

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        if not self.is_conv:
            return self.z_dim
        shapes = image_latent_shapes(self.hparams.image_shape, self.z_dim, self.network_options()["layers_per_scale"])
        return tuple(prod(shape) for shape in shapes)

    @property
    def latent_dim(self) -> int:
        """Dimensions of the latents of all layers together."""
        return sum(self.latent_sizes)

    @property
    def code_dim(self) -> int:
        return self.latent_dim

    # The distributions, over the latents of all layers

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Any:  # LadderPosterior
        """Return q(z|x), batch shape `(B,)`. The bottom-up pass runs here."""
        self.check_form(x)
        return LadderPosterior(self.encoder(x), self.decoder)

    def top_prior(self) -> Distribution:
        """Return p(z_L), batch shape `()`."""
        return super().prior()

    def prior(self) -> Distribution:
        """Return p(z), batch shape `()`."""
        top = self.top_prior()
        return top if len(self.latent_sizes) == 1 else LadderPrior(self.ais_prior(), top, self.decoder)

    def encode_pseudo_inputs(self, u: Tensor, y: Tensor | None) -> Any:
        """Return the Gaussians q(z_L|u) of images `(N, C, H, W)`, batch shape `(N,)`."""
        return self.posterior(u, y).q_top

    # The space of annealed importance sampling: the noise of all layers, z_l = mu(z_l+1) + sigma(z_l+1) noise_l

    def ais_prior(self) -> Distribution:
        """Return the distribution of the noise of all layers, those of the first layer first.

        It is N(0, I), except for the last layer with another prior than N(0, I): its noise is z_L, with this prior.
        """
        top, below = self.top_prior(), sum(self.latent_sizes[:-1])
        return concatenated(*([standard_normal(below, like=next(self.decoder.parameters()))] if below else []), top)

    def ais_posterior(self, x: Tensor, y: Tensor | None = None) -> NoisePosterior:
        """Return q over the noise of all layers, batch shape `(B,)`."""
        return NoisePosterior(self.posterior(x, y))

    def px_of_noise(self, noise: Tensor) -> Independent:
        """Return p(x|z) for the noise of all layers `(..., d)`, batch shape `(...)`."""
        _, lowest = latents_of(noise, self.decoder)
        return self.likelihood(self.decoder.image(lowest))

    def ais_log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z) for the noise of all layers `(..., B, d)`: `(..., B)`."""
        return self.px_of_noise(z).log_prob(x)

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return an image x ~ p(x|z) for each noise vector of all layers `(B, d)`."""
        return self.px_of_noise(z).sample()

    # The bounds, each in one top-down pass

    def log_terms(self, x: Tensor, K: int, qz_x: Any, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(x|z_k) and log p(z_k) - log q(z_k|x) for K samples of all layers, each `(K, B)`."""
        found = qz_x.draw((K,))
        log_ratio = self.ais_prior().log_prob(found.u) - qz_x.log_q_of_noise(found)
        return self.likelihood(self.decoder.image(found.lowest)).log_prob(x), log_ratio

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the KL summed over layers and the mean of K -log p(x|z_k), each `(B,)`; ELBO = -(their sum).

        The KL of each layer is in closed form given the layers above it, and a mean over their K samples. That of the
        last layer is a mean of log q(z_L|x) - log p(z_L) if its prior has no closed form.
        """
        x, K, y, qz_x = self.with_posterior(x, K, y, posterior)
        found = qz_x.draw((K,))
        below = kl_to_noise(found.q_below).sum(-1).mean(0)
        return below + self.top_kl(found, qz_x), self.distortion(x, found)

    def rate_of_parts(self, x: Tensor, K: int, y: Tensor, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return the KL of each layer, `(B, L)`, and the distortion, `(B,)`, as in `rate_distortion`."""
        found = qz_x.draw((K,))
        parts = kl_to_noise(found.q_below).mean(0).split(list(self.latent_sizes[:-1]), -1)
        rates = [*(part.sum(-1) for part in parts), self.top_kl(found, qz_x)]
        return torch.stack(rates, -1), self.distortion(x, found)

    def top_kl(self, found: Pass, qz_x: LadderPosterior) -> Tensor:
        """Return KL(q(z_L|x) || p(z_L)), `(B,)`, from the samples of a pass if it has no closed form."""
        prior = self.top_prior()
        kl = closed_form_kl(qz_x.q_top, prior)
        if kl is not None:
            return kl
        _, z_top = split_top(found.z, self.latent_sizes)
        return (qz_x.q_top.log_prob(z_top) - prior.log_prob(z_top)).mean(0)

    def distortion(self, x: Tensor, found: Pass) -> Tensor:
        """Return the mean of -log p(x|z) over the samples of a pass, `(B,)`."""
        return -self.likelihood(self.decoder.image(found.lowest)).log_prob(x).mean(0)

    has_kl_of_dimensions = False  # free bits are per layer

    # Uses of a trained model

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z) for n ancestral samples from the prior: `(n, C, H, W)`."""
        return self.px_of_noise(self.ais_prior().sample((as_count(n, "n"),))).mean

    @torch.no_grad()
    def sample_layers(self, n: int, rows: int) -> Tensor:
        """Return mean images of samples from the prior, `(L, rows, n, C, H, W)`.

        Entry l - 1 has n draws of layers 1 ... l. The layers above are the same within each row, and in all entries.
        """
        noise = redrawn_layers(self.ais_prior(), self.latent_sizes, as_count(n, "n"), as_count(rows, "rows"))
        return self.px_of_noise(noise).mean

    @torch.no_grad()
    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return for each layer the posterior mean and the KL of each dimension, both `(B, d_l)`.

        Below the last layer the mean is that of the noise of p(z_l|z_l+1), (mu - mu_p) / sigma_p, with the layers above
        at their own means: it is 0 for a unit that carries no information beyond that of the layers above. The mean of
        z_l itself varies with them. The KL is a mean over samples of the layers above.
        """
        qz_x = self.posterior(self.as_images(x), y)
        below = kl_to_noise(qz_x.draw((STATISTICS_SAMPLES,)).q_below).mean(0)
        kl = torch.cat([below, kl_per_dimension(qz_x.q_top, self.top_prior())], -1)
        sizes = list(self.latent_sizes)
        return list(zip(qz_x.at_means().u.split(sizes, -1), kl.split(sizes, -1), strict=True))


def kl_to_noise(q: DiagonalNormal) -> Tensor:
    """Return the KL of each dimension of a diagonal Gaussian to N(0, 1), `(..., d)`."""
    r, s = q.base_dist.loc, q.base_dist.scale
    return 0.5 * torch.addcmul(r * r, s, s) - s.log() - 0.5


def first(values: Sequence[int], number: int) -> list[int]:
    """Return the first `number` values; the last one is repeated."""
    return [values[min(i, len(values) - 1)] for i in range(number)]


def one_for_each(values: Sequence[int], number: int, what: str) -> list[int]:
    """Return one value for each of `number` parts; a single one holds for all.

    Raises:
        ValueError: If there is another number of values.
    """
    if len(values) not in (1, number):
        raise ValueError(f"hidden takes one number, or one for each of the {number} {what}; got {list(values)}.")
    return list(values) if len(values) == number else list(values) * number
