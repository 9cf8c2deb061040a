"""Images for the models: each module reads one data set and cuts it into batches."""

from .base import PROTOCOLS, ImageData
from .batches import Batches, Split
from .binary_mnist import BinaryMNIST
from .digits import Digits
from .mnist import KMNIST, MNIST, FashionMNIST
from .npz import NPZ

DATAMODULES: dict[str, type[ImageData]] = {
    "Digits": Digits,
    "MNIST": MNIST,
    "FashionMNIST": FashionMNIST,
    "KMNIST": KMNIST,
    "BinaryMNIST": BinaryMNIST,
    "NPZ": NPZ,
}

__all__ = ["DATAMODULES", "PROTOCOLS", "Batches", "ImageData", "Split"]
