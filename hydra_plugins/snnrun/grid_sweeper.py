"""Every combination of the values of a sweep."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, but that jobs are composed when they are due: `snnrun` has checked every value by then."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: of a thousand jobs it would take minutes."""

    @staticmethod
    def split_arguments(
        overrides: list[Override], max_batch_size: int | None
    ) -> list[list[list[str]]]:
        """The overrides of every job. Raises `BadRequest` for an interval."""
        from snnrun.config import BadRequest

        for override in overrides:
            if override.is_interval_sweep():
                raise BadRequest(
                    f"{override.input_line}: a grid has no intervals; hydra/sweeper=optuna searches them."
                )
        return BasicSweeper.split_arguments(overrides, max_batch_size)
