"""The generative adversarial network."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import softplus
from torch.nn.utils.parametrizations import spectral_norm as with_spectral_norm

from models.base import OPTIMIZERS
from models.distributions import at_least_float32, standard_normal
from models.implicit import ImplicitModel
from models.networks import make_decoder, make_encoder
from models.networks.layers import LAYERS, ImageShape


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return -E[log D(x)] - E[log(1 - D(G(z)))], from the logits of D for images and for samples, each `(B,)`."""
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return -E[log D(G(z))], the non-saturating loss, from the logits of D for samples `(B,)`."""
    return softplus(-fake).mean()


def average_over_ranks(tensors: list[Tensor], ranks: int) -> list[Tensor]:
    """Return the mean of each tensor over all processes, in one message."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    parts = (flat / ranks).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


class GAN(ImplicitModel):
    """Generative adversarial network (Goodfellow et al. 2014) with the non-saturating loss of its generator.

    For each batch, the discriminator takes one step, and then the generator takes one on the same samples. Both use
    Adam, with beta1 as in DCGAN (Radford et al. 2016), whose lr is 2e-4.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the latent code, with prior N(0, I).
        hidden: Sizes of the hidden layers from image to code: widths of an mlp, by default [400, 400], or of a gated
            network, or channels of a conv, dcgan, resnet or gated_conv network. The generator mirrors them.
        discriminator_hidden: The same of the discriminator; by default `hidden`.
        activation: Activation of the generator's hidden layers: relu, tanh, softplus, elu, gelu, silu, leaky_relu or
            leaky_relu_0.2.
        discriminator_activation: The same of the discriminator.
        encoder: The discriminator's network, by its name in the registry of encoders: mlp, conv, dcgan, resnet, gated
            or gated_conv.
        decoder: The generator's network, by its name in the registry of decoders: mlp, conv, coordinate, dcgan,
            resnet, gated or gated_conv.
        batch_norm: Batch norm in both networks; the discriminator has none with spectral_norm or r1. In the
            discriminator, images and samples are separate batches.
        spectral_norm: Spectral norm of every layer of the discriminator (Miyato et al. 2018).
        r1: Weight of the R1 penalty r1/2 E||grad D(x)||^2 on images (Mescheder et al. 2018), where D(x) is the logit;
            0 for the loss of the paper.
        lr: Learning rate of Adam, of the generator. lr_final and lr_schedule apply to both networks.
        discriminator_lr: Learning rate at the start of training of the discriminator; by default `lr`.
        beta1: Decay rate of Adam's mean of gradients. With 0.9, training may oscillate.
        beta2: Decay rate of Adam's mean of squared gradients.
    """

    takes_own_steps = True

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: int = 20,
        hidden: list[int] | None = None,
        discriminator_hidden: list[int] | None = None,
        activation: str = "relu",
        discriminator_activation: str = "leaky_relu_0.2",
        encoder: str = "mlp",
        decoder: str = "mlp",
        batch_norm: bool = True,
        spectral_norm: bool = False,
        r1: float = 0.1,
        lr: float = 1e-3,
        discriminator_lr: float | None = None,
        beta1: float = 0.5,
        beta2: float = 0.999,
        **kwargs,
    ):
        super().__init__(lr=lr, **kwargs)
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1; got {z_dim}.")
        if not r1 >= 0:
            raise ValueError(f"r1 must be at least 0; got {r1}.")
        if not (discriminator_lr is None or discriminator_lr > 0):
            raise ValueError(f"discriminator_lr must be positive; got {discriminator_lr}.")
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be at least 0 and below 1; got {beta1} and {beta2}.")
        self.decoder = make_decoder(decoder, z_dim, image_shape, hidden, activation, batch_norm, init="default")
        self.discriminator = make_encoder(
            encoder,
            image_shape,
            1,
            hidden if discriminator_hidden is None else discriminator_hidden,
            discriminator_activation,
            batch_norm and not spectral_norm and not r1,
            init="default",
        )
        if spectral_norm:
            for layer in [layer for layer in self.discriminator.modules() if isinstance(layer, LAYERS)]:
                with_spectral_norm(layer)

    def prior(self) -> Distribution:
        """Return N(0, I), batch shape `()`."""
        return standard_normal(self.latent_dim, like=next(self.parameters()))

    def draw_z(self, n: int) -> Tensor:
        """Return n samples of z from the prior, `(n, z_dim)`."""
        return self.prior().rsample((n,))  # `sample` would wait for the GPU, which a CUDA graph cannot do

    def generate(self, z: Tensor) -> Tensor:
        return at_least_float32(self.decoder(z)).sigmoid()

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of D(x), the probability that images in [0, 1] are data: `(B, C, H, W) -> (B,)`."""
        return at_least_float32(self.discriminator(2 * x - 1)).squeeze(-1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the generator's loss for as many new samples as images."""
        return generator_loss(self.logits(self.generate(self.draw_z(len(x)))))

    def collapse_remedy(self) -> str:
        if not self.hparams.r1 and not self.hparams.spectral_norm:
            return "Try --model.r1 0.1."
        return super().collapse_remedy()

    # Training

    @property
    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters of the discriminator and of the generator, in the order of their steps."""
        return list(self.discriminator.parameters()), list(self.decoder.parameters())

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        hparams = self.hparams
        return [
            OPTIMIZERS[hparams.optimizer](
                parameters,
                lr=lr,
                betas=(hparams.beta1, hparams.beta2),
                eps=hparams.adam_eps,
                weight_decay=hparams.weight_decay,
                fused=True,
            )
            for parameters, lr in zip(self.players, self.learning_rates(), strict=True)
        ]

    def learning_rates(self) -> list[float]:
        lr, discriminator_lr = self.hparams.lr, self.hparams.discriminator_lr
        return [lr if discriminator_lr is None else discriminator_lr, lr]

    def on_train_start(self) -> None:
        super().on_train_start()
        for optimizer in self.all_optimizers():
            for group in optimizer.param_groups:
                group["betas"] = self.hparams.beta1, self.hparams.beta2

    def take_step(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Take a step of the discriminator, then one of the generator, and return both losses, D(x) and D(G(z))."""
        discriminator, generator = self.all_optimizers()
        samples = self.generate(self.draw_z(len(x)))
        x = x.detach().requires_grad_(self.hparams.r1 > 0)
        real, fake = self.logits(x), self.logits(samples.detach())
        discriminator_value = discriminator_loss(real, fake)
        self.descend(discriminator_value + self.r1_penalty(x, real), discriminator)
        generator_value = generator_loss(self.logits(samples))
        self.descend(generator_value, generator)
        values = {
            "loss": generator_value,
            "discriminator_loss": discriminator_value,
            "d_real": real.sigmoid().mean(),
            "d_fake": fake.sigmoid().mean(),
        }
        return {name: value.detach() for name, value in values.items()}

    def r1_penalty(self, x: Tensor, real: Tensor) -> Tensor | float:
        """Return r1/2 E||grad D(x)||^2 for the logits `real (B,)` of images x; 0 without r1."""
        if not self.hparams.r1:
            return 0.0
        with torch.autocast(x.device.type, enabled=False):
            (gradient,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        return self.hparams.r1 / 2 * gradient.flatten(1).square().sum(1).mean()

    def descend(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Take a step of one player: the gradient of its loss with respect to its own parameters only."""
        parameters = optimizer.param_groups[0]["params"]
        with torch.autocast(loss.device.type, enabled=False):  # as in automatic optimization
            gradients = list(torch.autograd.grad(loss, parameters))
        if self.trainer.world_size > 1:  # DDP averages gradients only in automatic optimization
            gradients = average_over_ranks(gradients, self.trainer.world_size)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
