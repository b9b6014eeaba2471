"""The README's tables are what scripts/readme_tables.py makes of results/, and a change of either is noticed."""

import importlib.util
import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "readme_tables.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("readme_tables", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_table_of_the_results(script):
    assert script.main(["--check"]) == 0


def test_a_number_that_drifted_is_told_and_put_right(script, tmp_path, monkeypatch, capsys):
    text = script.README.read_text()
    found = re.search(r"\| `snnrun` \| .*? \| (\d\d\.\d\d) ", text)
    assert found
    monkeypatch.setattr(script, "README", tmp_path / "README.md")
    script.README.write_text(text.replace(found[1], "12.34"))
    assert script.main(["--check"]) == 1
    assert found[1] in capsys.readouterr().out
    assert script.main([]) == 0
    assert script.README.read_text() == text


def test_the_benchmark_is_a_line_a_workload(script):
    columns = ("threads", "workload", "contestant", "ms", "limit ms", "cpu", "torch", "date")
    rows = [
        dict(zip(columns, (*row, "Q", "2.14", "2026-01-31"), strict=True))
        for row in (
            ("1", "lif_t4", "ours", "5.0", "2.5"),
            ("1", "lif_t4", "spikingjelly", "40.0", "2.5"),
            ("1", "user", "ours", "8.0", ""),
            ("1", "user", "scan", "16.0", ""),
            ("2", "lif_t4", "ours", "3.0", "2.0"),
            ("2", "lif_t4", "spikingjelly", "30.0", "2.0"),
        )
    ]
    assert script.benchmark(rows).splitlines()[2:] == [
        "| LIF neurons, T=4 | 5 ms | SpikingJelly's neurons, 40 ms | **8.0** | 16.0 | **10.0** |",
        "| a user's neuron, T=16 | 8 ms | `scan`, 16 ms | **2.00** |  |  |",
        "",
        "Machine: Q, torch 2.14, 2026-01-31.",
    ]


def test_conversions_are_a_line_each(script):
    rows = [
        {"pool": "max", "conversion": "burst", "ann": "92.3", "T=1": "10.0", "T=128": "92.151"},
        {"pool": "max", "conversion": "MSAT", "ann": "92.3", "T=1": "10.5", "T=128": "92.2"},
    ]
    assert script.conversion(rows).splitlines() == [
        "| pooling | conversion | ANN | T=1 | T=128 |",
        "|---|---|---|---|---|",
        "| max | burst | 92.30 | 10.00 | 92.15 |",
        "| max | MSAT | 92.30 | 10.50 | 92.20 |",
    ]
