"""Data sets: splits, loaders of batches, and a transform per batch."""

from snnrun.dataset.base import CorruptData, DataModule, MissingData
from snnrun.dataset.cochlea import NTIDIGITS18, SHD, SSC
from snnrun.dataset.digits import Digits
from snnrun.dataset.events import CIFAR10DVS, NMNIST, DVSGesture
from snnrun.dataset.imagenet import ImageNet
from snnrun.dataset.static import CIFAR10, CIFAR100, MNIST, FashionMNIST
from snnrun.dataset.ti46 import TI46Alpha, TI46Digits

__all__ = [
    "CIFAR10",
    "CIFAR10DVS",
    "CIFAR100",
    "MNIST",
    "NMNIST",
    "NTIDIGITS18",
    "SHD",
    "SSC",
    "CorruptData",
    "DVSGesture",
    "DataModule",
    "Digits",
    "FashionMNIST",
    "ImageNet",
    "MissingData",
    "TI46Alpha",
    "TI46Digits",
]
