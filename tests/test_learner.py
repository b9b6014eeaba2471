"""The learner under Lightning: rows, schedules, what a rule is called for, NaN, and two processes."""

import multiprocessing
import time
from functools import cache
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from omegaconf import DictConfig
from torch import nn

from snnrun.callback import Report, silent_output
from snnrun.check import composed, without_hydra
from snnrun.config import Choices
from snnrun.dataset import DataModule
from snnrun.finite import NotFinite
from snnrun.learner import Learner
from snnrun.rule import BPTT, Rule
from snnrun.run import build, quiet

CHOICES = Choices()
SMALL = ("model.spec=8", "dataset.steps=2", "dataset.batch_size=100", "logger=[]")


@cache
def configuration(words: tuple[str, ...]) -> DictConfig:
    return without_hydra(composed(CHOICES, words))


def made(*words: str) -> tuple[DataModule, Learner]:
    quiet()
    return build(configuration((*SMALL, *words)).copy())


def fit(learner: Learner, data: DataModule, **options: Any) -> Trainer:
    trainer = Trainer(
        **{
            "max_epochs": 2,
            "limit_train_batches": 3,
            "accelerator": "cpu",
            "devices": 1,
            "logger": DummyLogger(),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            **options,
        }
    )
    trainer.fit(learner, datamodule=data)
    return trainer


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_fused_optimizer_takes_gradients_and_moments_of_any_memory_order(optimizer, monkeypatch):
    """By itself it goes through memory, whatever the strides."""
    backward, weights = Learner.backward, {}

    def in_turn(self, loss, *args, **kwargs):
        backward(self, loss)
        order = (torch.contiguous_format, torch.channels_last)[self.global_step % 2]
        for p in self.net.parameters():
            if p.dim() == 4:
                p.grad = p.grad.contiguous(memory_format=order)
        if self.global_step == 1:  # as of a checkpoint made without channels_last
            for state in self.trainer.optimizers[0].state.values():
                state.update({key: value.contiguous() for key, value in state.items()})

    monkeypatch.setattr(Learner, "backward", in_turn)
    for fused in (True, False):
        torch.manual_seed(0)
        data, learner = made(
            "model=convnet",
            "model.spec=4C3-4C3",
            f"optimizer={optimizer}",
            f"optimizer.fused={fused}",
        )
        fit(learner, data, max_epochs=1)
        weights[fused] = learner.state_dict()
    torch.testing.assert_close(weights[True], weights[False], rtol=1e-5, atol=1e-6)


# --- rows


