"""Samples that a network gets wrong, given more weight from epoch to epoch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snnrun.rule.base import Learning


class Boosting:
    r"""Weights of training samples: those that were misclassified during an epoch weigh more in the next.

    $$u_n \leftarrow u_n \exp(\beta\, \epsilon_{y_n}), \qquad
      \epsilon_c = \frac{\sum_{n: y_n = c,\, \mathrm{wrong}} u_n}{\sum_{n: y_n = c} u_n}$$

    **Arguments:**

    - `rate`: $\beta$; 0 for none.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.weight: Tensor | None = None  # (samples,)
        # (samples,): 0 for one that was not drawn in this epoch, else 1 + twice its class, and 1 more if it was wrong
        self.drawn = torch.zeros(0, dtype=torch.int32)
        self.over_ranks: Callable[..., Tensor] = lambda count, how: count

    def of(self, learner: Learning, y: Tensor) -> Tensor | None:
        """The weights of the running batch; None outside of training, or if all are 1."""
        if not self.rate or learner.places is None:
            return None
        self.over_ranks = learner.over_ranks
        if self.weight is None:
            self.weight = torch.ones(learner.training_size(), device=y.device)
            self.drawn = torch.zeros(len(self.weight), dtype=torch.int32, device=y.device)
        self.weight, self.drawn = self.weight.to(y.device), self.drawn.to(y.device)
        return self.weight[learner.places]

    def note(self, learner: Learning, scores: Tensor, y: Tensor) -> None:
        """Remember which samples of the running batch are wrong."""
        if self.weight is not None and learner.places is not None:
            wrong = scores.argmax(1) != y
            self.drawn[learner.places] = (1 + 2 * y + wrong).to(torch.int32)

    def advance(self) -> None:
        """Raise the weights of what was wrong in the epoch that ends."""
        if self.weight is None:
            return
        drawn = self.over_ranks(self.drawn, "max").long()
        seen = drawn > 0
        kind, wrong = (drawn[seen] - 1) // 2, (drawn[seen] - 1) % 2
        weight = self.weight[seen].double()
        whole = torch.zeros(int(kind.amax()) + 1, dtype=torch.float64, device=weight.device)
        missed = torch.zeros_like(whole).index_add_(0, kind, weight * wrong)
        whole.index_add_(0, kind, weight)
        error = (missed / whole)[kind] * wrong
        self.weight[seen] = (weight * torch.exp(self.rate * error)).float()
        self.drawn.zero_()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, of all processes together."""
        if self.weight is None:
            return {}
        return {"weight": self.weight, "drawn": self.over_ranks(self.drawn, "max")}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint holds."""
        if state:
            self.weight, self.drawn = state["weight"], state["drawn"]
