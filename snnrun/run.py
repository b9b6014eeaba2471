"""A training run from configuration to result, read top to bottom."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import WeightAveraging
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from snnrun import result
from snnrun.allocator import keep_freed_memory
from snnrun.callback import (
    AtomicCheckpointIO,
    Bar,
    MovingAverage,
    Report,
    StopSafely,
    checkpoints,
)
from snnrun.checkpoint import (
    BEST,
    LAST,
    DamagedCheckpoint,
    Format,
    WrongCheckpoint,
    load_state,
    load_weights,
    read,
    recover,
    weights,
)
from snnrun.config import FILLED, BadRequest, Factory, factory, instantiate
from snnrun.dataset.base import DataModule
from snnrun.learner import Learner
from snnrun.logger import CSV, TensorBoard, WandB
from snnrun.model.layers import layers
from snnrun.neuron import Neuron
from snnrun.neuron.kernel import choose
from snnrun.ranks import OURS
from snnrun.rule import Rule
from snnrun.snapshot import snapshot
from snnrun.whole import whole

log = logging.getLogger("snnrun")

ONLY_LAST = (
    "The network of the last epoch is whole: snnrun eval {folder} ckpt=last. That of the best epoch has to be trained"
    " again: snnrun rerun {folder}"
)


@dataclass
class Run:
    """One run: its configuration, its directory, and the options that were chosen."""

    cfg: DictConfig
    folder: Path
    parts: dict[str, Any]
    overrides: list[str]

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"


def build(cfg: DictConfig) -> tuple[DataModule, Learner]:
    """The data and the learner of a configuration. Raises `BadRequest` if a part refuses its arguments."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    data: DataModule = instantiate(cfg.dataset)
    data.seed = cfg.seed
    data.test_every_epoch = bool(cfg.get("test_every_epoch"))
    static = "static" in data.traits
    readout = instantiate(
        cfg.readout, neuron=factory(cfg.readout.neuron), norm=factory(cfg.readout.norm)
    )
    rule = instantiate(cfg.rule)
    rule.decay_weights_only = bool(cfg.get("decay_weights_only"))
    if data.test_every_epoch and type(rule).deploy is not Rule.deploy:
        raise BadRequest(
            "test_every_epoch=true scores the network that is being trained, but this rule tests another one (deploy)."
        )
    net = instantiate(
        cfg.model,
        neuron=factory(cfg.neuron),
        norm=factory(cfg.norm),
        head=readout.head,
        in_shape=data.shape,
        num_classes=data.num_classes,
    )
    try:
        net = rule.adapt(net)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    if cfg.channels_last:
        net = net.to(
            memory_format=torch.channels_last
        )  # convolutions pass it on to all that follows
    for module in net.modules():
        if isinstance(module, Neuron):
            module.kernel = choose(rule.kernel(module), cfg.kernel)
    for _, layer in layers(net):
        layer.recompute = bool(cfg.get("recompute"))
        layer.event_inputs = bool(cfg.get("event_inputs"))
        layer.fold_norm = bool(cfg.get("fold_norm"))
    if cfg.get("compile"):
        net.compile()  # keys of the state stay what they are, unlike under torch.compile(net)
    learner = Learner(
        net=net,
        encoder=instantiate(cfg.encoder, static=static),
        readout=readout,
        criterion=instantiate(cfg.loss),
        rule=rule,
        task=instantiate(cfg.task),
        transform=data.transform,
        static=static,
        num_classes=data.num_classes,
        validates=data.validates,
        optimizer=Factory(cfg.optimizer, ("params",)),
        scheduler=schedule(cfg.scheduler) if cfg.scheduler._target_ else None,
        interval=cfg.scheduler.interval,
    )
    for part in (net, rule, learner.encoder, readout, learner.criterion):
        if validate := getattr(part, "validate", None):
            try:
                validate(data.shape, data.steps)
            except ValueError as error:
                raise BadRequest(str(error)) from error
    return data, learner


@dataclass(frozen=True)
class schedule:
    """A factory of schedulers: settings left at null that mean the length of the run are filled in."""

    cfg: DictConfig

    def __call__(self, optimizer: torch.optim.Optimizer, intervals: int) -> Any:
        """The scheduler of an optimiser over a number of intervals."""
        cfg = OmegaConf.create({k: self.cfg[k] for k in self.cfg if k != "interval"})
        for name in FILLED:
            if name in cfg and cfg[name] is None:
                cfg[name] = intervals
        return instantiate(cfg, optimizer=optimizer)


