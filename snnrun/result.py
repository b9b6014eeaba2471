"""What a run leaves behind: header, footer and `result.json`."""

import json
import math
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer

from snnrun.dataset.base import DataModule
from snnrun.learner import Learner
from snnrun.whole import whole

if TYPE_CHECKING:
    from snnrun.run import Run

PARTS = (
    "model",
    "neuron",
    "surrogate",
    "rule",
    "encoder",
    "norm",
    "loss",
    "readout",
    "optimizer",
    "scheduler",
    "dataset",
)
PACKAGES = (
    "snnrun",
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "tonic",
    "numpy",
    "scikit-learn",
)


def header(run: "Run", data: DataModule, learner: Learner, trainer: Trainer) -> list[str]:
    """Parts, parameters, what the model says of itself, T and batch, device and precision, run directory, seed."""
    device = trainer.strategy.root_device
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else "1 thread"
        if torch.get_num_threads() == 1
        else f"{torch.get_num_threads()} threads"
    )
    shape = "x".join(map(str, data.shape))
    describe = getattr(learner.net, "describe", None)
    return [
        "parts       "
        + "  ".join(f"{group}={run.parts[group]}" for group in PARTS if run.parts.get(group)),
        f"parameters  {learner.trainable:,}",
        *([f"model       {describe()}"] if describe else []),
        f"input       {shape}, T = {data.steps}, batch {data.batch_size}, {data.num_classes} classes",
        f"device      {device.type} ({name}), precision {trainer.precision}",
        f"directory   {run.folder}",
        f"seed        {run.cfg.seed}",
    ]


def footer(outcome: dict[str, Any], folder: Path) -> list[str]:
    """Accuracies, time, firing and operations, the directory and two commands to go on with."""
    best, last = outcome["selection"]["best_val"], outcome["selection"]["last"]
    lines = []
    if best:
        lines.append(
            f"best        {scores(best)}   (epoch {best['epoch']}, chosen on validation data)"
        )
    lines.append(f"last        {scores(last)}   (epoch {last['epoch']})")
    if best_test := outcome["selection"]["best_test"]:
        lines.append(
            f"best test   {scores(best_test)}   (epoch {best_test['epoch']}, chosen on test data:"
            " only to compare with numbers that were published so)"
        )
    seconds = outcome["seconds"]
    lines.append(
        f"time        {seconds['fit']:.1f} s training, {seconds['test']:.1f} s test,"
        f" {outcome['samples_per_second']:,.0f} samples/s"
    )
    spikes, ops = outcome["spikes"], outcome["ops"]
    if spikes["rate"] is not None:
        silent = max(spikes["silent"].values(), default=0)
        lines.append(
            f"firing      {spikes['rate']:.4f} spikes a neuron and step, at most {100 * silent:.0f} % of a layer silent"
        )
    if ops:
        lines.append(
            f"operations  {ops['ac']:,} accumulates + {ops['mac']:,} multiply-accumulates a sample,"
            f" {ops['energy_nj']:,} nJ"
            f"   (ANN: {ops['ann_mac']:,} multiply-accumulates, {ops['ann_energy_nj']:,} nJ)"
        )
    return [
        *lines,
        f"result      {folder / 'result.json'}",
        f"next        snnrun plot {folder}",
        f"            snnrun eval {folder}",
    ]


def scores(row: dict[str, Any]) -> str:
    """The accuracies of a selected checkpoint in words."""
    named = (
        (name, row.get(key))
        for name, key in (
            ("test", "test/acc"),
            ("ANN", "test/acc_ann"),
            ("val", "val/acc"),
            ("train", "train/acc"),
        )
    )
    return "  ".join(f"{name} {value:.2f} %" for name, value in named if value is not None)


def activity(learner: Learner) -> dict[str, Any]:
    """Firing and operations as last measured."""
    seen = learner.activity
    return {
        "spikes": {"rate": seen.rate(), "layers": seen.rates(), "silent": seen.silent()},
        "ops": seen.operations() if seen.samples else {},
        "accuracy_by_step": learner.accuracy_by_step,
    }


def completed(
    run: "Run",
    data: DataModule,
    learner: Learner,
    trainer: Trainer,
    best: dict[str, float] | None,
    tests: dict[str, dict[str, float]],
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The result of a run that came to its end.

    **Arguments:**

    - `run`, `data`, `learner`, `trainer`: its parts.
    - `best`: the row of the best epoch, as its checkpoint has it; None where no epoch was chosen.
    - `tests`: scores on the test split of the checkpoints `best_val` and `last`.
    - `seconds`: how long what took.
    """
    history = learner.history
    tested = [row for row in history[learner.chosen_from :] if "test/acc" in row]
    best_test = max(tested, key=lambda row: row["test/acc"], default=None)
    selection = {
        "best_val": select(best, tests.get("best_val", {})) if best else None,
        "last": select(history[-1], tests.get("last", {})) if history else {},
        "best_test": {"chosen_on": "test data", **select(best_test, {})} if best_test else None,
    }
    headline = selection["best_val"] or selection["last"]
    trained = sum(row["seconds"] for row in history)
    return {
        "status": "completed",
        "error": None,
        **request(run),
        "metrics": {key: value for key, value in headline.items() if "/" in key},
        "selection": selection,
        "epochs": len(history),
        "steps": trainer.global_step,
        "parameters": learner.trainable,
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
        "samples_per_second": round(sum(row["samples"] for row in history) / trained, 1)
        if trained
        else 0.0,
        "peak_memory_bytes": peak_memory(),
        **activity(learner),
        "data": {
            **{split: len(index) for split, index in data.indices.items()},
            "split_sha256": data.split_sha256(),
        },
        **surroundings(),
    }


def select(row: dict[str, float], test: dict[str, float]) -> dict[str, Any]:
    """One selected epoch: its own scores and those of its checkpoint on test data."""
    shown = {k: v for k, v in row.items() if "/" in k and not k.startswith("spikes/")}
    return {"epoch": int(row["epoch"]) + 1, **shown, **test}


def unfinished(run: "Run", status: str, error: str | None) -> dict[str, Any]:
    """The result of a run that failed or was interrupted."""
    return {"status": status, "error": error, **request(run), "metrics": {}, **surroundings()}


def request(run: "Run") -> dict[str, Any]:
    """What was asked for."""
    return {"parts": run.parts, "overrides": run.overrides, "seed": run.cfg.seed}


def surroundings() -> dict[str, Any]:
    """Versions, commit and hardware."""
    return {"versions": versions(), "git": git(), "hardware": hardware()}


def versions() -> dict[str, str]:
    """Of Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git() -> dict[str, Any]:
    """Commit and cleanliness of the checkout that snnrun runs from; nulls for an installed package."""

    def ask(*words: str) -> str | None:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        inside = ask("ls-files", "--error-unmatch", Path(__file__).name)
        commit = ask("rev-parse", "HEAD") if inside else None
        return {
            "commit": commit,
            "dirty": bool(ask("status", "--porcelain", "-uno")) if commit else None,
        }
    except OSError:
        return {"commit": None, "dirty": None}


def hardware() -> dict[str, Any]:
    """Processor, cores, accelerator."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def peak_memory() -> int:
    """The most memory that the process held, in bytes: of the accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write(outcome: dict[str, Any], folder: Path) -> None:
    """Write `result.json` whole or not at all."""
    with whole(folder / "result.json") as file:
        json.dump(finite(outcome), file, indent=1, allow_nan=False)
        file.write("\n")


def finite(value: Any) -> Any:
    """The same value with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
