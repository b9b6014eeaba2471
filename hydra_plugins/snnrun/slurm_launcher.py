"""Every job of a sweep as a job of Slurm."""

from typing import Any, Literal

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.snnrun.process_launcher import ProcessLauncher


class SlurmLauncher(ProcessLauncher):
    """Has Slurm run what is missing of a sweep; see `snnrun.slurm.Settings` for its arguments."""

    def __init__(
        self,
        jobs: int = 256,
        on_error: Literal["continue", "stop"] = "continue",
        timeout_min: int = 60,
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
        cpus_per_task: int = 1,
        gpus_per_node: int | None = None,
        mem_gb: float | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        additional_parameters: dict[str, Any] | None = None,
    ):
        super().__init__(jobs, cpus_per_task, [], on_error, fork=False)
        more = additional_parameters or {}
        self.asked: dict[str, Any] = {
            "timeout_min": timeout_min,
            "signal_delay_s": signal_delay_s,
            "max_num_timeout": max_num_timeout,
            "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node,
            "mem_gb": mem_gb,
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "additional_parameters": OmegaConf.to_container(more)
            if OmegaConf.is_config(more)
            else more,
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take up the configuration of the sweep. Raises `BadRequest`, also without Slurm or submitit."""
        from snnrun.jobs import Settings, Sweep
        from snnrun.slurm import Queue
        from snnrun.slurm import Settings as Asked

        queue = Queue(Asked(**self.asked))  # first: it says more of what is wrong
        settings = Settings(*self.settings)
        self.sweep = Sweep(config, hydra_context.config_loader, settings, queue)
