"""Data modules: each reads one data set, splits it and serves mini-batches."""

from datamodules.base import PROTOCOLS, ImageData
from datamodules.batches import Batches, Split
from datamodules.binary_mnist import BinaryMNIST
from datamodules.digits import Digits
from datamodules.mnist import KMNIST, MNIST, FashionMNIST
from datamodules.mnist_subset import MNISTSubset
from datamodules.npz import NPZ

DATAMODULES: dict[str, type[ImageData]] = {
    "MNISTSubset": MNISTSubset,
    "Digits": Digits,
    "MNIST": MNIST,
    "FashionMNIST": FashionMNIST,
    "KMNIST": KMNIST,
    "BinaryMNIST": BinaryMNIST,
    "NPZ": NPZ,
}

__all__ = ["DATAMODULES", "PROTOCOLS", "Batches", "ImageData", "Split"]
