"""Normalisation between synapse and neuron."""

from snnrun.norm.batch import BNTT, BatchNorm

__all__ = ["BNTT", "BatchNorm"]
