"""Learning rules."""

from snnrun.rule.base import BPTT, Learning, Rule

__all__ = ["BPTT", "Learning", "Rule"]
