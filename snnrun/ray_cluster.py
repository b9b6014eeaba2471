"""Jobs that Ray runs, a run each, on this machine or on a cluster."""

import logging
import os
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from snnrun import launch, lock
from snnrun.config import BadRequest
from snnrun.pool import Slot


@dataclass(frozen=True)
class Settings:
    """What is asked of Ray.

    **Arguments:**

    - `address`: of a cluster that is there, HOST:PORT or auto; None starts Ray on this machine.
    - `cpus`: processors, and threads, of each job.
    - `gpus`: GPUs of each; None: as many as `trainer.devices` where `trainer.accelerator` is gpu or cuda.
    - `max_retries`: how often a job goes on elsewhere when its process or its node is lost.
    """

    address: str | None = None
    cpus: int = 1
    gpus: int | None = None
    max_retries: int = 3

    def __post_init__(self):
        for name, least in (("cpus", 1), ("gpus", 0), ("max_retries", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BadRequest(f"hydra.launcher.{name} must be at least {least}, got {value}.")


class Queue:
    """Ray, which is started when the first job is there.

    **Arguments:**

    - `settings`: what is asked of it.

    Raises `BadRequest` if it is not installed.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        if find_spec("ray") is None:
            raise BadRequest("hydra/launcher=ray needs Ray: pip install 'snnrun[ray]'.")

    def submit(
        self, name: str, folder: Path, cfg: DictConfig, slot: Slot, gpus: int
    ) -> "Submitted":
        """Hand a run to Ray. Raises `BadRequest` if there is no cluster at the address.

        **Arguments:**

        - `name`: what the job is called.
        - `folder`: the run's directory.
        - `cfg`: its configuration.
        - `slot`: what it was handed.
        - `gpus`: how many GPUs it asks for.
        """
        import ray  # pyright: ignore[reportMissingImports]

        asked = self.settings
        if not ray.is_initialized():
            connect(asked.address)
        options: dict[str, Any] = {"name": name, "num_cpus": asked.cpus, "max_calls": 1}
        options["num_gpus"] = gpus if asked.gpus is None else asked.gpus
        options["max_retries"] = asked.max_retries
        begin = ray.remote(**options)(job)
        return Submitted(begin.remote(cfg, sys.path, os.getcwd(), slot.environment), folder, slot)


def connect(address: str | None) -> None:
    """Join a cluster, or start one of this machine alone. Raises `BadRequest`."""
    import ray  # pyright: ignore[reportMissingImports]

    listener = signal.getsignal(signal.SIGTERM)  # Ray would take its place
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError) as error:
        raise BadRequest(f"hydra.launcher.address={address}: {error}") from error
    finally:
        signal.signal(signal.SIGTERM, listener)


class Submitted:
    """A job of Ray's, as `subprocess.Popen` would show a process.

    **Arguments:**

    - `task`: what Ray calls it.
    - `folder`: the run's directory.
    - `slot`: what the job was handed; the lock is held until the job is over.
    """

    def __init__(self, task: Any, folder: Path, slot: Slot):
        self.task, self.folder, self.quiet = task, folder, slot.quiet
        self.lock = None if slot.lock is None else os.dup(slot.lock)
        self.code: int | None = None

    @property
    def waiting(self) -> bool:
        """Whether it does not run yet."""
        return not (self.folder / lock.NAME).exists()

    def poll(self) -> int | None:
        """The run's exit code, 1 if its process was lost; None before."""
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]

        if self.code is None and ray.wait([self.task], timeout=0)[0]:
            try:
                self.code = ray.get(self.task)
            except RayError as error:
                self.code = 1
                if self.quiet:
                    self.quiet.write(str(error).encode())
            if self.lock is not None:
                os.close(self.lock)
        return self.code

    def send_signal(self, sig: int, /) -> None:
        """Cancel it: the run notices as if Ctrl-C had been pressed, and writes its checkpoint."""
        import ray  # pyright: ignore[reportMissingImports]

        ray.cancel(self.task, force=sig == signal.SIGKILL)


def job(cfg: DictConfig, path: list[str], place: str, environment: dict[str, str]) -> int:
    """What a process of Ray's does: begin a run or go on with it; returns its exit code.

    **Arguments:**

    - `cfg`: the configuration of the run.
    - `path`: where modules are found.
    - `place`: the working directory.
    - `environment`: variables that differ from those of Ray.
    """
    sys.path[:] = path
    os.chdir(place)
    os.environ.update(environment)
    done = launch.status(Path(cfg.hydra.runtime.output_dir)) == "completed"
    return 0 if done else launch.job(cfg)
