"""The generative moment matching network."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Independent, Uniform

from models.ae import AE
from models.distributions import at_least_float32
from models.implicit import WIDTH_IMAGES, ImplicitModel
from models.mmd import mmd, mmd2, widths_for, widths_without_data
from models.networks import check_sizes, make_decoder
from models.networks.layers import ACTIVATIONS, ImageShape, apply_rowwise, lookup, mlp
from models.pretrained import make_part, open_part

Estimator = Literal["sqrt", "biased", "unbiased"]
DEFAULT_HIDDEN = (1024, 256, 256, 64)  # of Li et al. (2015), from the image to the latents


class GMMN(ImplicitModel):
    """Generative moment matching network (Li, Swersky & Zemel 2015): a generator whose samples have the kernel mean of
    the data.

    z ~ U(-1, 1)^d, x = sigmoid(g(z)). Each step draws as many samples as the batch has images and minimises their
    maximum mean discrepancy, with a mixture of Gaussian kernels sum_s exp(-||x - x'||^2 / (2 s)). The gradient is that
    of expectations over both sets, whose estimates become better with the size of the batch.

    With an autoencoder, sigmoid(g(z)) is a code instead, scaled to the range of each dimension of the codes of training
    images. The discrepancy is that of codes, and images are decoded codes. The autoencoder is fixed.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the latents.
        hidden: Sizes of the hidden layers of the generator, in the order from image to latents as in other models:
            widths of an mlp, by default [1024, 256, 256, 64], or of a gated network, or channels of a conv, dcgan,
            resnet or gated_conv network.
        activation: Activation of the hidden layers: relu, tanh, softplus, elu, gelu, silu, leaky_relu or
            leaky_relu_0.2.
        decoder: Generator, by its name in the registry: mlp, conv, coordinate, dcgan, resnet, gated or gated_conv. With
            an autoencoder, an mlp.
        batch_norm: Batch norm before each activation of the generator.
        estimator: Loss: sqrt (of the biased estimate of MMD^2, as in the paper), biased or unbiased (MMD^2 itself).
        widths: Widths s of the kernels, in squared units of pixels or codes; by default 0.02, 0.05, 0.1, 0.2, 0.4 and
            0.8 times the mean squared distance between training images or their codes. On MNIST these are about the 2,
            5, 10, 20, 40 and 80 of the paper.
        ae: Checkpoint or run folder of a trained AE, whose codes are matched; read when training starts or goes on.
            This model's own checkpoints hold it.
        ae_options: Arguments of the AE; from its checkpoint.
    """

    checkpoint_args = ("ae_options",)

    ae: AE
    loss_widths: Tensor  # (S,): kernel widths of the loss
    least_codes: Tensor  # (d,): the least value of each dimension of the codes of training images
    code_ranges: Tensor  # (d,): the largest value minus the least

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: int = 10,
        hidden: list[int] | None = None,
        activation: str = "relu",
        decoder: str = "mlp",
        batch_norm: bool = False,
        estimator: Estimator = "sqrt",
        widths: list[float] | None = None,
        ae: str | None = None,
        ae_options: dict | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1; got {z_dim}.")
        if estimator not in get_args(Estimator):
            raise ValueError(f"Unknown estimator '{estimator}': choose sqrt, biased or unbiased.")
        if widths is not None and not (widths and all(0 < s < math.inf for s in widths)):
            raise ValueError(f"widths must be positive numbers, such as [2, 5, 10, 20, 40, 80]; got {widths}.")
        if ae is not None and decoder != "mlp":
            raise ValueError(f"With ae the generator of codes is an mlp: leave decoder {decoder} out.")
        default_widths = widths_without_data(math.prod(image_shape))  # until `for_data` knows better
        self.register_buffer("loss_widths", default_widths if widths is None else torch.tensor(widths).float())
        if hidden is None and decoder == "mlp":
            hidden = list(DEFAULT_HIDDEN)
        if ae is None:
            self.decoder = make_decoder(decoder, z_dim, image_shape, hidden, activation, batch_norm)
            return
        self.ae = make_part(AE, ae_options or {"image_shape": image_shape}).requires_grad_(False).eval()
        lookup(ACTIVATIONS, activation, "activation")
        check_sizes(hidden or ())
        self.code_generator = mlp([z_dim, *(hidden or ())[::-1], self.ae.latent_dim], activation, batch_norm)
        self.register_buffer("least_codes", torch.zeros(self.ae.latent_dim))
        self.register_buffer("code_ranges", torch.ones(self.ae.latent_dim))

    @classmethod
    def for_data(cls, data, ae: str | None = None, **options):
        """Return a new model for a data module, with the autoencoder in the checkpoint `ae`, if any."""
        if ae is None:
            return super().for_data(data, **options)
        trained = open_part(ae, data, AE, "AE", ("AE",), "train one with --model AE and give its checkpoint")
        model = super().for_data(data, ae=ae, ae_options=dict(trained.hparams), **options)
        model.ae.load_state_dict(trained.state_dict())
        model.start_with_codes(data.images("train", WIDTH_IMAGES)[0])
        return model

    @property
    def matches_codes(self) -> bool:
        """Whether codes of an autoencoder are matched instead of images."""
        return self.hparams.ae is not None

    @property
    def decoder_cost(self) -> int:
        return self.ae.decoder_cost if self.matches_codes else super().decoder_cost

    def set_widths(self, x: Tensor) -> None:
        super().set_widths(x)
        if self.hparams.widths is None:
            self.loss_widths.copy_(widths_for(x))

    @torch.no_grad()
    def start_with_codes(self, x: Tensor) -> None:
        """Set the range of generated codes, their mean, and the kernel widths from training images `(N, C, H, W)`.

        A code without bounds can leave the reach of all kernels, where it has no gradient and stays for ever.
        """
        codes = torch.cat([self.codes(part) for part in x.split(1000)])
        if self.hparams.widths is None:
            self.loss_widths.copy_(widths_for(codes))
        self.least_codes.copy_(codes.amin(0))
        self.code_ranges.copy_((codes.amax(0) - codes.amin(0)).clamp(min=1e-6))  # not 0 for a constant dimension
        mean = (codes.mean(0) - self.least_codes) / self.code_ranges
        output: Any = self.code_generator[-1]  # nn.Linear
        output.bias.copy_(mean.clamp(0.001, 0.999).logit())

    def train(self, mode: bool = True):
        super().train(mode)
        if self.matches_codes:
            self.ae.eval()  # its weights are fixed
        return self

    def prior(self) -> Independent:
        """Return p(z) = U(-1, 1)^d."""
        one = at_least_float32(torch.ones(self.latent_dim, device=self.device, dtype=next(self.parameters()).dtype))
        return Independent(Uniform(-one, one), 1)

    def latents_from_noise(self, e: Tensor) -> Tensor:
        """Return z = 2 Phi(e) - 1 = erf(e / sqrt(2)), which is precise near 0: `(..., z_dim)`."""
        return torch.erf(e / math.sqrt(2))

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of images by the autoencoder, `(B, d)`."""
        with torch.no_grad():
            return self.ae.encoder(x)

    def generate_codes(self, z: Tensor) -> Tensor:
        """Return codes for latents, `(..., z_dim) -> (..., d)`, with gradients."""
        logits = apply_rowwise(self.code_generator, z.to(next(self.code_generator.parameters()).dtype))
        return self.least_codes + self.code_ranges * logits.sigmoid()

    def generate(self, z: Tensor) -> Tensor:
        if self.matches_codes:
            return self.ae.decoder(self.generate_codes(z)).sigmoid()
        return self.decoder(z).sigmoid()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the discrepancy between the batch and as many samples, or between their codes."""
        z = self.prior().sample((len(x),))
        data, samples = (self.codes(x), self.generate_codes(z)) if self.matches_codes else (x, self.generate(z))
        if self.hparams.estimator == "sqrt":
            return mmd(data, samples, self.loss_widths)
        return mmd2(data, samples, self.loss_widths, unbiased=self.hparams.estimator == "unbiased")