def test_validation_scores_are_those_of_the_epochs_weights():
    data, learner = made()
    fit(learner, data)
    learner.eval()
    x, y = data.samples["val"][data.indices["val"].tolist()]
    with torch.no_grad():
        out = learner(learner.prepare(x, train=False))
        logits = learner.readout(out)
        loss = learner.criterion(out, y, readout=learner.readout)
    row = learner.history[-1]
    assert row["val/acc"] == pytest.approx(100 * (logits.argmax(1) == y).float().mean().item())
    assert row["val/loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_training_scores_are_the_mean_over_the_epochs_samples(monkeypatch):
    data, learner = made()
    seen: list[tuple[float, int, int]] = []
    score = Learner.score

    def watched(self, out, y):
        loss = score(self, out, y)
        if self.training:
            right = int((self.readout(out).argmax(1) == y).sum())
            seen.append((float(loss.detach()), right, len(y)))
        return loss

    monkeypatch.setattr(Learner, "score", watched)
    fit(learner, data, max_epochs=1, limit_train_batches=1.0)
    (row,) = learner.history
    n = sum(count for _, _, count in seen)
    assert row["samples"] == n == 1293
    assert row["train/loss"] == pytest.approx(sum(loss * k for loss, _, k in seen) / n, rel=1e-6)
    assert row["train/acc"] == pytest.approx(100 * sum(right for _, right, _ in seen) / n)


TRACES = ("rule=tssl", "readout=trace_sum", "loss=kernel", "dataset.steps=5")


def test_the_loss_of_a_sum_is_told_a_sample_and_summed_over_accumulated_batches(monkeypatch):
    """Two batches of 50 that are accumulated give the gradient of one of 100."""
    gradients, told = [], []
    step = Learner.optimizer_step

    def watched(self, *args, **kwargs):
        step(self, *args, **kwargs)
        gradients.append([p.grad.clone() for p in self.net.parameters() if p.grad is not None])

    monkeypatch.setattr(Learner, "optimizer_step", watched)
    for size, count in ((100, 1), (50, 2)):
        data, learner = made(*TRACES, "norm=none", f"dataset.batch_size={size}")
        options = {"accumulate_grad_batches": count, "limit_train_batches": count, "max_epochs": 1}
        fit(learner, data, **options)
        told.append(learner.history[0]["train/loss"])
    assert told[0] == pytest.approx(told[1], rel=1e-5)
    assert len(gradients) == 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert one.any()


@pytest.mark.parametrize(("threshold", "silent"), [(0.1, False), (1e9, True)])
def test_the_outputs_rate_is_told_before_training(threshold, silent):
    data, learner = made(*TRACES, f"neuron.threshold={threshold}")
    lines: list[str] = []
    report = Report(1)
    report._print = lambda trainer, line: lines.append(line)
    fit(learner, data, max_epochs=1, callbacks=[report])
    assert lines[0].startswith("output fires 0.")
    assert ("output fires 0.000" in lines[0]) == silent
    advice = learner.rule.wakes_output
    assert advice is not None
    told = silent_output(advice)
    assert lines.count(told) == (2 if silent else 0)  # before training, after an epoch
    data, learner = made()
    lines.clear()
    fit(learner, data, max_epochs=1, callbacks=[report])
    assert not [line for line in lines if line.startswith("output")], "a plain head does not fire"


def test_recordings_are_turned_time_first():
    _, learner = made("dataset=nmnist", "dataset.steps=3")
    x = torch.zeros(5, 3, 2, 34, 34)
    x[1, 2] = 7
    prepared = learner.prepare(x, train=False)
    assert prepared.shape == (3, 5, 2, 34, 34) and prepared[2, 1].min() > 0
    assert prepared.count_nonzero() == prepared[2, 1].numel()


def test_firing_is_watched_in_validation_only_where_there_is_one(monkeypatch):
    for size, expected in ((0.1, [False, False, False]), (0, [False, False, True])):
        data, learner = made(f"dataset.val_size={size}", "neuron.threshold=0.1")
        seen: list[bool] = []
        loss = BPTT.loss

        def watched(self, learner, x, y, seen=seen, loss=loss):
            seen.append(learner.watching)
            return loss(self, learner, x, y)

        with monkeypatch.context() as patch:
            patch.setattr(BPTT, "loss", watched)
            fit(learner, data, max_epochs=1, **({} if size else {"limit_val_batches": 0}))
        assert seen == expected and not learner.watching
        assert learner.history[0]["spikes/rate"] > 0


# --- schedules


def rates(learner: Learner, data: DataModule, monkeypatch, **options: Any) -> list[float]:
    """The learning rate of every optimiser step."""
    seen: list[float] = []
    step = Learner.optimizer_step

    def watched(self, *args, **kwargs):
        seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "optimizer_step", watched)
        trainer = fit(learner, data, **options)
    assert trainer.global_step == len(seen)
    return seen


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 3), (2, 2)])
def test_a_schedule_by_steps_covers_the_run(monkeypatch, accumulate, steps):
    data, learner = made("scheduler=one_cycle", "optimizer.lr=0.01")
    seen = rates(learner, data, monkeypatch, accumulate_grad_batches=accumulate)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=2 * steps, cycle_momentum=False
    )
    expected = []
    for _ in range(2 * steps):
        expected.append(cycle.get_last_lr()[0])
        optimizer.step()
        if len(expected) < 2 * steps:
            cycle.step()
    assert seen == pytest.approx(expected) and len(set(seen)) > 1
    assert learner.schedule is not None and learner.schedule.last_epoch == 2 * steps


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_schedule_by_epochs_advances_once_an_epoch(monkeypatch, accumulate):
    data, learner = made("scheduler=exponential", "scheduler.gamma=0.5", "optimizer.lr=0.01")
    seen = rates(learner, data, monkeypatch, accumulate_grad_batches=accumulate)
    steps = len(seen) // 2
    assert seen == pytest.approx([0.01] * steps + [0.005] * steps)
    assert [row["lr"] for row in learner.history] == pytest.approx([0.01, 0.005])


def test_cosine_is_as_long_as_the_run(monkeypatch):
    data, learner = made("scheduler=cosine", "optimizer.lr=0.01")
    assert rates(learner, data, monkeypatch) == pytest.approx([0.01] * 3 + [0.005] * 3)
    assert learner.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)


def test_a_constant_rate(monkeypatch):
    data, learner = made("scheduler=constant", "optimizer.lr=0.01")
    assert rates(learner, data, monkeypatch) == [0.01] * 6


# --- what a rule is called for


class Recorder(BPTT):
    """Notes what it is asked."""

    def __init__(self):
        super().__init__()
        self.calls: list[str] = []

    def constrain(self, net):
        assert not torch.is_grad_enabled()
        self.calls.append("constrain")

    def epoch_end(self, learner, metrics):
        self.calls.append(f"epoch {metrics['epoch']} {metrics['val/acc']:.0f}")

    def param_groups(self, net):
        return [{"params": list(net.parameters()), "lr": 0.125}]


