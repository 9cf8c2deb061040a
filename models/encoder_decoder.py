"""The part that all models with an encoder and a decoder network share: the options of these networks."""

from collections.abc import Sequence
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from models.base import Model
from models.networks import DECODERS, ENCODERS, make_decoder, make_encoder
from models.networks.layers import ImageShape

DEFAULT_ACTIVATION = "relu"


class EncoderDecoder(Model):
    """A model whose encoder and decoder are chosen by options.

    A subclass builds them with `new_encoder` and `new_decoder`, in its constructor. One with latent variables derives
    from this class and from `LatentVariableModel`, in this order. It declares an option again if its default or its
    meaning differs.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the latent.
        hidden: Sizes of the hidden layers from image to latent, mirrored by the decoder: widths of an mlp, by default
            [400, 400], or of a gated network, by default [300, 300]; or channels of a conv or gated_conv, by default
            [32, 64], of a dcgan, by default [64, 128], or of the stages of a resnet, by default [16, 32, 64].
        activation: Activation of the hidden layers: relu, tanh, softplus, elu, gelu, silu, leaky_relu or
            leaky_relu_0.2. It has no effect on gated networks.
        encoder: Encoder, by its name in the registry: mlp, conv, dcgan, resnet, gated or gated_conv.
        decoder: Decoder, by its name in the registry: mlp, conv, coordinate, dcgan, resnet, gated or gated_conv.
        batch_norm: Batch norm before each activation or gate; in a resnet, instead of group norm.
    """

    encoder: Any  # nn.Module
    decoder: Any

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: int = 20,
        hidden: list[int] | None = None,
        activation: str = DEFAULT_ACTIVATION,
        encoder: str = "mlp",
        decoder: str = "mlp",
        batch_norm: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if z_dim < 1:
            raise ValueError(f"z_dim must be at least 1; got {z_dim}.")

    def on_train_start(self) -> None:
        super().on_train_start()
        options = self.hparams
        # no error: a recipe of another network may name an activation
        if options.activation != DEFAULT_ACTIVATION and not self.has_activation:
            rank_zero_warn(
                f"activation {options.activation} has no effect: all hidden layers of encoder {options.encoder} and "
                f"decoder {options.decoder} are gated."
            )

    @property
    def has_activation(self) -> bool:
        """Whether the option activation has an effect: it has none if all hidden layers are gated."""
        networks = (ENCODERS.get(self.hparams.encoder), DECODERS.get(self.hparams.decoder))
        return any(getattr(network, "has_activation", True) for network in networks)

    @property
    def decoder_hidden(self) -> Sequence[int] | None:
        """Sizes of the hidden layers of the decoder, in the order from image to code; None: its own default."""
        return self.hparams.hidden

    def new_encoder(self, out_dim: int, context_dim: int = 0, init: str = "glorot") -> nn.Module:
        """Return a new network from images to vectors of size `out_dim`, with the options of the encoder.

        Raises:
            ValueError: If an option is out of range.
        """
        options = self.hparams
        return make_encoder(
            options.encoder,
            options.image_shape,
            out_dim,
            options.hidden,
            options.activation,
            options.batch_norm,
            context_dim,
            init,
        )

    def new_decoder(
        self,
        in_dim: int,
        context_dim: int = 0,
        init: str = "glorot",
        output_shape: tuple[int, ...] | None = None,
    ) -> nn.Module:
        """Return a new network from codes of size `in_dim` to logits, with the options of the decoder.

        Args:
            in_dim: Size of the codes.
            context_dim: Size of the context; 0 for none.
            init: Initialisation, one of `models.networks.INITS`.
            output_shape: Shape of the output, by default that of the images.

        Raises:
            ValueError: If an option is out of range.
        """
        options = self.hparams
        shape: Any = options.image_shape if output_shape is None else output_shape
        return make_decoder(
            options.decoder,
            in_dim,
            shape,
            self.decoder_hidden,
            options.activation,
            options.batch_norm,
            context_dim,
            init,
        )
