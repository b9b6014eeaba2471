"""Where the metrics of a run go: its own file, TensorBoard, and Weights & Biases where it can be reached."""

import csv
import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from snnrun.config import BadRequest
from snnrun.whole import whole

log = logging.getLogger("snnrun")


class CSV(Logger):
    """Appends a row of metrics an epoch to `metrics.csv`; a row that was written is on the disk.

    **Arguments:**

    - `save_dir`: the folder of the file.
    """

    def __init__(self, save_dir: str):
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"

    @property
    def name(self) -> str:
        """What Lightning calls this logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one file a run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in `.hydra/config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row. A metric not seen before becomes a new column of the whole file."""
        row = {"step": step, **metrics}
        rows = self.rows()
        columns = list(rows[0]) if rows else []
        new = [name for name in row if name not in columns]
        if not columns or new:
            self._rewrite([*columns, *new], [*rows, row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)
                file.flush()
                os.fsync(file.fileno())

    @rank_zero_only
    def truncate(self, step: int) -> None:
        """Remove the rows beyond `step`: those of epochs that will be run again."""
        rows = self.rows()
        kept = [row for row in rows if int(row["step"]) <= step]
        if rows and (len(kept) < len(rows) or not self.path.read_text().endswith("\n")):
            self._rewrite(list(rows[0]), kept)

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far, as text; a last row that was cut off by a crash is left out."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        complete = text[: text.rfind("\n") + 1]
        return list(csv.DictReader(io.StringIO(complete, newline="")))

    def _rewrite(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        with whole(self.path, newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


class TensorBoard(TensorBoardLogger):
    """Event files for TensorBoard; its HPARAMS page sets the runs of a folder beside each other.

    **Arguments:**

    - `save_dir`: the directory of the run.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir, name=None, version="tensorboard", default_hp_metric=False)

    @rank_zero_only
    def log_result(self, outcome: dict[str, Any]) -> None:
        """What a finished run reached, beside its hyper-parameters."""
        final = {f"final/{name}": value for name, value in numbers(outcome).items()}
        self.log_hyperparams(self.hparams, final, step=outcome["steps"])


class WandB(WandbLogger):
    """Weights & Biases. A run that cannot reach it is recorded in its own directory instead, and can be uploaded.

    **Arguments:**

    - `save_dir`: the folder of the record: the directory of the run.
    - `project`, `tags`: where the run is listed.
    - `name`, `id`, `group`: what it is called; None for the directory's name, a new id or that from before a
      resume, and the sweep's name where there is a sweep.
    - `offline`: record it in the folder only; no account is needed.
    - `log_model`: upload checkpoints, too.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "snnrun",
        name: str | None = None,
        id: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool = False,
        log_model: bool = False,
    ):
        from wandb import Settings

        folder = Path(save_dir)
        # offline nothing is resumed: there is another file of the same id, and `wandb sync` takes both in order
        resume: dict[str, Any] = {} if offline else {"resume": "allow"}
        super().__init__(
            save_dir=save_dir,
            project=project,
            name=name or folder.name[-LONGEST:],
            id=id or known_id(folder),
            group=group or sweep(folder),
            tags=list(tags or ()),
            offline=offline,
            log_model=log_model,
            settings=Settings(finish_timeout=600),  # at the end of the run the network may be gone
            **resume,
        )
        self._wandb_init.pop("anonymous", None)  # Lightning passes it, W&B warns of it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The run as W&B has it. Raises `BadRequest` if there is no account."""
        from wandb.errors import AuthenticationError, CommError, UsageError

        try:
            return super().experiment
        except (AuthenticationError, UsageError) as error:
            raise BadRequest(
                f"logger=wandb: {error} Or record the run without an account: logger.wandb.offline=true."
            ) from error
        except CommError as error:
            reason = str(error).partition("\n")[0]
            log.warning(
                f"warning: W&B cannot be reached ({reason}). The run is recorded in {self.save_dir}/wandb;"
                " upload it later with: wandb sync."
            )
            self._wandb_init["mode"] = "offline"
            self._wandb_init.pop("resume", None)
            return super().experiment

    @rank_zero_only
    def log_result(self, outcome: dict[str, Any]) -> None:
        """The numbers of the checkpoint that is the result, in place of those of the last epoch."""
        self.experiment.summary.update(numbers(outcome))


LONGEST = 128  # letters that a name on the server has at most


def known_id(folder: Path) -> str | None:
    """The identity that a run had when it was begun; None for a new one."""
    begun = sorted(folder.glob("wandb/*run-*-*"), key=lambda path: path.stat().st_mtime)
    return begun[-1].name.rpartition("-")[2] if begun else None


def sweep(folder: Path) -> str | None:
    """The name of the sweep that a run belongs to."""
    above = folder.resolve().parent
    several = any((above / name).is_file() for name in ("sweep.yaml", "multirun.yaml"))
    return above.name[-LONGEST:] if several else None


def numbers(outcome: Mapping[str, Any]) -> dict[str, float]:
    """What a result says in one number each."""
    places = {
        "spikes/rate": ("spikes", "rate"),
        **{f"ops/{name}": ("ops", name) for name in ("ac", "mac", "energy_nj")},
        **{f"seconds/{name}": ("seconds", name) for name in ("fit", "test")},
        **{name: (name,) for name in ("epochs", "parameters", "samples_per_second")},
    }
    found: dict[str, Any] = dict(outcome["metrics"])
    for key, place in places.items():
        value: Any = outcome
        for name in place:
            value = value.get(name) if isinstance(value, Mapping) else None
        found[key] = value
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}
