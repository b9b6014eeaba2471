"""Learning rules."""

from snnrun.rule.base import BPTT, Learning, Rule
from snnrun.rule.conversion import Conversion
from snnrun.rule.desire_bp import DesireBP
from snnrun.rule.dsr import DSR
from snnrun.rule.ide import IDE
from snnrun.rule.progressive_tandem import ProgressiveTandem
from snnrun.rule.reset_bptt import ResetBPTT
from snnrun.rule.spide import SPIDE
from snnrun.rule.st_rsbp import STRSBP
from snnrun.rule.stdbp import STDBP
from snnrun.rule.tandem import Tandem
from snnrun.rule.trace import TraceRule
from snnrun.rule.tssl import TSSL

__all__ = [
    "BPTT",
    "DSR",
    "IDE",
    "SPIDE",
    "STDBP",
    "STRSBP",
    "TSSL",
    "Conversion",
    "DesireBP",
    "Learning",
    "ProgressiveTandem",
    "ResetBPTT",
    "Rule",
    "Tandem",
    "TraceRule",
]
