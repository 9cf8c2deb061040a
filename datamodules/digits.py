"""The digits that come with scikit-learn."""

import torch

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.grayscale import GreyData

TEST_SIZE = 250


class Digits(GreyData):
    """1797 handwritten digits of 8x8 pixels, bundled with scikit-learn: 250 test images, always the same.

    Args:
        val_size: Validation images, taken from the 1547 training images.
    """

    default_epochs = 300  # of 13 steps each

    def __init__(self, *, val_size: int = 250, **kwargs):
        super().__init__(val_size=val_size, **kwargs)

    def fetch(self) -> tuple[Split, Split]:
        """Grey values 0..16 become 0..255."""
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x = torch.from_numpy(x).reshape(-1, 1, 8, 8)  # (N, C, H, W)
        digits = Split((x * 255 / 16).round().to(torch.uint8), torch.from_numpy(y).long())
        order = torch.randperm(len(digits.y), generator=fixed_generator("test images of Digits"))
        return digits.take(order[TEST_SIZE:]), digits.take(order[:TEST_SIZE])
