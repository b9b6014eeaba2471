"""What happens around training: checkpoints, interruption, messages."""

import logging
import signal
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from torch import Tensor

from snnrun.checkpoint import LAST, PREVIOUS
from snnrun.learner import Learner
from snnrun.whole import whole

log = logging.getLogger("snnrun")


class Interrupted(Exception):
    """The run was asked to stop; its last checkpoint holds everything up to here."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and keeps the one before the last."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write plain dicts and tensors to `path`. A `last.ckpt` that is there becomes `previous.ckpt`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        with whole(path, mode="wb", keep=keep) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; nothing in it is executed."""
        return torch.load(
            path, map_location=map_location or (lambda storage, loc: storage), weights_only=True
        )


def checkpoints(folder: Path, monitor: str | None, mode: str) -> list[Callback]:
    """`last.ckpt` after every epoch, and `best.ckpt` by the monitored metric (none without validation data)."""
    common: dict[str, Any] = {
        "dirpath": folder,
        "save_top_k": 1,
        "save_on_train_epoch_end": True,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
    }
    best = [Checkpoint(filename="best", monitor=monitor, mode=mode, **common)] if monitor else []
    return [*best, Checkpoint(filename="last", monitor=None, **common)]


class Checkpoint(ModelCheckpoint):
    """A checkpoint in the run's directory, wherever that is by now: Lightning forgets the best score of a moved run."""

    @cached_property
    def state_key(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What it is called in a checkpoint; Lightning asks at every hook of every batch."""
        return super().state_key

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, but not in an epoch that has no score (`trainer.check_val_every_n_epoch`)."""
        assert isinstance(pl_module, Learner)
        if self.monitor is None or self.monitor in pl_module.history[-1]:
            super().on_train_epoch_end(trainer, pl_module)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether this epoch is the best; never one whose network a rule has just made another one."""
        learner = trainer.lightning_module
        if isinstance(learner, Learner) and learner.chosen_from > trainer.current_epoch:
            self.best_k_models, self.best_model_score = {}, None
            self.best_model_path = self.kth_best_model_path = ""
            self.kth_value = self.current_score = None  # pyright: ignore[reportAttributeAccessIssue]
            return False
        return super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up scores and files, the latter in the folder that they are in now."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {
            "dirpath": self.dirpath,
            "best_k_models": {here(p): score for p, score in state_dict["best_k_models"].items()},
            **{name: here(state_dict[name]) for name in names},
        }
        super().load_state_dict({**state_dict, **moved})


class MovingAverage:
    r"""An exponential moving average whose decay grows to its value, so that it does not remember the start.

    $$\bar w \leftarrow d_n \bar w + (1 - d_n) w, \qquad d_n = \min(d, (1 + n) / (10 + n))$$

    **Arguments:**

    - `decay`: d. What is not real-valued, such as a mask, is taken as it is.
    """

    def __init__(self, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema must be 0 (off) or a decay between 0 and 1, got {decay}.")
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
        """Update the averages in place; `count` updates were made before."""
        n = int(count)
        decay = min(self.decay, (1 + n) / (10 + n))
        for average, current in zip(averages, currents, strict=True):
            if average.is_floating_point():
                average.lerp_(current, 1 - decay)
            else:
                average.copy_(current)


class StopSafely(Callback):
    """On Ctrl-C or SIGTERM, finish the batch, write `last.ckpt` and stop. A second Ctrl-C stops at once.

    SIGTERM is what a batch system sends some seconds before it kills. SIGUSR1 and SIGUSR2, which it can be told to send
    earlier, do the same.
    """

    def __init__(self, folder: Path):
        self.folder, self.asked = folder, False
        self.previous: dict[int, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember who listens to signals."""
        listened = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        self.previous = {number: signal.getsignal(number) for number in listened}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen, in the place of Lightning, which would end the run on SIGTERM without a checkpoint.

        On SIGUSR1 under Slurm it would submit the same line again, which is a new run.
        """
        for number in self.previous:
            signal.signal(number, self._ask)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen in a test, too; it is done again after a resume."""
        self.on_train_start(trainer, pl_module)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Stop in the middle of a test."""
        if self.asked:
            raise Interrupted

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
        print(
            "\nStopping after this batch; Ctrl-C again stops at once.", file=sys.stderr, flush=True
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop in the middle of an epoch, between two optimiser steps."""
        self.asked = agree(trainer, self.asked)
        accumulated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.asked and accumulated and batch_idx + 1 < trainer.num_training_batches:
            trainer.save_checkpoint(self.folder / LAST)
            raise Interrupted

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs; the last one has its checkpoint already."""
        if self.asked and (self.folder / LAST).exists():
            raise Interrupted

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}


def agree(trainer: Trainer, asked: bool) -> bool:
    """Whether any process of a run was asked: they stop together, for they wait for each other's gradients."""
    if getattr(trainer, "world_size", 1) == 1:
        return asked
    return trainer.strategy.reduce_boolean_decision(asked, all=False)


class Report(Callback):
    """One line an epoch, and a warning for layers that stay silent.

    **Arguments:**

    - `epochs`: planned number of epochs.
    """

    def __init__(self, epochs: int):
        self.epochs, self.told = epochs, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Epochs from before a resume were told then."""
        assert isinstance(pl_module, Learner)
        self.told = int(pl_module.resumed_epochs)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """How often the output fires before it is trained, where it does."""
        assert isinstance(pl_module, Learner)
        if batch_idx == 0 and self.told == 0 and pl_module.output_rate is not None:
            rate, pl_module.output_rate = pl_module.output_rate, None
            self._print(trainer, f"output fires {rate:.3f} times a neuron and step before training")
            if rate == 0 and (advice := pl_module.rule.wakes_output):
                self._print(trainer, silent_output(advice))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of the epoch before this one, whose row is complete now."""
        self._tell(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of the last epoch."""
        self._tell(trainer, pl_module)

    def _tell(self, trainer: Trainer, learner: LightningModule) -> None:
        assert isinstance(learner, Learner)
        for row in learner.history[self.told :]:
            self._print(trainer, epoch_line(row, self.epochs))
            silent = [
                name.split("/", 2)[2]
                for name, share in row.items()
                if name.startswith("spikes/silent/") and share == 1
            ]
            if silent and self.told == 0:
                self._print(trainer, silent_warning(silent, learner.rule.wakes))
                advice = learner.rule.wakes_output
                if advice and learner.activity.output in silent:
                    self._print(trainer, silent_output(advice))
            self.told += 1

    def _print(self, trainer: Trainer, line: str) -> None:
        bar = trainer.progress_bar_callback
        if not trainer.is_global_zero:
            return
        if bar is None:
            log.info(line)
            return
        bar.print(line)
        record = log.makeRecord(log.name, logging.INFO, __file__, 0, line, (), None)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handle(record)


class Bar(RichProgressBar):
    """A progress bar that counts epochs as the lines above it do, keeps these whole, and goes when it is done."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print a line above the bar; where it is too long, the terminal breaks it."""
        if self.progress is not None:
            self.progress.console.print(*args, soft_wrap=True, markup=False, highlight=False)

    def _init_progress(self, trainer: Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True

    def _get_train_description(self, current_epoch: int) -> str:
        words = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{words:{len(self.validation_description)}}"


def epoch_line(row: dict[str, float], epochs: int) -> str:
    """An epoch in one line."""
    parts = [f"epoch {int(row['epoch']) + 1:>{len(str(epochs))}}/{epochs}"]
    for split in ("train", "val", "test"):
        if f"{split}/loss" in row:
            parts.append(
                f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:6.2f} %"
            )
    if "rule/stage" in row:
        parts.append(f"stage {int(row['rule/stage'])}")
    if "spikes/rate" in row:
        parts.append(f"rate {row['spikes/rate']:.3f}")
    if "rule/backward_rate" in row:
        parts.append(f"backward {row['rule/backward_rate']:.3f}")
    return "  ".join([*parts, f"{row['seconds']:.1f} s"])


def silent_output(advice: str) -> str:
    """What to tell of a head whose neurons never fired."""
    return (
        "warning: the output does not fire, and may stay silent: no error may reach it there."
        f" Try {advice}."
    )


def silent_warning(names: list[str], advice: str) -> str:
    """What to tell of layers that never fired."""
    layers, verb = ("layer ", "has") if len(names) == 1 else ("layers ", "have")
    return f"warning: {layers}{', '.join(names)} {verb} not fired once in the first epoch. Try {advice}."