def test_a_rule_is_called_at_every_step_and_epoch():
    data, learner = made("scheduler=constant")
    learner.rule = rule = Recorder()
    trainer = fit(learner, data, accumulate_grad_batches=2)
    ends = [f"epoch {row['epoch']} {row['val/acc']:.0f}" for row in learner.history]
    assert rule.calls == [*["constrain"] * 2, ends[0], *["constrain"] * 2, ends[1]]
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.125


class ByHand(Rule):
    """Writes its gradients itself."""

    def backward(self, learner, loss):
        for p, g in zip(
            learner.net.parameters(),
            torch.autograd.grad(loss, list(learner.net.parameters())),
            strict=True,
        ):
            p.grad = g.clone() if p.grad is None else p.grad + g
        learner.sync_gradients()


def test_only_what_is_trained_counts_as_a_parameter(monkeypatch):
    _, learner = made()
    assert learner.trainable == sum(p.numel() for p in learner.net.parameters())
    bias = next(p for name, p in learner.net.named_parameters() if name.endswith("bias"))

    def frozen(self, net):
        next(p for name, p in net.named_parameters() if name.endswith("bias")).requires_grad_(False)
        return net

    monkeypatch.setattr(BPTT, "adapt", frozen)
    assert made()[1].trainable == learner.trainable - bias.numel()


# --- what a rule may ask for at the end of an epoch


class Asking(BPTT):
    """Calls a function at the end of an epoch."""

    def __init__(self, ask, epoch: int = 0):
        super().__init__()
        self.ask, self.epoch = ask, epoch

    def epoch_end(self, learner, metrics):
        if metrics["epoch"] == self.epoch:
            self.ask(learner)
            metrics["rule/asked"] = 1.0


def test_what_a_rule_adds_stands_in_the_row():
    data, learner = made()
    learner.rule = Asking(lambda learner: None)
    fit(learner, data)
    assert [row.get("rule/asked") for row in learner.history] == [1, None]


def test_a_training_batch_is_the_first_of_the_epoch_and_nothing_notices():
    weights, seen = [], []
    for ask in (lambda learner: None, lambda learner: seen.append(learner.training_batch())):
        data, learner = made()
        learner.rule = Asking(ask, epoch=1)
        fit(learner, data, max_epochs=3)
        weights.append(torch.cat([p.detach().flatten() for p in learner.net.parameters()]))
    assert torch.equal(*weights)
    ((x, y),) = seen
    order = data.loader("train").sampler
    order.set_epoch(1)
    raw, labels = data.samples["train"][next(iter(order))]
    assert torch.equal(x, learner.prepare(raw, train=False)) and torch.equal(y, labels)
    assert len(x) == 100


@pytest.mark.parametrize("words", [("scheduler=cosine",), ("scheduler=one_cycle",)])
def test_a_fresh_optimizer_has_its_rate_and_a_schedule_over_the_rest(monkeypatch, words):
    data, learner = made("optimizer=sgd", "optimizer.lr=0.5", *words)
    kept = {name: p for name, p in learner.net.named_parameters() if name.startswith("head")}
    learner.rule = Asking(lambda learner: learner.reset_optimizer(list(kept.values()), 0.25))
    before: dict[str, torch.Tensor] = {}
    learner.rule.constrain = lambda net: (  # the weights after the last step of the first epoch
        before.update({n: p.clone() for n, p in net.named_parameters()})
        if learner.current_epoch == 0
        else None
    )
    seen = rates(learner, data, monkeypatch, max_epochs=3)
    moved = {n for n, p in learner.net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(kept)
    if words == ("scheduler=cosine",):
        assert seen[3:] == pytest.approx([0.25] * 3 + [0.125] * 3)
        assert learner.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0)
    assert learner.schedule is not None
    assert learner.schedule.last_epoch == (2 if learner.interval == "epoch" else 6)


# --- a loss that is not a number


def test_the_first_layer_that_is_not_finite_is_named():
    data, learner = made("model.spec=8-9")
    learner.net.head.synapse.weight.data[0, 0] = float("nan")
    with pytest.raises(NotFinite) as error:
        fit(learner, data)
    assert str(error.value) == (
        "The loss is nan at epoch 0, step 0. The first layer whose output is not finite is"
        " head.synapse; its weight is not finite: a step was too long."
        " Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or trainer.precision=32."
    )


def test_a_weight_that_is_not_finite_and_hides_behind_spikes():
    data, learner = made("model.spec=8-9")
    learner.net.body[1].synapse.weight.data[0, 0] = float("inf")
    with pytest.raises(NotFinite) as error:
        fit(learner, data)
    assert str(error.value) == (
        "body.0.synapse.weight is not finite after epoch 0, step 3, though the loss is: a step was"
        " too long. Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or"
        " trainer.precision=32."
    )
    assert learner.history == []


