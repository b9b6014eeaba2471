"""Learning rules."""

from snnrun.rule.base import BPTT, Learning, Rule
from snnrun.rule.desire_bp import DesireBP
from snnrun.rule.reset_bptt import ResetBPTT
from snnrun.rule.trace import TraceRule
from snnrun.rule.tssl import TSSL

__all__ = ["BPTT", "TSSL", "DesireBP", "Learning", "ResetBPTT", "Rule", "TraceRule"]
