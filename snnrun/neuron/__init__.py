"""Neuron models."""

from snnrun.neuron.alif import ALIF
from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State, carry, scan
from snnrun.neuron.cuba_lif import CubaLIF
from snnrun.neuron.desire_lif import DesireLIF
from snnrun.neuron.integrate import IF
from snnrun.neuron.li import LI
from snnrun.neuron.lif import LIF
from snnrun.neuron.plif import PLIF
from snnrun.neuron.psc_lif import PSCLIF

__all__ = [
    "ALIF",
    "IF",
    "LI",
    "LIF",
    "PLIF",
    "PSCLIF",
    "CubaLIF",
    "DesireLIF",
    "Kernel",
    "Neuron",
    "OwnBackward",
    "State",
    "carry",
    "scan",
]