def test_a_loss_that_is_not_finite_by_itself():
    data, learner = made()
    learner.criterion.forward = lambda out, y, readout: out.sum() * float("inf")  # pyright: ignore
    with pytest.raises(NotFinite, match=r"though every layer's output is finite: look at the loss"):
        fit(learner, data)


# --- two processes

# spikes that take a step from layer to layer need more than two, and drawn ones would differ between processes
FOR_TWO = {
    "st_rsbp": ("dataset.steps=30", "encoder=integrate", "neuron.threshold=1", "optimizer.lr=1e-3")
}


def weights_after(rule: str, by_hand: bool, size: int, steps: int, **options: Any) -> torch.Tensor:
    """The weights after some steps of SGD with rate 1: with one step, the start minus the gradient."""
    words = [f"rule={rule}", "norm=none", f"dataset.batch_size={size}", "dataset.val_size=0"]
    more = ["optimizer=sgd", "optimizer.lr=1.0", "optimizer.momentum=0.0", "scheduler=constant"]
    data, learner = made(*words, *more, *FOR_TWO.get(rule, ()))
    if by_hand:
        learner.rule = ByHand()
    fit(learner, data, limit_train_batches=steps, limit_val_batches=0, max_epochs=1, **options)
    assert learner.history == [] or learner.history[0]["samples"] == 40 * steps
    return torch.cat([p.detach().flatten() for p in learner.net.parameters()])


def after_freezing(size: int, **options: Any) -> torch.Tensor:
    """The weights after an epoch of three steps, and another in which only the head is trained."""
    words = ("norm=none", f"dataset.batch_size={size}", "dataset.val_size=0", "optimizer=sgd")
    data, learner = made(*words, "optimizer.lr=0.1", "scheduler=constant")

    def freeze(learner):
        learner.net.body.requires_grad_(False)
        learner.reset_optimizer(list(learner.net.head.parameters()), 0.1)

    learner.rule = Asking(freeze)
    fit(learner, data, limit_val_batches=0, **options)
    return torch.cat([p.detach().flatten() for p in learner.net.parameters()])


def one_rank(jobs: list[tuple[str, bool, int]], rank: int, port: int, results: Any) -> None:
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "NODE_RANK": "0"}
    torch.set_num_threads(1)
    for number, (rule, by_hand, steps) in enumerate(jobs):
        os.environ |= {"MASTER_PORT": str(port + number), "LOCAL_RANK": str(rank)}
        weights = weights_after(rule, by_hand, 20, steps, devices=2, strategy="ddp")
        torch.distributed.destroy_process_group()
        results.put((rank, number, weights.numpy().tobytes()))
    os.environ |= {"MASTER_PORT": str(port + len(jobs)), "LOCAL_RANK": str(rank)}
    weights = after_freezing(20, devices=2, strategy="ddp")
    torch.distributed.destroy_process_group()
    results.put((rank, len(jobs), weights.numpy().tobytes()))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_make_the_gradients_of_one():
    """Every rule on a net without batch norm, one that writes its gradients by hand, and one that freezes a layer."""
    jobs = [(rule, False, 3) for rule in CHOICES.options("rule")] + [("bptt", True, 1)]
    context = multiprocessing.get_context("spawn")
    results: Any = context.SimpleQueue()
    port = free_port()
    ranks = [context.Process(target=one_rank, args=(jobs, r, port, results)) for r in (0, 1)]
    for process in ranks:
        process.start()
    got, end = {}, time.monotonic() + 240
    while any(process.is_alive() for process in ranks) and time.monotonic() < end:
        for process in ranks:
            process.join(0.1)
        while not results.empty():  # a full pipe would stop them
            rank, number, weights = results.get()
            got[rank, number] = torch.frombuffer(bytearray(weights), dtype=torch.float32)
    assert [process.exitcode for process in ranks] == [0, 0]
    while not results.empty():
        rank, number, weights = results.get()
        got[rank, number] = torch.frombuffer(bytearray(weights), dtype=torch.float32)
    for number, (rule, by_hand, steps) in enumerate(jobs):
        alone = weights_after(rule, by_hand, 40, steps)
        assert torch.equal(got[0, number], got[1, number]), rule
        torch.testing.assert_close(got[0, number], alone, rtol=1e-5, atol=1e-6, msg=rule)
    assert torch.equal(got[0, len(jobs)], got[1, len(jobs)])
    torch.testing.assert_close(got[0, len(jobs)], after_freezing(40), rtol=1e-5, atol=1e-6)
