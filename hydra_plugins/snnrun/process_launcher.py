"""Every job of a sweep as a process of its own."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from snnrun.jobs import Task


class ProcessLauncher(Launcher):
    """Runs what is missing of a sweep, so many jobs at once; see `snnrun.jobs.Settings` for its arguments."""

    def __init__(
        self,
        jobs: int | None = None,
        threads: int | None = None,
        gpus: list[int | str] | None = None,
        on_error: Literal["continue", "stop"] = "continue",
        fork: bool = True,
    ):
        self.settings = (jobs, threads, gpus, on_error, fork)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take up the configuration of the sweep. Raises `BadRequest`."""
        from snnrun.jobs import Settings, Sweep

        settings = Settings(*self.settings)
        self.sweep = Sweep(config, hydra_context.config_loader, settings)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs, or what is left of them; of each its overrides."""
        return [Ended(task) for task in self.sweep.run(job_overrides, initial_job_idx)]


class Ended(JobReturn):
    """A job that has ended: its value is the score by which its checkpoint was chosen."""

    def __init__(self, task: "Task"):
        failed = task.state == "failed"
        super().__init__(
            overrides=task.words,
            cfg=task.cfg,
            working_dir=str(task.folder),
            task_name="snnrun",
            status=JobStatus.FAILED if failed else JobStatus.COMPLETED,
        )
        self.task = task

    @property
    def return_value(self) -> Any:
        """The score. Raises `JobsFailed` for a job that failed."""
        from snnrun.sweep import JobsFailed

        if self.task.state == "failed":
            raise JobsFailed(f"{self.task.name}: {self.task.error}")
        return self.task.score
