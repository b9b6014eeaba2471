"""How a batch becomes a sequence of inputs, time first."""

from snnrun.encoder.direct import Direct
from snnrun.encoder.events import Events
from snnrun.encoder.integrate import Integrate
from snnrun.encoder.latency import Latency
from snnrun.encoder.poisson import Poisson
from snnrun.encoder.psc import PSC
from snnrun.encoder.spike_time import SpikeTime
from snnrun.encoder.zero_expand import ZeroExpand

__all__ = ["PSC", "Direct", "Events", "Integrate", "Latency", "Poisson", "SpikeTime", "ZeroExpand"]
