"""Where the time of training goes: the network with its rule and optimiser, data, counting, all else.

    python scripts/throughput.py [key=value ...]    # such as dataset=fashion_mnist model=mlp kernel=scan

Trains three epochs as `snnrun` does and prints the second, from its start to that of the third: validation, checkpoint
and logging belong to it. With one thread (OMP_NUM_THREADS=1) in process time; with more by the clock on the wall, so
leave the machine alone.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data.dataloader import _BaseDataLoaderIter

from snnrun import launch
from snnrun.learner import Learner
from snnrun.metric import Tally
from snnrun.model import Layer

EPOCH = 1
CLOCK = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
spent: dict[str, float] = {}
running: list[str] = []
starts: list[float] = []
samples: list[int] = []


def clocked(method: Callable[..., Any], what: str) -> Callable[..., Any]:
    """A method whose time is counted as that of something, but for what others of these take inside it."""

    def timed(*args: Any, **kwargs: Any) -> Any:
        begin = CLOCK()
        running.append(what)
        try:
            return method(*args, **kwargs)
        finally:
            taken = CLOCK() - begin
            running.pop()
            if len(starts) == EPOCH + 1:
                spent[what] = spent.get(what, 0.0) + taken
                if running:
                    spent[running[-1]] = spent.get(running[-1], 0.0) - taken

    return timed


def main(words: list[str]) -> None:
    """Train with clocks in place, and print."""
    for name in ("training_step", "backward", "optimizer_step", "_evaluate"):
        setattr(Learner, name, clocked(getattr(Learner, name), "network"))
    for owner, name, what in (
        (Learner, "prepare", "normalisation, augmentation"),
        (Learner, "score", "loss"),
        (Tally, "update", "accuracy"),
        (_BaseDataLoaderIter, "__next__", "fetching"),
        (ModelCheckpoint, "on_train_epoch_end", "checkpoints"),
    ):
        setattr(owner, name, clocked(getattr(owner, name), what))
    register = Layer.register_forward_hook
    Layer.register_forward_hook = lambda layer, hook: register(  # pyright: ignore[reportAttributeAccessIssue]
        layer, clocked(hook, "counting of spikes and operations")
    )
    begin, end = Learner.on_train_epoch_start, Learner.on_train_epoch_end

    def started(self: Learner) -> None:
        starts.append(CLOCK())
        begin(self)

    def ended(self: Learner) -> None:
        samples.append(self.samples)
        end(self)

    Learner.on_train_epoch_start, Learner.on_train_epoch_end = started, ended
    with tempfile.TemporaryDirectory() as folder:
        code = launch.train(
            [*words, "trainer.max_epochs=3", "test=false", f"hydra.run.dir={folder}/run"]
        )
    assert code == 0
    epoch = starts[EPOCH + 1] - starts[EPOCH]
    print(f"\n{samples[EPOCH] / epoch:.0f} training samples a second in an epoch of {epoch:.1f} s")
    network = spent.pop("network") + spent.pop("loss")
    rest = epoch - network - sum(spent.values())
    parts = {"network, loss, backward, optimiser": network, **spent, "all else": rest}
    for what, seconds in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"{seconds:8.2f} s  {100 * seconds / epoch:5.1f} %  {what}")


if __name__ == "__main__":
    main(sys.argv[1:])
