"""A run directory as it is read by a report: whatever is there, finished or not."""

import csv
import io
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PARTS = ("model", "neuron", "rule", "dataset")


class LeftOut(Exception):
    """There is nothing to draw from: the message says why."""


class Damaged(LeftOut):
    """A file of the run cannot be read."""


class Stored:
    """The files of a run.

    **Arguments:**

    - `folder`: the run's directory.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: list[str] = []  # files that are damaged but that one can do without

    @property
    def exists(self) -> bool:
        """Whether the folder is the directory of a run."""
        names = (".hydra/config.yaml", "metrics.csv", "snapshot.npz")
        return any((self.folder / name).is_file() for name in names)

    @cached_property
    def result(self) -> dict[str, Any]:
        """`result.json`; empty while there is none."""
        path = self.folder / "result.json"
        try:
            content = json.loads(path.read_bytes())
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
            return content
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problems.append(f"{path} cannot be read: {error}")
            return {}

    @cached_property
    def title(self) -> str:
        """The chosen parts, and the status of a run that is not complete."""
        parts = self.result.get("parts") or self._choices()
        words = [f"{group}={parts[group]}" for group in PARTS if parts.get(group)]
        status = self.result.get("status", "unfinished")
        words += [] if status == "completed" else [f"({status})"]
        return " ".join(words) if len(words) > 1 else " ".join([self.folder.name, *words])

    def _choices(self) -> dict[str, Any]:
        """What Hydra wrote down when the run began."""
        try:
            text = (self.folder / ".hydra" / "hydra.yaml").read_text()
            return dict(yaml.safe_load(text)["hydra"]["runtime"]["choices"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            return {}

    @cached_property
    def headline(self) -> dict[str, Any]:
        """The selected epoch: the best on validation data, the last where there are none."""
        selection = self.result.get("selection") or {}
        return selection.get("best_val") or selection.get("last") or {}

    @property
    def chosen(self) -> tuple[int, str] | None:
        """The selected epoch, counted from 1, and what it is."""
        if "epoch" not in self.headline:
            return None
        by_validation = bool(self.result["selection"].get("best_val"))
        epoch = int(self.headline["epoch"])
        return (
            epoch,
            f"epoch {epoch}, {'chosen on validation data' if by_validation else 'the last'}",
        )

    @property
    def test(self) -> float | None:
        """Accuracy on test data of the selected checkpoint, in percent."""
        return self.headline.get("test/acc")

    @cached_property
    def history(self) -> dict[str, np.ndarray]:
        """The columns of `metrics.csv`; NaN where a cell is empty. A row cut off by a crash is left out."""
        path = self.folder / "metrics.csv"
        try:
            text = path.read_text(errors="replace")
            complete = text[: text.rfind("\n") + 1]
            reader = csv.DictReader(io.StringIO(complete, newline=""), restval="")
            rows = list(reader)
        except FileNotFoundError:
            raise LeftOut(f"{path} does not exist") from None
        except (OSError, csv.Error) as error:
            raise Damaged(f"{path} cannot be read: {error}") from error
        names = [name for name in reader.fieldnames or () if name]
        columns = {name: np.array([number(row[name]) for row in rows]) for name in names}
        known = np.isfinite(columns.get("epoch", np.zeros(0)))
        if not known.any():
            raise LeftOut(f"{path} has no finished epoch")
        return {name: values[known] for name, values in columns.items()}

    @cached_property
    def snapshot(self) -> dict[str, np.ndarray]:
        """The arrays of `snapshot.npz`, checked: see `snnrun.run.snapshot`."""
        path = self.folder / "snapshot.npz"
        if not path.exists():
            raise LeftOut(f"{path} does not exist: the test at the end of a run writes it")
        try:
            # opened here, as np.load leaves the file of a damaged archive open
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            check(arrays)
        except Exception as error:  # zip, zlib and npy have many ways to be broken
            raise Damaged(f"{path} cannot be read: {error}") from error
        return arrays

    @cached_property
    def layers(self) -> dict[str, np.ndarray]:
        """The spikes of every layer, `(N, T, neurons)`."""
        found = {
            name.removeprefix("spikes/"): fired.reshape(*fired.shape[:2], -1)
            for name, fired in self.snapshot.items()
            if name.startswith("spikes/")
        }
        if not found:
            raise LeftOut("no layer spikes")
        return found

    @property
    def fired(self) -> dict[str, np.ndarray]:
        """The spikes of every layer for the first sample, `(T, neurons)`."""
        return {name: spikes[0] for name, spikes in self.layers.items()}

    @property
    def potentials(
        self,
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None, float | None]]:
        """Neurons, potential, spikes and threshold of every layer that has them, for the first sample."""
        found = {}
        for key, potential in self.snapshot.items():
            name = key.removeprefix("potential/")
            if name == key:
                continue
            spikes = self.snapshot.get(f"spikes/{name}")
            threshold = self.snapshot.get(f"threshold/{name}")
            fired = None if spikes is None else spikes[0].reshape(len(potential), -1)
            bound = None if threshold is None else float(threshold)
            found[name] = self.snapshot[f"neurons/{name}"], potential, fired, bound
        if not found:
            raise LeftOut("no potentials: the run is older than they are, or its neurons have none")
        return found

    @property
    def sample(self) -> str:
        """What the first sample is."""
        label, predicted = int(self.snapshot["label"][0]), int(self.snapshot["predicted"][0])
        return f"test sample with label {label}, predicted {predicted}"


def number(cell: str) -> float:
    """A cell of the metrics file; NaN if it is no finite number."""
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def check(arrays: dict[str, np.ndarray]) -> None:
    """Whether a snapshot has the arrays and shapes that it should. Raises `ValueError`."""
    for name, least in {"label": 1, "predicted": 1, "input": 2, "out": 3}.items():
        if name not in arrays:
            raise ValueError(f"there is no array {name}")
        if arrays[name].ndim < least or not arrays[name].size:
            raise ValueError(f"{name} has the shape {arrays[name].shape}")
    for name, spikes in arrays.items():
        if name.startswith("spikes/") and (spikes.ndim < 3 or not spikes.size):
            raise ValueError(f"{name} has the shape {spikes.shape}")
        if name.startswith("potential/"):
            layer = name.removeprefix("potential/")
            count = arrays[f"neurons/{layer}"].shape if f"neurons/{layer}" in arrays else None
            if spikes.ndim != 2 or not spikes.size or count != spikes.shape[1:]:
                raise ValueError(f"{name} has the shape {spikes.shape}, of neurons {count}")
    label, predicted, classes = arrays["label"], arrays["predicted"], arrays["out"].shape[-1]
    if label.shape != predicted.shape:
        raise ValueError(f"{len(label)} labels and {len(predicted)} predictions")
    for name in ("label", "predicted"):
        if (
            arrays[name].dtype.kind not in "iu"
            or not 0 <= arrays[name].min() <= arrays[name].max() < classes
        ):
            raise ValueError(f"{name} holds other values than classes 0 to {classes - 1}")
