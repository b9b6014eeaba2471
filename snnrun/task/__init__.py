"""What a network is asked to do."""

from snnrun.task.classification import Classification

__all__ = ["Classification"]
