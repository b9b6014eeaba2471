"""Classification of whole sequences."""

from typing import Literal

from snnrun.metric import Tally


class Classification:
    """One label a sample; the network with the best validation accuracy is kept.

    **Arguments:**

    - `monitor`: the metric that selects a checkpoint; it never comes from test data.
    - `mode`: whether `max` or `min` of it is best.
    - `ties`: whether a label that shares the best score counts as right by its place (`first`) or is always `wrong`, as
      where scores are spike counts.
    """

    def __init__(
        self,
        monitor: str = "val/acc",
        mode: str = "max",
        ties: Literal["first", "wrong"] = "first",
    ):
        if monitor.startswith("test/"):
            raise ValueError(
                f"task.monitor must not select on test data, got {monitor}. Use val/acc or val/loss."
            )
        if mode not in ("max", "min"):
            raise ValueError(f"task.mode must be max or min, got {mode}.")
        if ties not in ("first", "wrong"):
            raise ValueError(f"task.ties must be first or wrong, got {ties}.")
        self.monitor, self.mode = monitor, mode
        self.ties: Literal["first", "wrong"] = ties

    def tally(self, num_classes: int) -> Tally:
        """A fresh counter of loss and accuracy."""
        return Tally(num_classes, ties=self.ties)