def make_trainer(run: Run, learner: Learner, data: DataModule, *, bar: bool) -> Trainer:
    """The trainer of a run: checkpoints, messages, loggers, and what the user configured."""
    cfg, task = run.cfg, learner.task
    kept = cfg.keep_memory and keep_freed_memory()
    log.debug("memory that is freed is %s", "kept" if kept else "handed back")
    if not torch.cuda.is_available():  # or every step of an optimiser looks for NVIDIA's library
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    monitor = task.monitor if data.validates else None
    callbacks = [
        Report(cfg.trainer.max_epochs),
        *([WeightAveraging(multi_avg_fn=moving_average(cfg.ema))] if cfg.ema else []),
        *([Bar(leave=False)] if bar else []),
        *(instantiate(c) for c in (cfg.get("callbacks") or {}).values()),
        StopSafely(run.checkpoints),  # behind all whose state its checkpoint holds
        *checkpoints(run.checkpoints, monitor, task.mode),
    ]
    return instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=[instantiate(c) for c in (cfg.get("logger") or {}).values()],
        plugins=[AtomicCheckpointIO(), *([LightningEnvironment()] if OURS in os.environ else [])],
        default_root_dir=str(run.folder),
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        **({} if data.validates or data.test_every_epoch else {"limit_val_batches": 0}),
    )


def moving_average(decay: float) -> MovingAverage:
    """The average that `ema` asks for. Raises `BadRequest`."""
    try:
        return MovingAverage(decay)
    except ValueError as error:
        raise BadRequest(str(error)) from error


def train(run: Run, *, bar: bool, resume: bool = False) -> dict[str, Any]:
    """Train, validate, test; returns what `result.json` says.

    **Arguments:**

    - `run`: what to run and where.
    - `bar`: show a progress bar.
    - `resume`: go on from the last checkpoint, if there is one.
    """
    started = time.perf_counter()
    data, learner = build(run.cfg)
    trainer = make_trainer(run, learner, data, bar=bar)

    def begin() -> tuple[Path, Path | None, int]:
        for part in run.folder.rglob(".*.part"):  # of a killed process
            part.unlink()
        start, step = (resume and recover(run.checkpoints)) or (None, -1)
        return run.folder, start, step

    run.folder, start, step = agreed(trainer, begin)
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, StopSafely):
            callback.folder = run.checkpoints
    rewind(trainer, step)
    if run.cfg.get("start") and not start:
        begin_with(learner, Path(run.cfg.start).expanduser())
    if trainer.is_global_zero:
        for line in result.header(run, data, learner, trainer):
            log.info(line)
    learner.began = started
    for logger in trainer.loggers:
        logger.log_hyperparams(hyperparameters(run))
    trainer.fit(
        learner, datamodule=data, ckpt_path=str(start) if start else None, weights_only=True
    )
    fitted = time.perf_counter()
    last = run.checkpoints / LAST
    if run.cfg.test and last.exists():  # of averaged weights the average, trained or not
        load(learner, last)

    chosen = run.checkpoints / BEST
    eligible = learner.history[learner.chosen_from :]
    chooses = data.validates and any(learner.task.monitor in row for row in eligible)
    try:
        best = read(chosen) if chooses else None
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"{error} {ONLY_LAST.format(folder=run.folder)}") from error
    picture = run.folder / "snapshot.npz"
    tests = {}
    if run.cfg.test:
        same = best is None or best["global_step"] == trainer.global_step
        tests["last"] = test(trainer, learner, data, picture if same else None)
    if run.cfg.test and best:
        load(learner, chosen)
        tests["best_val"] = tests["last"] if same else test(trainer, learner, data, picture)
    if not trainer.is_global_zero:
        return {}
    row = best["snnrun"]["history"][-1] if best else None  # of the very weights that were tested
    seconds = {"fit": fitted - learner.began, "test": time.perf_counter() - fitted}
    outcome = result.completed(run, data, learner, trainer, row, tests, seconds)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoard | WandB):
            logger.log_result(outcome)
    return outcome


def hyperparameters(run: Run) -> dict[str, Any]:
    """The configuration as loggers show it: the chosen parts, and all settings but those of places."""
    content = OmegaConf.to_container(run.cfg, resolve=True)
    assert isinstance(content, dict)
    told = {str(k): v for k, v in content.items() if k not in ("paths", "logger", "callbacks")}
    return {"parts": run.parts, **told}


