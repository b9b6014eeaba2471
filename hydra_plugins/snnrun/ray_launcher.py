"""Every job of a sweep as a job of Ray's."""

from typing import Literal

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hydra_plugins.snnrun.process_launcher import ProcessLauncher


class RayLauncher(ProcessLauncher):
    """Has Ray run what is missing of a sweep; see `snnrun.ray_cluster.Settings` for its arguments."""

    def __init__(
        self,
        jobs: int = 256,
        on_error: Literal["continue", "stop"] = "continue",
        address: str | None = None,
        cpus: int = 1,
        gpus: int | None = None,
        max_retries: int = 3,
    ):
        super().__init__(jobs, cpus, [], on_error, fork=False)
        self.asked = (address, cpus, gpus, max_retries)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take up the configuration of the sweep. Raises `BadRequest`, also without Ray."""
        from snnrun.jobs import Settings, Sweep
        from snnrun.ray_cluster import Queue
        from snnrun.ray_cluster import Settings as Asked

        queue = Queue(Asked(*self.asked))  # first: it says more of what is wrong
        settings = Settings(*self.settings)
        self.sweep = Sweep(config, hydra_context.config_loader, settings, queue)
