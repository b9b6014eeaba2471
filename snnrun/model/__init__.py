"""Architectures."""

from snnrun.model.convnet import ConvNet
from snnrun.model.event_resnet import EventResNet
from snnrun.model.feedback_snn import FeedbackSNN
from snnrun.model.layers import Dropout, Layer, Pool, layers, over_time, parts
from snnrun.model.mlp import MLP
from snnrun.model.plain_net import PlainNet
from snnrun.model.preact_resnet import PreActResNet
from snnrun.model.recurrent import Recurrent
from snnrun.model.sew_resnet import SEWResNet
from snnrun.model.spiking_resnet import SpikingResNet
from snnrun.model.vgg import VGG

__all__ = [
    "MLP",
    "VGG",
    "ConvNet",
    "Dropout",
    "EventResNet",
    "FeedbackSNN",
    "Layer",
    "PlainNet",
    "Pool",
    "PreActResNet",
    "Recurrent",
    "SEWResNet",
    "SpikingResNet",
    "layers",
    "over_time",
    "parts",
]
