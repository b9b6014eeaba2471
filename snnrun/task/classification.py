"""Classification of whole sequences."""

from snnrun.metric import Tally


class Classification:
    """One label a sample; the network with the best validation accuracy is kept.

    **Arguments:**

    - `monitor`: the metric that selects a checkpoint; it never comes from test data.
    - `mode`: whether `max` or `min` of it is best.
    """

    def __init__(self, monitor: str = "val/acc", mode: str = "max"):
        if monitor.startswith("test/"):
            raise ValueError(
                f"task.monitor must not select on test data, got {monitor}. Use val/acc or val/loss."
            )
        if mode not in ("max", "min"):
            raise ValueError(f"task.mode must be max or min, got {mode}.")
        self.monitor, self.mode = monitor, mode

    def tally(self, num_classes: int) -> Tally:
        """A fresh counter of loss and accuracy."""
        return Tally(num_classes)
