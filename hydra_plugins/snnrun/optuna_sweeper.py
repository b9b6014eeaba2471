"""Values that Optuna proposes."""

from collections.abc import Sequence
from typing import Any, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches for the best values; see `snnrun.search.Settings` for its arguments."""

    def __init__(
        self,
        n_trials: int | None = 50,
        sampler: Literal["tpe", "random", "grid", "cmaes"] = "tpe",
        seed: int | None = 0,
        objectives: Sequence[str] = ("val/acc",),
        directions: Sequence[str] = ("maximize",),
        pruner: Literal["none", "median", "hyperband"] = "none",
        prune_after: int = 1,
        storage: Literal["journal", "sqlite"] = "journal",
        params: dict[str, str] | None = None,
    ):
        aims = (list(objectives), list(directions))
        self.settings = (n_trials, sampler, seed, *aims, pruner, prune_after, storage)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take up the configuration of the sweep. Raises `BadRequest`."""
        from snnrun.check import sweep_words
        from snnrun.config import BadRequest
        from snnrun.jobs import Sweep
        from snnrun.search import Search, Settings

        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        sweep = getattr(launcher, "sweep", None)
        if not isinstance(sweep, Sweep):
            raise BadRequest(
                "hydra/sweeper=optuna runs its jobs by hydra/launcher=process, slurm or ray."
            )
        words = sweep_words(config, list(config.hydra.overrides.task))
        self.search = Search(sweep, Settings(*self.settings), words)

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the search."""
        self.search.run()
