"""The conditional variational autoencoder."""

import torch
from torch import Tensor
from torch.distributions import Independent
from torch.nn.functional import one_hot

from models import label_checks
from models.arguments import as_count, as_labels
from models.interpolation import interpolate_latents
from models.networks.layers import ImageShape
from models.vae import VAE


class CVAE(VAE):
    """Conditional VAE (Sohn et al. 2015): p(x|y,z) and q(z|x,y) are given the label y, p(z) is not.

    Its likelihood is log p(x|y): the label is known in testing too, so that it cannot be compared with log p(x).

    Args:
        image_shape: Channels, height and width; from the data.
        num_classes: Number of labels; from the data.
    """

    quantity = "log p(x|y)"
    is_conditional = True
    data_args = ("image_shape", "num_classes")

    def __init__(self, image_shape: ImageShape, num_classes: int, **kwargs):
        if num_classes < 1:
            raise ValueError("CVAE needs labels: choose data that have them, or --model VAE.")
        label_checks.check_number("CVAE", num_classes)
        super().__init__(image_shape, **kwargs)

    @property
    def context_dim(self) -> int:
        """Dimensions of the one-hot label, which both networks receive."""
        return self.hparams.num_classes

    def check_data(self, data) -> None:
        super().check_data(data)
        if any((split.y < 0).any() for split in (data.train, data.val, data.test)):
            raise ValueError(
                "CVAE needs the label of every training, validation and test image: leave out --data.num_labels if it "
                "is given, or use --model M2."
            )
        label_checks.check_training_images("CVAE", data)

    def label(self, y: Tensor | None) -> Tensor:
        """Return one-hot labels `(..., num_classes)` for `y (...)`."""
        if y is None:
            raise ValueError("CVAE needs the labels y of the images, a tensor of whole numbers.")
        # on a GPU reading the values would synchronise at every step; check_data has checked the training labels
        if y.device.type == "cpu" and y.numel() and not 0 <= y.min() <= y.max() < self.hparams.num_classes:
            raise ValueError(f"The labels given to CVAE must lie between 0 and {self.hparams.num_classes - 1}.")
        return one_hot(y, self.hparams.num_classes).float()

    def posterior(self, x: Tensor, y: Tensor | None = None) -> Independent:
        """Return q(z|x,y), batch shape `(B,)`."""
        self.check_form(x)
        return self.z_posterior(self.encoder(x, self.label(y)))

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """Return p(x|y,z) for `z (..., z_dim)` and labels that broadcast with its leading dimensions."""
        return self.likelihood(self.decoder(z, self.label(y)))

    def as_labels(self, y, shape: tuple[int, ...], broadcast: bool = False) -> Tensor:
        if y is None:
            return self.label(None)  # raises ValueError
        return as_labels(y, self.hparams.num_classes, next(self.parameters()), shape, broadcast)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|y,z) for n samples of z, by default with the labels 0, 1, ... in turn."""
        n = as_count(n, "n")
        turn = torch.arange(n, device=self.device) % self.hparams.num_classes
        return super().sample(n, turn if y is None else y)

    @torch.no_grad()
    def sample_classes(self, n: int) -> Tensor:
        """Return the mean of p(x|y,z) for n samples of z, each with every label: `(n, num_classes, C, H, W)`."""
        z = self.prior().sample((as_count(n, "n"), 1))  # (n, 1, z_dim)
        return self.decode(z, torch.arange(self.hparams.num_classes, device=self.device)[None])

    def interpolate(
        self,
        x0: Tensor,
        x1: Tensor,
        n: int = 10,
        path: str = "linear",
        y0: Tensor | None = None,
        y1: Tensor | None = None,
    ) -> Tensor:
        """Return `n` decoded steps from x0 to x1: `(n, B, C, H, W)`; the label changes from y0 to y1 half-way."""
        z = interpolate_latents(self.encode(x0, y0), self.encode(x1, y1), n, path)
        y0, y1 = (self.as_labels(y, (z.shape[1],)) for y in (y0, y1))
        first = torch.arange(n, device=z.device)[:, None] < n / 2  # (n, 1)
        return self.decode(z, torch.where(first, y0, y1))
