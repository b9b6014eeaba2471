"""A short fit, and a small network with feedback and what a rule that differentiates its equilibrium sees of it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snnrun.encoder import Direct
from snnrun.loss import CrossEntropy
from snnrun.model import FeedbackSNN
from snnrun.neuron import FeedbackLIF
from snnrun.readout import RateReadout
from snnrun.rule.equilibrium import EquilibriumRule
from snnrun.surrogate import ATan

STEPS = 9


class Learner:
    """What a rule sees of the learner."""

    def __init__(self, net: nn.Module, static: bool = True, decay: float = 1.0):
        self.net, self.encoder = net, Direct(STEPS, static)
        self.readout, self.criterion = RateReadout(decay), CrossEntropy()
        self.watching, self.calls, self.scored = False, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(self.encoder(x))

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        self.scored += 1
        return self.criterion(out, y, readout=self.readout)


def network(spec="9-8-7", shape=(5,), norm=lambda c: None, decay=1.0, **options) -> FeedbackSNN:
    torch.manual_seed(0)
    neuron = lambda channels: FeedbackLIF(ATan(), 1.0, -1.0, decay)  # noqa: E731
    head = RateReadout(decay).head
    return FeedbackSNN(neuron, norm, head, shape, 4, spec=spec, **options).double()


def batch(*shape: int, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    return x, torch.arange(size) % 4


def gradients(
    rule: EquilibriumRule, net: nn.Module, x: Tensor, y: Tensor, **options: Any
) -> dict[str, Tensor]:
    net.zero_grad()
    learner = Learner(net, **options)
    rule.backward(learner, rule.loss(learner, x, y))  # pyright: ignore[reportArgumentType]
    assert learner.scored == 1
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def same(one: dict[str, Tensor], other: dict[str, Tensor], rtol=1e-9, atol=1e-12) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol, msg=name)


@pytest.fixture(scope="session")
def feedback() -> SimpleNamespace:
    """The above, for test modules, which cannot import each other."""
    return SimpleNamespace(
        steps=STEPS, Learner=Learner, network=network, batch=batch, gradients=gradients, same=same
    )


def short_fit(
    build: Callable[[], tuple[Any, Any]], folder: Path, start: Path | None = None, **options: Any
) -> Any:
    """A trainer after two epochs of accumulated, clipped and averaged steps, with a checkpoint of each.

    **Arguments:**

    - `build`: makes data and learner.
    - `folder`: where checkpoints are written.
    - `start`: a checkpoint to resume.
    - `options`: of the trainer.
    """
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from snnrun.callback import MovingAverage
    from snnrun.run import WeightAveraging, quiet

    quiet()
    data, learner = build()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[
            WeightAveraging(multi_avg_fn=MovingAverage(0.9)),
            ModelCheckpoint(folder, "{epoch}", save_top_k=-1),
        ],
        accumulate_grad_batches=2,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(learner, datamodule=data, ckpt_path=start, weights_only=True)
    return trainer


@pytest.fixture(scope="session")
def fit() -> Callable[..., Any]:
    """The above, for test modules."""
    return short_fit
