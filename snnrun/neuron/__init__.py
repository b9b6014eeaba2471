"""Neuron models."""

from snnrun.neuron.alif import ALIF
from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State, carry, scan
from snnrun.neuron.burst import Burst
from snnrun.neuron.cuba_lif import CubaLIF
from snnrun.neuron.desire_lif import DesireLIF
from snnrun.neuron.dsr import DSRIF, DSRLIF
from snnrun.neuron.feedback_lif import FeedbackLIF
from snnrun.neuron.integrate import IF
from snnrun.neuron.leaky import Leaky
from snnrun.neuron.li import LI
from snnrun.neuron.lif import LIF
from snnrun.neuron.msat import MSAT
from snnrun.neuron.plif import PLIF
from snnrun.neuron.psc_lif import PSCLIF
from snnrun.neuron.refractory_lif import RefractoryLIF
from snnrun.neuron.rel_psp import RelPSP
from snnrun.neuron.scaled import Scaled
from snnrun.neuron.ternary import Binary, Ternary

__all__ = [
    "ALIF",
    "DSRIF",
    "DSRLIF",
    "IF",
    "LI",
    "LIF",
    "MSAT",
    "PLIF",
    "PSCLIF",
    "Binary",
    "Burst",
    "CubaLIF",
    "DesireLIF",
    "FeedbackLIF",
    "Kernel",
    "Leaky",
    "Neuron",
    "OwnBackward",
    "RefractoryLIF",
    "RelPSP",
    "Scaled",
    "State",
    "Ternary",
    "carry",
    "scan",
]
