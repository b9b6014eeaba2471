"""Where golden cases are looked for."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SPEC = importlib.util.spec_from_file_location(
    "golden_conftest", Path(__file__).parent / "conftest.py"
)
assert SPEC and SPEC.loader
conftest = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(conftest)

SYSTEM = SimpleNamespace(SYSTEM="sew_resnet", is_mine=lambda case: "mine" in case)


def save(folder: Path, *names: str, **arrays: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        np.savez(folder / f"{name}.npz", **arrays)


def found(folder: Path) -> list[str]:
    return [name for name, _ in conftest.cases(SYSTEM, str(folder))[0]]


def test_every_case_of_the_systems_folder(tmp_path):
    save(tmp_path / "sew_resnet", "case_b", "case_99_unheard_of", "facts", x=3)
    save(tmp_path / "review_taxonomy", "case_a")
    assert found(tmp_path) == ["case_99_unheard_of", "case_b"]
    (_, case), *_ = conftest.cases(SYSTEM, str(tmp_path))[0]
    assert case["x"] == 3


def test_the_systems_folder_itself(tmp_path):
    save(tmp_path / "sew_resnet", "case_a")
    assert found(tmp_path / "sew_resnet") == ["case_a"]


def test_a_systems_folder_under_another_name_by_what_is_in_it(tmp_path):
    save(tmp_path, "case_a", mine=1)
    save(tmp_path, "case_b", other=1)
    assert found(tmp_path) == ["case_a"]


def test_another_systems_folder(tmp_path):
    save(tmp_path / "review_taxonomy", "case_a", mine=1)
    assert found(tmp_path / "review_taxonomy") == found(tmp_path) == []


def test_a_folder_that_is_missing(tmp_path):
    with pytest.raises(pytest.UsageError) as error:
        found(tmp_path / "none")
    assert str(error.value) == f"--golden {tmp_path / 'none'}: there is no such folder."


def test_a_folder_without_cases(tmp_path):
    save(tmp_path / "sew_resnet", "other")
    with pytest.raises(pytest.UsageError) as error:
        found(tmp_path)
    assert str(error.value) == (
        f"--golden {tmp_path}: there is no case_*.npz, neither in it nor one folder below."
    )


def test_without_the_option_there_are_cases():
    assert conftest.cases(SYSTEM, None)[0]
