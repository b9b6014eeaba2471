"""Kernels printed from a neuron's step: one definition, every device."""

from snnrun.neuron.kernel.dispatch import CHOICES, Choice, Fused, choose

__all__ = ["CHOICES", "Choice", "Fused", "choose"]
