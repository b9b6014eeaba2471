"""Several processes for one run: which of them this is, starting the others, and ending with them."""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from snnrun.config import BadRequest
from snnrun.pool import Process, Slot, plain

if TYPE_CHECKING:
    from snnrun.run import Run

OURS = "SNNRUN_RANKS"  # set where the first process of a machine has started the others
PATIENCE = 30.0  # seconds that processes wait for each other when one has ended


def world() -> tuple[int, int]:
    """The rank of this process, and how many there are if torchrun, Slurm's srun or a process of ours started them."""
    known = os.environ
    if "TORCHELASTIC_RUN_ID" in known or OURS in known:
        return int(known["RANK"]), int(known["WORLD_SIZE"])
    interactive = known.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "SLURM_STEP_ID" in known and int(known.get("SLURM_NTASKS", 1)) > 1 and not interactive:
        return int(known["SLURM_PROCID"]), int(known["SLURM_NTASKS"])
    return int(known.get("NODE_RANK", 0)), 1  # one a machine, started by hand


def rank() -> int:
    """The rank of this process: only the one of rank 0 writes into the directory of the run."""
    return world()[0]


def each(trainer: DictConfig) -> int:
    """How many processes a run has on every machine."""
    if OmegaConf.is_list(trainer.devices):
        return len(trainer.devices)
    if str(trainer.devices).isdigit():
        return int(trainer.devices)
    if trainer.accelerator not in ("auto", "gpu", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def check(trainer: DictConfig) -> None:
    """Raise `BadRequest` if there are other processes than the run has."""
    _, size = world()
    wanted = each(trainer) * trainer.num_nodes
    if size > 1 and wanted != size:
        raise BadRequest(
            f"There are {size} processes, but trainer.devices={trainer.devices} and"
            f" trainer.num_nodes={trainer.num_nodes} make {wanted}."
        )
    if str(trainer.strategy).startswith("fsdp") and trainer.accelerator == "cpu":
        raise BadRequest("trainer.strategy=fsdp needs GPUs; trainer=ddp runs on CPUs, too.")
    for word in ("spawn", "fork", "notebook"):
        if word in str(trainer.strategy):
            raise BadRequest(
                f"trainer.strategy={trainer.strategy}: processes are started afresh; write trainer.strategy=ddp."
            )


class Lost(RuntimeError):
    """Another process of the run has ended."""


class Others:
    """The other processes of a run on this machine, started unless somebody else has; they end with this one.

    **Arguments:**

    - `run`: the run.
    - `resuming`: whether it goes on from its last checkpoint.
    - `lost`: called before this process ends because it waits in vain for one that has ended.
    """

    def __init__(self, run: "Run", *, resuming: bool, lost: Callable[[str], None]):
        self.run, self.resuming, self.lost = run, resuming, lost
        self.processes: list[tuple[int, Process, IO[bytes]]] = []
        self.before = dict(os.environ)
        self.over = threading.Event()

    def __enter__(self) -> "Others":
        trainer = self.run.cfg.trainer
        check(trainer)
        count, nodes = each(trainer), int(trainer.num_nodes)
        if world()[1] > 1 or count * nodes == 1:
            return self
        first = world()[0] * count
        if nodes > 1 and "MASTER_ADDR" not in os.environ:
            raise BadRequest(
                f"trainer.num_nodes={nodes}: start it by torchrun or srun, or on every machine with MASTER_ADDR,"
                " MASTER_PORT and NODE_RANK."
            )
        os.environ |= {OURS: "1", "WORLD_SIZE": str(count * nodes)}
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(free_port()))
        os.environ.setdefault("NODE_RANK", "0")
        for local in range(1, count):
            environment = {"LOCAL_RANK": str(local), "RANK": str(first + local)}
            errors = tempfile.TemporaryFile()
            call = (follow, self.run, self.resuming, hydra())
            process = plain(call, Slot(None, environment, errors))
            self.processes.append((first + local, process, errors))
        os.environ |= {"LOCAL_RANK": "0", "RANK": str(first)}
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        # whoever was first to fail is the cause; for the others it is that somebody left
        failed = self._failed(patience=2) if isinstance(error, RuntimeError) else ""
        leave()
        failed = failed or ("" if error else self._failed(patience=PATIENCE))
        self._end()
        os.environ.clear()
        os.environ.update(self.before)
        if failed:
            raise Lost(failed) from error

    def _end(self) -> None:
        """Wait for the others, and kill those that do not end."""
        until = time.monotonic() + PATIENCE
        while any(p.poll() is None for _, p, _ in self.processes) and time.monotonic() < until:
            time.sleep(0.05)
        for _, process, errors in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)
            while process.poll() is None:
                time.sleep(0.05)
            errors.close()

    def _failed(self, patience: float = 0.0) -> str:
        """What another process that has failed said; empty if none does.

        **Arguments:**

        - `patience`: for how many seconds those that run are waited for.
        """
        until = time.monotonic() + patience
        while True:
            codes = [process.poll() for _, process, _ in self.processes]
            for (number, _, errors), code in zip(self.processes, codes, strict=True):
                if code not in (None, 0, 130):
                    errors.seek(0)
                    lines = errors.read().decode(errors="replace").strip().splitlines()
                    said = lines[-1] if lines else f"it ended with code {code}"
                    return f"The process of rank {number} failed: {said}"
            if None not in codes or time.monotonic() >= until:
                return ""
            time.sleep(0.05)

    def _watch(self) -> None:
        """End this process if it waits for one that has ended, which not every back end notices."""
        while not self.over.wait(1.0):
            if self._failed():
                if not self.over.wait(PATIENCE):
                    self.lost(self._failed())
                    os._exit(1)
                return


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hydra() -> Any:
    """Hydra's own configuration, which that of a run refers to."""
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.instance().cfg


def leave() -> None:
    """Leave the group of processes."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def follow(run: "Run", resuming: bool, known: Any = None) -> int:
    """A process other than the first of a run: it computes, and writes nothing; returns the exit code.

    **Arguments:**

    - `run`: the run, whose directory the first process tells.
    - `resuming`: whether it goes on from its last checkpoint.
    - `known`: Hydra's own configuration, if this process has none.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import setup_globals

    from snnrun.callback import Interrupted
    from snnrun.run import quiet, train

    setup_globals()
    if known is not None:
        HydraConfig.instance().cfg = known
    quiet()
    try:
        with Others(run, resuming=resuming, lost=lambda message: print(message, file=sys.stderr)):
            train(run, bar=False, resume=resuming)
        return 0
    except (Interrupted, KeyboardInterrupt, SystemExit):
        return 130
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        traceback.print_exc()
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        return 1
