"""The only LightningModule: it feeds batches to a network, lets the rule make gradients, and scores."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from snnrun.checkpoint import read
from snnrun.finite import NotFinite, check_weights, traced
from snnrun.metric import Activity, Tally
from snnrun.rule import Rule
from snnrun.seed import random_states, restore
from snnrun.task import Classification


def joined(parts: list[Tensor]) -> Tensor:
    """The chunks of a sequence as one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A tensor in the memory order of another one of its shape; itself, if it is."""
    if value.stride() == like.stride():
        return value
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


class Learner(LightningModule):
    """Assembles encoder, network, readout, loss and rule, and is trained by Lightning.

    **Arguments:**

    - `net`: the network, `(T, B, ...)` to `(T, B, num_classes)`.
    - `encoder`: a prepared batch to `(T, B, ...)`.
    - `readout`: `(T, B, num_classes)` to `(B, num_classes)`.
    - `criterion`: the loss of an output sequence.
    - `rule`: how gradients arise.
    - `task`: what is scored and monitored.
    - `transform`: a raw batch to floats, normalised, augmented in training.
    - `static`: whether batches lack a time axis.
    - `num_classes`: number of classes.
    - `validates`: whether there are validation data; without, the last training batch of an epoch shows firing rates.
    - `optimizer`: factory, from parameters.
    - `scheduler`: factory, from the optimiser and the number of intervals; None for a constant rate.
    - `interval`: `step` or `epoch`: when the scheduler advances.
    """

    def __init__(
        self,
        *,
        net: nn.Module,
        encoder: nn.Module,
        readout: nn.Module,
        criterion: nn.Module,
        rule: Rule,
        task: Classification,
        transform: Callable[[Tensor, bool], Tensor],
        static: bool,
        num_classes: int,
        validates: bool = True,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        interval: str = "step",
    ):
        super().__init__()
        self.net, self.encoder, self.readout, self.criterion = net, encoder, readout, criterion
        self.rule, self.task, self.transform, self.static = rule, task, transform, static
        self.num_classes, self.validates = num_classes, validates
        # before a rule's schedule freezes any
        self.trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
        self.sums = getattr(
            criterion, "sums", False
        )  # the loss is a sum over the batch, not a mean
        self.make_optimizer, self.make_scheduler, self.interval = optimizer, scheduler, interval
        self.activity = Activity(net)
        self.output_rate: float | None = None  # spikes of a firing head in the first batch of all
        self.watching = False  # count spikes and operations in forward
        self.tally = task.tally(num_classes)
        self.random: dict[str, Any] | None = None  # states from before the test split of an epoch
        self.predicted: list[Tensor] = []  # labels and predictions of the test batches
        self.scores: dict[str, float] = {}  # of the last validation or test
        self.right: Tensor | None = None  # test samples that are right after each step
        self.accuracy_by_step: list[float] = []  # of the last test, in percent
        self.history: list[dict[str, float]] = []  # a row an epoch
        self.chosen_from = 0  # the first epoch that may be chosen as the best
        self.resumed: dict[str, Any] | None = None
        self.resumed_epochs = 0
        self.schedule: LRScheduler | None = None
        self.began = time.perf_counter()  # of the run, as if it never had been stopped
        self.started = 0.0  # of the running epoch
        self.samples = 0  # that the running epoch has trained on
        self.places: Tensor | None = None  # of the running batch in the training data

    def __setattr__(self, name: str, value: Any) -> None:
        """Set plain values past `nn.Module`, which looks at their kind five times; Lightning sets two at every hook."""
        if name in self.__dict__ and isinstance(value, str | int | float | None):
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def exchange(self, net: nn.Module) -> None:
        """Put another network in the place of the trained one, and count its activity."""
        if net is not self.net:
            self.net, self.activity = net, Activity(net)

    # --- one batch

    def prepare(self, x: Tensor, train: bool) -> Tensor:
        """A raw batch as the encoder takes it: transformed, and time first."""
        x = self.transform(x, train)
        return x if self.static else x.transpose(0, 1).contiguous()

    def forward(self, x: Tensor, chunk: int = 0) -> Tensor:
        """A prepared batch to `(T, B, num_classes)`; inside `carry` in chunks of so many steps, 0 for the whole."""
        encoded = self.encoder(x)
        chunks = encoded.split(chunk) if chunk else [encoded]
        if not self.watching:
            return joined([self.net(part) for part in chunks])
        kinds = getattr(self.encoder, "traits", frozenset())
        current = self.static and not kinds & {"input_spikes", "input_times"}
        tau_s: Any = self.encoder.tau_s if "input_trace" in kinds else None
        times = "input_times" in kinds
        with self.activity.watch(encoded, current=current, tau_s=tau_s, times=times):
            # not as compiled: that would not know of the hooks
            return joined([self.net.forward(part) for part in chunks])

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        """The criterion of an output sequence, counted towards loss and accuracy."""
        loss = self.criterion(out, y, readout=self.readout)
        told = loss / len(y) if self.sums else loss
        self.tally.update(told, self.readout(out.detach()), y)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """The rule's loss of a batch. Raises `NotFinite`."""
        x, y, self.places = batch
        self.samples += len(y)
        x = self.prepare(x, train=True)
        last = not self.validates and batch_idx + 1 == self.trainer.num_training_batches
        first = self.global_step == batch_idx == 0 and self.activity.output is not None
        if first or last:
            self.activity.reset()
            self.watching = True
        loss = self.rule.loss(self, x, y)
        self.watching = False
        if first:
            self.output_rate = self.activity.rates().get(str(self.activity.output))
            if not last:
                self.activity.reset()
        if not torch.isfinite(loss):
            raise self.not_finite(loss, x)
        if self.sums:  # processes and accumulated batches average their gradients
            return loss * (self.trainer.world_size * self.trainer.accumulate_grad_batches)
        return loss

    def not_finite(self, loss: Tensor, x: Tensor) -> NotFinite:
        """What is wrong where a prepared batch gives a loss that is not finite."""
        times = "input_times" in getattr(self.encoder, "traits", ())
        return traced(self.net, lambda: self(x), loss.item(), f"at {self._now()}", times=times)

    def _now(self) -> str:
        return f"epoch {self.current_epoch}, step {self.global_step}"

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning calls this with the scaled loss; the rule decides."""
        self.rule.backward(self, loss)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, project the weights, advance the schedule."""
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            self.rule.constrain(self.net)
        if self.schedule and self.interval == "step":
            self.schedule.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Lay gradients and moments out as their weights are: a fused optimiser takes it for granted."""
        for group in optimizer.param_groups:
            for p in group["params"] if group.get("fused") else ():
                if p.grad is not None:
                    p.grad = laid_out(p.grad, p)
                state = optimizer.state.get(p, {})
                for name, value in state.items():
                    if isinstance(value, Tensor) and value.shape == p.shape:
                        state[name] = laid_out(value, p)

    def sync_gradients(self) -> None:
        """Average `p.grad` over all processes."""
        if self._trainer is not None and self.trainer.world_size > 1:
            for p in self.net.parameters():
                if p.grad is not None:
                    p.grad.copy_(self.trainer.strategy.reduce(p.grad, reduce_op="mean"))

    def _evaluate(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, y, _ = batch
        self.watching = True
        out = self(self.prepare(x, train=False))
        self.watching = False
        self.score(out, y)
        return out

    def validation_step(
        self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score a validation batch; or, behind them all, a test batch of `test_every_epoch`."""
        if self.validates and dataloader_idx == 0:
            self._evaluate(batch)
            return
        if batch_idx == 0:
            self.val_tally, self.tally = self.tally, self.task.tally(self.num_classes)
            self.random = random_states()
        x, y, _ = batch
        self.score(self(self.prepare(x, train=False)), y)

    def test_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Score a test batch and keep what was predicted."""
        out = self._evaluate(batch)
        self.predicted.append(torch.stack([batch[1], self.readout(out).argmax(1)]).cpu())
        running = self.readout.running(out)  # pyright: ignore[reportCallIssue]
        right = (self.tally.place(running, batch[1]) == 0).sum(1)
        self.right = right if self.right is None else self.right + right

    # --- epochs

    def on_train_epoch_start(self) -> None:
        """Start the clock; what was scored in the epoch before is not of this one."""
        self.started = time.perf_counter()
        self.scores = {}
        self.activity.reset()

    def on_validation_epoch_start(self) -> None:
        """Set the training counts aside."""
        self.train_tally, self.tally = self.tally, self.task.tally(self.num_classes)
        if self.validates:
            self.activity.reset()

    def on_validation_epoch_end(self) -> None:
        """Read the validation counts and take the training counts up again."""
        if self.random is None:
            self.scores = self._read(self.tally, "val")
        else:  # training goes on as if nobody had looked at the test split
            self.scores = {**self._read(self.val_tally, "val"), **self._read(self.tally, "test")}
            restore(self.random)
            self.random = None
        self.tally = self.train_tally
        if self.validates:
            self._gather_activity()

    def on_test_epoch_start(self) -> None:
        """Count from zero."""
        self.predicted, self.right = [], None
        self.tally = self.task.tally(self.num_classes)
        self.activity.reset()

    def on_test_epoch_end(self) -> None:
        """Read the test counts."""
        self.scores = self._read(self.tally, "test")
        self.accuracy_by_step = []
        if self.tally.sums is not None and self.right is not None:
            right = 100 * self.over_ranks(self.right).double() / self.tally.sums[0].item()
            self.accuracy_by_step = [round(acc, 4) for acc in right.tolist()]
        self._gather_activity()
        self._gather_predicted()

    def on_train_epoch_end(self) -> None:
        """Write the epoch's row, before any checkpoint of it, and make the monitored metric known.

        Raises `NotFinite`.
        """
        check_weights(self.net, f"after {self._now()}")
        if not self.validates:
            self._gather_activity()
        rate = self.activity.rate()
        row = {
            "epoch": self.current_epoch,
            "samples": self.over_ranks(torch.tensor(self.samples)).item(),
            **self._read(self.tally, "train"),
            **self.scores,
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self.started,
            **({} if rate is None else {"spikes/rate": rate}),
            **{f"spikes/rate/{name}": value for name, value in self.activity.rates().items()},
            **{f"spikes/silent/{name}": value for name, value in self.activity.silent().items()},
        }
        self.history.append(row)
        for name in (self.task.monitor, "train/acc", "train/loss", "val/acc", "val/loss"):
            if name in row:
                self.log(name, row[name], logger=False, batch_size=1)
        if self.schedule and self.interval == "epoch":
            self.schedule.step()
        self.rule.epoch_end(self, row)
        for logger in self.trainer.loggers:
            logger.log_metrics(row, step=self.global_step)
        self.tally, self.samples = self.task.tally(self.num_classes), 0
        self.started = time.perf_counter()

    def _read(self, tally: Tally, split: str) -> dict[str, float]:
        if tally.sums is not None:
            tally.sums = self.over_ranks(tally.sums)
        return {f"{split}/{name}": value for name, value in tally.compute().items()}

    def over_ranks(self, count: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        """The sum or the maximum of a count over all processes."""
        if self._trainer is None or self.trainer.world_size == 1:
            return count
        return self.trainer.strategy.reduce(count.to(self.device), reduce_op=how)  # pyright: ignore[reportReturnType, reportArgumentType]

    def _gather_activity(self) -> None:
        if self.trainer.world_size > 1:
            self.activity.add_up(self.over_ranks)

    def _gather_predicted(self) -> None:
        """Put the predictions of all processes into the order of the test split, of which each has had every n-th."""
        count = self.trainer.world_size
        if count == 1 or not self.predicted:
            return
        parts: list[Any] = [None] * count
        distributed.all_gather_object(parts, torch.cat(self.predicted, 1))
        whole = torch.empty(2, sum(part.shape[1] for part in parts), dtype=parts[0].dtype)
        for rank, part in enumerate(parts):
            whole[:, rank::count] = part
        self.predicted = [whole]

    # --- optimiser

    def configure_optimizers(self) -> Optimizer:
        """The configured optimiser; its schedule is advanced and saved here, so that no step is lost on `resume`."""
        optimizer = self._optimizer(self.rule.param_groups(self.net))
        self._schedule(optimizer, 0, 0)
        if self.schedule and self.resumed:
            self.schedule.load_state_dict(self.resumed["schedule"])
        return optimizer

    def _optimizer(self, params: Iterable[Any]) -> Optimizer:
        optimizer = self.make_optimizer(params)
        # a fused one would take the scale of float16 off its gradients itself: too late to clip them
        optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue]
        return optimizer

    def _schedule(self, optimizer: Optimizer, steps: int, epochs: int) -> None:
        """A schedule over what is left of the run after so many steps and epochs."""
        if self.make_scheduler:
            intervals = (
                self.trainer.estimated_stepping_batches - steps
                if self.interval == "step"
                else (self.trainer.max_epochs or 1) - epochs
            )
            self.schedule = self.make_scheduler(optimizer, max(1, int(intervals)))

    # --- what a rule may ask for at the end of an epoch

    def training_batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """A batch of the running epoch, as one process would draw it: prepared, not augmented."""
        data = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        x, y = data.training_batch(self.current_epoch, number)
        return self.prepare(x.to(self.device), train=False), y.to(self.device)

    def training_size(self) -> int:
        """How many samples the training data have, those kept for validation too."""
        return len(self.trainer.datamodule.samples["train"])  # pyright: ignore[reportAttributeAccessIssue]

    def load_best(self, *, restart: bool = False) -> None:
        """Take up the weights of the best epoch, if another one than this; without validation data nothing is best.

        With `restart` the network becomes another one, whose scores do not compare: the best epoch is chosen among
        those to come.
        """
        row, monitor = self.history[-1], self.task.monitor
        for best in self.trainer.checkpoint_callbacks:
            if not isinstance(best, ModelCheckpoint) or best.monitor is None or monitor not in row:
                continue
            if best.best_model_path and not best.check_monitor_top_k(
                self.trainer, torch.tensor(row[monitor], device=self.device)
            ):
                self.load_state_dict(read(Path(best.best_model_path))["state_dict"])
        if restart:
            self.chosen_from = self.current_epoch + 1

    def reset_optimizer(self, params: Iterable[Any], lr: float) -> None:
        """Replace the optimiser by a fresh one of `params` with this rate, and its schedule by one over the rest.

        An average of the weights begins anew, too.
        """
        optimizer = self._optimizer(params)
        for group in optimizer.param_groups:
            group["lr"] = lr
        strategy = self.trainer.strategy
        strategy.optimizers = [optimizer]
        self._schedule(optimizer, self.global_step, self.current_epoch + 1)
        if isinstance(strategy, DDPStrategy):  # waits for gradients of what it was made for
            strategy.model = self
            strategy.configure_ddp()
        for average in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(average, WeightAveraging) and average._average_model is not None:
                average._average_model.n_averaged.zero_()
                average._average_model.update_parameters(self)  # the first one copies

    # --- checkpoints: random states and the place in the epoch, so that a resumed run equals one never stopped

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add random states, the position in the epoch and the running counts."""
        sums = self.tally.sums
        checkpoint["snnrun"] = {
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "tally": None if sums is None else self.over_ranks(sums.clone()),
            "samples": int(self.over_ranks(torch.tensor(self.samples))),
            "seconds": time.perf_counter() - self.started,
            "elapsed": time.perf_counter() - self.began,
            "history": self.history,
            "chosen_from": self.chosen_from,
            "rule": dict(self.rule.progress),
            "random": random_states(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the rule rebuild the network for the weights; keep the rest for `on_train_start`."""
        self.rule.prepare_load(self.net, checkpoint)
        self.resumed = checkpoint["snnrun"]
        self.history = checkpoint["snnrun"]["history"]
        self.chosen_from = checkpoint["snnrun"].get("chosen_from", 0)
        self.resumed_epochs = len(self.history)
        self.began -= checkpoint["snnrun"].get("elapsed", 0.0)

    def on_train_start(self) -> None:
        """Let the rule begin; or restore random states and counts, after everything that draws random numbers."""
        self.started = time.perf_counter()
        if self.resumed is None:
            self.rule.begin(self)
            return
        state, self.resumed = self.resumed, None
        if self.trainer.is_global_zero:  # which counts for all
            self.tally.sums, self.samples = state["tally"], state["samples"]
        self.started -= state["seconds"]  # of the epoch that was stopped
        restore(state["random"])
