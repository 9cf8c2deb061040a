"""The handwritten digits bundled with scikit-learn."""

import torch

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.grayscale import GrayscaleData

TEST_SIZE = 250


class Digits(GrayscaleData):
    """1797 handwritten digits of 8x8 pixels, bundled with scikit-learn. The 250 test images are the same in every run.

    Args:
        val_size: Validation images, taken from the 1547 training images.
    """

    default_epochs = 300  # an epoch has only 13 steps

    def __init__(self, *, val_size: int = 250, **kwargs):
        super().__init__(val_size=val_size, **kwargs)

    def fetch(self) -> tuple[Split, Split]:
        """Return the training and test images, rescaled from 0..16 to 0..255."""
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = torch.from_numpy(x).reshape(-1, 1, 8, 8)  # (N, C, H, W)
        digits = Split((x * 255 / 16).round().to(torch.uint8), torch.from_numpy(y).long())
        order = torch.randperm(len(digits.y), generator=fixed_generator("test images of Digits"))
        return digits.subset(order[TEST_SIZE:]), digits.subset(order[:TEST_SIZE])