def agreed(trainer: Trainer, say: Callable[[], Any]) -> Any:
    """What the first process of a run says."""
    if trainer.world_size == 1:
        return say()
    trainer.strategy.setup_environment()
    return trainer.strategy.broadcast(say() if trainer.is_global_zero else None)


def evaluate(run: Run, checkpoint: Path, fmt: Format = "auto", *, bar: bool) -> dict[str, Any]:
    """Test the weights of a file; returns metrics, firing rates and operations.

    **Arguments:**

    - `run`: what is built, of which the file is a checkpoint or not.
    - `checkpoint`: the file.
    - `fmt`: whose names the weights have; `auto` looks.
    - `bar`: show a progress bar.
    """
    data, learner = build(run.cfg)
    run.cfg.logger = {}
    run.cfg.trainer.update({"devices": 1, "num_nodes": 1, "strategy": "auto"})
    trainer = make_trainer(run, learner, data, bar=bar)
    found = load(learner, checkpoint, fmt)
    data.prepare_data()
    data.setup()
    metrics = test(trainer, learner, data)
    return {
        "checkpoint": str(checkpoint),
        "format": found,
        "metrics": metrics,
        **result.activity(learner),
    }


def load(learner: Learner, checkpoint: Path, fmt: Format = "auto") -> str:
    """Put the weights of a file into a learner, and return whose names they had. Nothing in the file is executed.

    **Arguments:**

    - `learner`: of a run's own checkpoint it gets everything, of another file the weights of its network.
    - `checkpoint`: the file.
    - `fmt`: whose names the weights have; `auto` looks.

    Raises `WrongCheckpoint` if the file is of another architecture or no checkpoint, `DamagedCheckpoint`.
    """
    content = read(checkpoint)
    if "snnrun" not in content or fmt not in ("auto", "snnrun"):
        return load_weights(learner.net, weights(content, checkpoint), fmt, checkpoint)
    learner.rule.prepare_load(learner.net, content)
    load_state(learner, content["state_dict"], checkpoint, "a checkpoint of a run")
    return "snnrun"


def begin_with(learner: Learner, start: Path) -> None:
    """Put the weights of a checkpoint, or of the best one in a run's directory, into the network that is trained.

    Raises `BadRequest` if there is none or if it is of another architecture, `DamagedCheckpoint`.
    """
    if start.is_dir():
        found = [start / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        start = next((file for file in found if file.exists()), found[-1])
    try:
        load_weights(learner.net, weights(read(start), start), "auto", start)
    except WrongCheckpoint as error:
        raise BadRequest(f"start={start}: {error}") from error


def test(
    trainer: Trainer, learner: Learner, data: DataModule, picture: Path | None = None
) -> dict[str, float]:
    """Scores on the test split, of the network that the rule deploys; where an ANN stands beside it, also of that.

    Random numbers begin with the run's seed, so that a test does not hang on what was drawn before it.

    **Arguments:**

    - `trainer`, `learner`, `data`: the parts of a run.
    - `picture`: where a snapshot of the tested network is left; None for none.
    """
    trained, beside = learner.net, {}

    def calibration() -> Iterator[Tensor]:
        return (learner.prepare(x, train=False) for x, _, _ in data.loader("train"))

    encoded = (learner.encoder(x.to(learner.device)) for x in calibration())
    seed_everything(data.seed, workers=True, verbose=False)
    try:
        if ann := learner.rule.ann(trained, encoded):
            learner.exchange(ann)
            trainer.test(learner, datamodule=data, verbose=False)
            if learner.scores:
                beside["test/acc_ann"] = learner.scores["test/acc"]
        # last: what is read afterwards is of this one
        learner.exchange(learner.rule.deploy(trained, calibration()))
        trainer.test(learner, datamodule=data, verbose=False)
        if picture and trainer.is_global_zero:
            with whole(picture, mode="wb") as file:
                np.savez_compressed(file, **snapshot(learner, data))  # pyright: ignore[reportArgumentType]
        return {**learner.scores, **beside}
    finally:
        learner.net = trained


def rewind(trainer: Trainer, step: int) -> None:
    """Take rows off the metrics file that lie beyond the step that training starts from."""
    for logger in trainer.loggers:
        if isinstance(logger, CSV):
            logger.truncate(step)


def quiet() -> None:
    """Silence what a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in (
        r".*does not have many workers.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*The `srun` command is available.*",
        r".*is smaller than the logging interval.*",
        r".*in eval mode at the start of training.*",  # layers that a rule has frozen
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # what is logged is summed already
    ):
        warnings.filterwarnings("ignore", message=message)
