"""Architectures."""

from snnrun.model.convnet import ConvNet
from snnrun.model.layers import Dropout, Layer, Pool, layers, over_time, parts
from snnrun.model.mlp import MLP
from snnrun.model.recurrent import Recurrent

__all__ = [
    "MLP",
    "ConvNet",
    "Dropout",
    "Layer",
    "Pool",
    "Recurrent",
    "layers",
    "over_time",
    "parts",
]
