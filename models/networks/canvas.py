"""How DRAW reads from images and writes to its canvas: as a whole, or through attention (Gregor et al. 2015).

Both classes have one linear layer, `layer`, whose outputs for the decoder's state after a step say what is written at
this step, and with attention also where, and where the next step reads.
"""

import torch
from torch import Tensor, nn

from models.networks.attention import (
    NUM_PARAMETERS,
    Grid,
    covering_parameters,
    filterbanks,
    make_grid,
    read_patch,
    write_patch,
)
from models.networks.layers import ImageShape, glorot


class WholeCanvas(nn.Module):
    """Reading and writing without attention (section 3.1): write(h) is a linear layer.

    read(x, x_err) = [x, x_err]. What x contributes to the gates of the encoder is the same at each step: it is computed
    once per image, and `read` returns x_err only.

    Args:
        image_shape: Channels, height and width of the images.
        channels: Channels of the canvas.
        rnn_size: Size of the decoder's state.
    """

    def __init__(self, image_shape: ImageShape, channels: int, rnn_size: int):
        super().__init__()
        C, H, W = image_shape
        self.shape = (channels, H, W)
        self.read_dim = C * H * W
        self.layer = nn.Linear(rnn_size, channels * H * W)
        glorot(self.layer)

    def read(self, x: Tensor, x_err: Tensor, outputs: Tensor) -> Tensor:
        """Return what the encoder reads, `(..., read_dim)`.

        Args:
            x: Images `(B, C, H, W)`.
            x_err: Their differences from the canvas, `(..., B, C, H, W)`.
            outputs: Outputs of the layer after the last step, `(..., B, D)`.
        """
        return x_err.flatten(-3)

    def write(self, outputs: Tensor) -> Tensor:
        """Return what a step adds to the canvas, `(..., D) -> (..., C, H, W)`."""
        return outputs.unflatten(-1, self.shape)

    def write_all(self, h: Tensor) -> Tensor:
        """Return the sum of what all steps write, from their states `(..., T, rnn_size)`: `(..., C, H, W)`."""
        return self.write(h.shape[-2] * self.layer(h.mean(-2)))


class AttentionCanvas(nn.Module):
    """Reading and writing through grids of Gaussian filters (section 3.2).

    read(x, x_err) = gamma [F_Y x F_X^T, F_Y x_err F_X^T] and write(h) = 1 / gamma F_Y^T w F_X, with grids of their own
    (eq. 27-29).

    Args:
        image_shape: Channels, height and width of the images.
        channels: Channels of the canvas.
        rnn_size: Size of the decoder's state.
        read_size: Filters per side of the grid that reads.
        write_size: Filters per side of the grid that writes.
    """

    def __init__(self, image_shape: ImageShape, channels: int, rnn_size: int, read_size: int, write_size: int):
        super().__init__()
        C, H, W = image_shape
        self.size = (H, W)
        self.channels, self.read_size, self.write_size = channels, read_size, write_size
        self.read_dim = 2 * C * read_size**2
        self.layer = nn.Linear(rnn_size, 2 * NUM_PARAMETERS + channels * write_size**2)
        glorot(self.layer)
        self.start_at_whole_image()

    @torch.no_grad()
    def start_at_whole_image(self) -> None:
        """Set the biases so that both grids cover the image, and that a patch of ones adds about 1 to each pixel.

        Filters sum to 1 over pixels, so that the filters of a grid with stride s sum to 1 / s^2 at each pixel.
        """
        height, width = self.size
        stride = max(height, width) / self.write_size
        read = covering_parameters(self.read_size, height, width, gain=1.0)
        write = covering_parameters(self.write_size, height, width, gain=stride**-2)
        self.layer.bias[: 2 * NUM_PARAMETERS].copy_(torch.tensor([*read, *write]))

    def read_grid(self, outputs: Tensor) -> Grid:
        """Return where the step after these outputs `(..., D)` reads."""
        return make_grid(outputs[..., :NUM_PARAMETERS], self.read_size, *self.size)

    def write_grid(self, outputs: Tensor) -> Grid:
        """Return where the step with these outputs `(..., D)` writes."""
        return make_grid(outputs[..., NUM_PARAMETERS : 2 * NUM_PARAMETERS], self.write_size, *self.size)

    def read(self, x: Tensor, x_err: Tensor, outputs: Tensor) -> Tensor:
        """Return what the encoder reads, `(..., read_dim)`. The arguments are those of `WholeCanvas.read`."""
        grid = self.read_grid(outputs)
        both = torch.cat([x.expand_as(x_err), x_err], -3)  # (..., B, 2 C, H, W)
        patches = read_patch(both, *filterbanks(grid, self.read_size, *self.size))
        return grid.gain[..., None] * patches.flatten(-3)

    def write(self, outputs: Tensor) -> Tensor:
        """Return what a step adds to the canvas, `(..., D) -> (..., C, H, W)`."""
        patch, *filters = self.patch_and_filters(outputs)
        return write_patch(patch, *filters)

    def write_all(self, h: Tensor) -> Tensor:
        """Return the sum of what all steps write, from their states `(..., T, rnn_size)`: `(..., C, H, W)`."""
        patch, F_Y, F_X = self.patch_and_filters(self.layer(h))
        rows = torch.einsum("...tcmn,...tnw->...tcmw", patch, F_X)
        return torch.einsum("...tmh,...tcmw->...chw", F_Y, rows)

    def patch_and_filters(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what steps with these outputs write: w / gamma `(..., C, N, N)`, and the filters F_Y and F_X."""
        grid, N = self.write_grid(outputs), self.write_size
        w = outputs[..., 2 * NUM_PARAMETERS :].unflatten(-1, (self.channels, N, N))
        return w / grid.gain[..., None, None, None], *filterbanks(grid, N, *self.size)
