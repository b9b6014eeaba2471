"""Which golden cases are tested: those of `--golden DIR`, else of a folder beside the checkout, else copies."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
SYSTEMS = {path.name for path in (HERE / "data").iterdir()}


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("case_*.npz"))


def cases(module: ModuleType, given: str | None) -> tuple[list[tuple[str, Any]], str]:
    """The cases of a module's system with their names, and where they were looked for."""
    if given is None:
        beside = HERE.parents[1].parent / "shared" / "golden"
        place = beside if beside.is_dir() else HERE / "data"
        found = files(place / module.SYSTEM)
    else:
        place = Path(given)
        if not place.is_dir():
            raise pytest.UsageError(f"--golden {given}: there is no such folder.")
        if not [*place.glob("case_*.npz"), *place.glob("*/case_*.npz")]:
            raise pytest.UsageError(
                f"--golden {given}: there is no case_*.npz, neither in it nor one folder below."
            )
        found = files(place / module.SYSTEM)
        if place.name == module.SYSTEM:
            found += files(place)
        elif place.name not in SYSTEMS:  # a system's folder under another name: by what is in it
            found += [path for path in files(place) if module.is_mine(load(path))]
    return [(path.stem, load(path)) for path in found], str(place)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, listed in (("part", "built"), ("key", "not_built")):
        if argument in metafunc.fixturenames:
            module = metafunc.module
            found, place = cases(module, metafunc.config.getoption("--golden"))
            pairs = [
                pytest.param(case, item, id=f"{name}-{item}")
                for name, case in found
                for item in getattr(module, listed)(case)
            ]
            if not found:
                reason = f"{module.SYSTEM}: no golden cases in {place}"
                pairs = [pytest.param({}, "", id="none", marks=pytest.mark.skip(reason=reason))]
            metafunc.parametrize(("case", argument), pairs)
