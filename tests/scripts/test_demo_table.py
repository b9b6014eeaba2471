"""The README's table is what scripts/demo_table.py makes of results/demo.csv, and a change of either is noticed."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "demo_table.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("demo_table", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_table_of_the_results(script):
    assert script.main(["--check"]) == 0


def test_a_number_that_drifted_is_told_and_put_right(script, tmp_path, monkeypatch, capsys):
    text = script.README.read_text()
    monkeypatch.setattr(script, "README", tmp_path / "README.md")
    script.README.write_text(text.replace("97.87", "98.78"))
    assert script.main(["--check"]) == 1
    assert "97.87" in capsys.readouterr().out
    assert script.main([]) == 0
    assert script.README.read_text() == text
