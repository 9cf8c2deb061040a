"""A VAE with two or more stochastic layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from models.arguments import as_count
from models.distributions import (
    diagonal_normal,
    rsample_with_log_prob,
    sampled_kl_per_dimension,
    standard_normal,
)
from models.distributions.concatenation import concatenated
from models.latent_variable import LatentVariableModel
from models.layer_samples import redrawn_layers
from models.networks import check_sizes
from models.networks.layers import ImageShape, apply_rowwise, mlp
from models.objectives import BOUNDS
from models.vae import VAE

SMALL_MEANS = 0.3  # factor of the output weights of the encoder, with init default


def conditional(network: nn.Sequential, z: Tensor) -> Independent:
    """Return the diagonal Gaussian of a layer given the neighbouring layer `z (..., d)`."""
    first: Any = network[0]  # nn.Linear
    return diagonal_normal(apply_rowwise(network, z.to(first.weight.dtype)))


class HierarchicalVAE(VAE):
    """Two or more stochastic layers, as in Burda et al. (2015), section 2 and appendix C.

    p(z) = p(z_L) prod_l N(z_l; mu(z_l+1), sigma(z_l+1)) and q(z|x) = q(z_1|x) prod_l q(z_l+1|z_l). The KL is a
    Monte Carlo estimate. `encode` returns and `decode` takes z_1, the layer next to the image; `sample` starts at z_L.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the stochastic layers, from the image upwards.
        inner_hidden: Widths of the hidden layers between two stochastic layers, bottom-up; mirrored top-down. The
            bottom-up ones are gated if the encoder is, the top-down ones if the decoder is.
    """

    # the surrogate gradients assume one layer of latents
    objectives = tuple(BOUNDS)

    q_nets: Any  # nn.ModuleList of nn.Sequential
    p_nets: Any

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: Sequence[int] = (100, 50),
        inner_hidden: Sequence[int] = (100, 100),
        **kwargs,
    ):
        if not isinstance(z_dim, Sequence) or len(z_dim) < 2 or min(z_dim) < 1:
            raise ValueError(
                f"z_dim of HierarchicalVAE takes two or more positive sizes, such as [100, 50]; got {z_dim}."
            )
        check_sizes(inner_hidden, "inner_hidden")
        super().__init__(image_shape, z_dim=z_dim[0], **kwargs)
        activation, batch_norm = self.hparams.activation, self.hparams.batch_norm
        upwards = list(pairwise(z_dim))  # (z_l, z_l+1) from the image to the top
        up, down = (getattr(network, "new_layers", mlp) for network in (self.encoder, self.decoder))
        self.q_nets = nn.ModuleList(up([a, *inner_hidden, 2 * b], activation, batch_norm) for a, b in upwards)
        self.p_nets = nn.ModuleList(down([b, *inner_hidden[::-1], 2 * a], activation, batch_norm) for a, b in upwards)

    @torch.no_grad()
    def start_narrow(self) -> None:
        """Start with a narrow q(z_1|x) and with its means closer to 0.

        While beta is still small, means far from 0 let p(z_1|z_2) become narrow around a few of them. The KL of other
        images is then huge (91,505 nats after 48 steps on colour images), and the model ends far below others.
        """
        super().start_narrow()
        self.encoder.output.weight.mul_(SMALL_MEANS)

    @property
    def code_dim(self) -> int:
        """Dimensions of z_1, which the decoder network takes."""
        return self.hparams.z_dim[0]

    def draw(self, K: int, qz1_x: Distribution) -> tuple[list[Tensor], Callable[[], Tensor], list[Any], list[Any]]:
        """Return K samples of z_1 ... z_L, each `(K, B, d_l)`, with their densities.

        The second value is a function that returns log q(z_1|x), `(K, B)`; the others are q(z_l|z_l-1) and
        p(z_l|z_l+1) of every layer.
        """
        z1, log_q1 = rsample_with_log_prob(qz1_x, K)
        z, q = [z1], [qz1_x]
        for net in self.q_nets:
            q.append(conditional(net, z[-1]))
            z.append(q[-1].rsample())
        p = [conditional(net, above) for net, above in zip(self.p_nets, z[1:], strict=True)]
        return z, log_q1, q, [*p, self.prior()]

    def encode_pseudo_inputs(self, u: Tensor, y: Tensor | None) -> Independent:
        """Return q(z_L|z_L-1) for images `(N, C, H, W)`, with the layers below at their means."""
        mean = super().encode_pseudo_inputs(u, y).mean
        for net in self.q_nets[:-1]:
            mean = conditional(net, mean).mean
        return conditional(self.q_nets[-1], mean)

    # The space of annealed importance sampling: the noise of all layers, z_l = mu(z_l+1) + sigma(z_l+1) noise_l

    def ais_prior(self) -> Distribution:
        """Return the distribution of the noise of all layers, those of the first layer first.

        It is N(0, I), except for the last layer with another prior than N(0, I): its noise is z_L, with this prior.
        """
        below = standard_normal(sum(self.hparams.z_dim[:-1]), like=next(self.decoder.parameters()))
        return concatenated(below, self.prior())

    def first_layer(self, noise: Tensor) -> Tensor:
        """Return z_1 `(..., d_1)` from the noise of all layers `(..., d)`."""
        *below, z = noise.split(list(self.hparams.z_dim), -1)
        for net, e in zip(reversed(self.p_nets), reversed(below), strict=True):
            p = conditional(net, z).base_dist
            z = p.loc + p.scale * e
        return z

    def ais_log_px(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return log p(x|z_1) for the noise of all layers `(..., B, d)`: `(..., B)`."""
        return self.px(self.first_layer(z)).log_prob(x)

    def ais_simulate(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return an image x ~ p(x|z_1) for each noise vector of all layers `(B, d)`."""
        return self.px(self.first_layer(z)).sample()

    def log_terms_of_layers(self, x: Tensor, K: int, qz_x: Distribution) -> tuple[Tensor, list[Tensor]]:
        """Return log p(x|z_1) and log p(z_l|z_l+1) - log q(z_l|z_l-1) of each layer l, all `(K, B)`."""
        z, log_q1, q, p = self.draw(K, qz_x)
        log_ratios = [p[0].log_prob(z[0]) - log_q1()]
        log_ratios += [p_l.log_prob(z_l) - q_l.log_prob(z_l) for z_l, q_l, p_l in zip(z[1:], q[1:], p[1:], strict=True)]
        return self.log_px(x, z[0]), log_ratios

    def log_terms(self, x: Tensor, K: int, qz_x: Distribution, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(x|z_1) and the sum over layers of log p(z_l|z_l+1) - log q(z_l|z_l-1), each `(K, B)`."""
        log_px_z, log_ratios = self.log_terms_of_layers(x, K, qz_x)
        total: Any = sum(log_ratios)
        return log_px_z, total

    rate_distortion = LatentVariableModel.rate_distortion  # no closed form: the KL is a Monte Carlo estimate
    has_kl_of_dimensions = False

    def rate_of_parts(self, x: Tensor, K: int, y: Tensor, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return the KL of each layer, `(B, L)`, and the distortion, `(B,)`: means over K samples."""
        log_px_z, log_ratios = self.log_terms_of_layers(x, K, qz_x)
        return -torch.stack(log_ratios, -1).mean(0), -log_px_z.mean(0)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z_1) for n ancestral samples from the prior: `(n, C, H, W)`."""
        z = self.prior().sample((as_count(n, "n"),))
        for net in reversed(self.p_nets):
            z = conditional(net, z).sample()
        return self.px(z).mean

    @torch.no_grad()
    def sample_layers(self, n: int, rows: int) -> Tensor:
        """Return mean images of samples from the prior, `(L, rows, n, C, H, W)`.

        Entry l - 1 has n draws of layers 1 ... l. The layers above are the same within each row, and in all entries.
        """
        sizes = list(self.hparams.z_dim)
        noise = redrawn_layers(self.ais_prior(), sizes, as_count(n, "n"), as_count(rows, "rows"))
        return self.px(self.first_layer(noise)).mean

    def first_layer_mean(self, z: Tensor) -> Tensor:
        """Return z_1 `(..., d_1)` for `z (..., d_L)`, with each layer at its mean given the one above."""
        for net in reversed(self.p_nets):
            z = conditional(net, z).mean
        return z

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return for each layer the posterior mean and the KL of each dimension, both `(B, d_l)`.

        The mean is that of q(z_l|z_l-1) with the layer below at its own mean. A mean over samples would vary between
        images because of sampling noise, and unused units would count as active. The KL is the mean over 16 samples.
        """
        qz1_x = self.posterior(self.as_images(x), y)
        means = [qz1_x.mean]
        for net in self.q_nets:
            means.append(conditional(net, means[-1]).mean)
        z, _, q, p = self.draw(16, qz1_x)
        kl = [sampled_kl_per_dimension(q_l, p_l, z_l) for z_l, q_l, p_l in zip(z, q, p, strict=True)]
        return list(zip(means, kl, strict=True))
