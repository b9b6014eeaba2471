"""Checkpoints are written whole or not at all; the moving average; stopping; what is told."""

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from snnrun.callback import (
    AtomicCheckpointIO,
    Interrupted,
    MovingAverage,
    StopSafely,
    checkpoints,
    epoch_line,
    silent_warning,
)
from snnrun.rule import Rule


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- checkpoint files


def test_a_checkpoint_is_written_and_read(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.arange(3), "epoch": 2}, path)
    assert names(path.parent) == ["last.ckpt"]
    read = AtomicCheckpointIO().load_checkpoint(path)
    assert read["epoch"] == 2 and read["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("fails", ["snnrun.callback.torch.save", "snnrun.whole.os.fsync"])
def test_a_failure_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, fails):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    before = path.read_bytes()

    def fail(*args):
        if len(args) == 2:
            args[1].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(OSError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert path.read_bytes() == before and names(tmp_path) == ["last.ckpt"]


def test_the_checkpoint_before_the_last_is_kept_and_no_other(tmp_path):
    read = AtomicCheckpointIO().load_checkpoint
    for epoch in range(3):
        for name in ("best", "last"):
            AtomicCheckpointIO().save_checkpoint({"epoch": epoch}, tmp_path / f"{name}.ckpt")
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    epochs = [read(tmp_path / f"{name}.ckpt")["epoch"] for name in ("best", "last", "previous")]
    assert epochs == [2, 2, 1]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    for weights_only in (None, False, True):
        with pytest.raises(Exception, match=r"(?i)weights"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=weights_only)
    assert names(tmp_path) == ["last.ckpt"]


def test_best_is_kept_only_where_something_is_monitored(tmp_path):
    last: Any
    best: Any
    best, last = checkpoints(tmp_path, "val/loss", "min")
    assert (best.filename, best.monitor, best.mode) == ("best", "val/loss", "min")
    assert (last.filename, last.monitor) == ("last", None)
    (only,) = checkpoints(tmp_path, None, "max")
    assert only.filename == "last"  # pyright: ignore[reportAttributeAccessIssue]


# --- moving average


def test_moving_average_by_its_formula():
    average, values = [torch.tensor([1.0, -2.0])], [torch.randn(2) for _ in range(30)]
    expected = average[0].double()
    call = MovingAverage(0.5)
    for n, value in enumerate(values):
        call(average, [value], n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value.double()
        torch.testing.assert_close(average[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_moving_average_takes_lightnings_counter():
    average = [torch.zeros(1)]
    MovingAverage(0.9)(average, [torch.ones(1)], torch.tensor(0))
    assert average[0].item() == pytest.approx(0.9)  # decay 1/10 at first


def test_what_is_not_real_valued_is_taken_as_it_is():
    mask, count = torch.tensor([True, False]), torch.tensor([3])
    MovingAverage(0.9)([mask, count], [~mask, count + 4], 5)
    assert mask.tolist() == [False, True] and count.item() == 7


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, 2.0])
def test_a_decay_that_is_none(decay):
    with pytest.raises(ValueError) as error:
        MovingAverage(decay)
    assert str(error.value) == f"ema must be 0 (off) or a decay between 0 and 1, got {decay}."


# --- stopping


class Trainer:
    """As much of a trainer as stopping looks at."""

    accumulate_grad_batches = 2
    num_training_batches = 5

    def __init__(self):
        self.saved: list[str] = []

    def save_checkpoint(self, path):
        self.saved.append(path.name)


LISTENED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.fixture
def stopper(tmp_path):
    before = {number: signal.getsignal(number) for number in LISTENED}
    stop, trainer, nothing = StopSafely(tmp_path), Trainer(), SimpleNamespace()
    call: Any = SimpleNamespace(
        fit=lambda: stop.setup(trainer, nothing, "fit"),  # pyright: ignore
        start=lambda: stop.on_train_start(trainer, nothing),  # pyright: ignore
        batch=lambda i: stop.on_train_batch_end(trainer, nothing, None, None, i),  # pyright: ignore
        test=lambda: stop.on_test_batch_end(trainer),  # pyright: ignore
        epoch=lambda: stop.on_train_epoch_start(trainer, nothing),  # pyright: ignore
        end=lambda: stop.teardown(trainer, nothing, "fit"),  # pyright: ignore
        saved=trainer.saved,
        folder=tmp_path,
    )
    call.fit()
    signal.signal(signal.SIGTERM, lambda *_: None)  # as Lightning does in between
    call.start()
    yield call
    call.end()
    assert {number: signal.getsignal(number) for number in before} == before


def test_nothing_happens_unasked(stopper):
    for i in range(5):
        stopper.batch(i)
    stopper.epoch()
    assert stopper.saved == []


@pytest.mark.parametrize("number", LISTENED)
def test_stops_between_two_optimiser_steps(stopper, capsys, number):
    signal.raise_signal(number)
    assert capsys.readouterr().err == ("\nStopping after this batch; Ctrl-C again stops at once.\n")
    stopper.batch(0)  # gradients are being accumulated
    assert stopper.saved == []
    with pytest.raises(Interrupted):
        stopper.batch(1)
    assert stopper.saved == ["last.ckpt"]


def test_a_test_stops_between_two_batches(stopper):
    stopper.test()
    signal.raise_signal(signal.SIGUSR1)
    with pytest.raises(Interrupted):
        stopper.test()
    assert stopper.saved == []


def test_a_second_ctrl_c_stops_at_once(stopper):
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_does_not(stopper):
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_last_batch_of_an_epoch_is_left_to_the_checkpoint_of_the_epoch(stopper):
    signal.raise_signal(signal.SIGTERM)
    stopper.batch(4)
    stopper.epoch()  # there is no checkpoint yet, so it cannot be resumed from here
    assert stopper.saved == []
    (stopper.folder / "last.ckpt").touch()
    with pytest.raises(Interrupted):
        stopper.epoch()
    assert stopper.saved == []


# --- what is told


def test_an_epoch_in_one_line():
    row = {"epoch": 8, "train/loss": 0.12345, "train/acc": 97.5, "lr": 0.1, "seconds": 2.34}
    assert epoch_line(row, 50) == "epoch  9/50  train loss 0.1235 acc  97.50 %  2.3 s"
    more = {**row, "val/loss": 1.0, "val/acc": 100.0, "spikes/rate": 0.05, "spikes/rate/0": 0.05}
    assert epoch_line(more, 9) == (
        "epoch 9/9  train loss 0.1235 acc  97.50 %  val loss 1.0000 acc 100.00 %  rate 0.050  2.3 s"
    )
    tested = {**row, "test/loss": 1.0, "test/acc": 90.0}
    assert epoch_line(tested, 9) == (
        "epoch 9/9  train loss 0.1235 acc  97.50 %  test loss 1.0000 acc  90.00 %  2.3 s"
    )


def test_a_line_says_the_stage_of_a_schedule():
    row = {"epoch": 2, "rule/stage": -1, "spikes/rate": 0.25, "seconds": 1.0}
    assert epoch_line(row, 9) == "epoch 3/9  stage -1  rate 0.250  1.0 s"
    row = {"epoch": 2, "rule/backward_rate": 0.125, "spikes/rate": 0.25, "seconds": 1.0}
    assert epoch_line(row, 9) == "epoch 3/9  rate 0.250  backward 0.125  1.0 s"


def test_silent_layers_are_named():
    advice = "a lower neuron.threshold, norm=batch, or a larger optimizer.lr"
    assert Rule.wakes == advice
    hint = f" Try {advice}."
    assert silent_warning(["body.0"], advice) == (
        "warning: layer body.0 has not fired once in the first epoch." + hint
    )
    assert silent_warning(["body.0", "head"], advice) == (
        "warning: layers body.0, head have not fired once in the first epoch." + hint
    )
