"""Data modules: each reads one data set, splits it and serves mini-batches."""

from datamodules.base import GREY_PROTOCOLS, PROTOCOLS, ImageData
from datamodules.batches import Batches, Split
from datamodules.binary_mnist import BinaryMNIST
from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from datamodules.mnist import KMNIST, MNIST, FashionMNIST
from datamodules.mnist_subset import MNISTSubset
from datamodules.npz import NPZ
from datamodules.omniglot import OMNIGLOT, Omniglot28

DATAMODULES: dict[str, type[ImageData]] = {
    "MNISTSubset": MNISTSubset,
    "Digits": Digits,
    "MNIST": MNIST,
    "FashionMNIST": FashionMNIST,
    "KMNIST": KMNIST,
    "BinaryMNIST": BinaryMNIST,
    "OMNIGLOT": OMNIGLOT,
    "Omniglot28": Omniglot28,
    "NPZ": NPZ,
    "ImageFolder": ImageFolder,
}

__all__ = ["DATAMODULES", "GREY_PROTOCOLS", "PROTOCOLS", "Batches", "ImageData", "Split"]
