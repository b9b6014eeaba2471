"""scripts/conversion_table.py on made-up evaluations: every way that suits an ANN, one row and one curve each."""

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml

PATH = Path(__file__).parents[2] / "scripts" / "conversion_table.py"
SPEC = importlib.util.spec_from_file_location("conversion_table", PATH)
assert SPEC and SPEC.loader
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def run(folder: Path, pool: str, activation: str | None) -> Path:
    (folder / ".hydra").mkdir(parents=True)
    rule = {"activation": activation} if activation else {}
    cfg = {"dataset": {"_target_": "snnrun.dataset.Digits"}, "model": {"spec": "4C3", "pool": pool}}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({**cfg, "seed": 3, "rule": rule}))
    return folder


def test_a_row_for_every_conversion(tmp_path, monkeypatch):
    asked = []

    def convert(folder, words):
        asked.append((folder.name, *words))
        return {
            "metrics": {"test/acc_ann": 91.234},
            "accuracy_by_step": [float(t) / 2 for t in range(1, 65)],
            "spikes": {"rate": 0.12345},
            "ops": {"ac": 7, "energy_nj": 1.5, "ann_energy_nj": 2.5},
        }

    monkeypatch.setattr(script, "convert", convert)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    runs = [run(tmp_path / "a", "avg", "relu"), run(tmp_path / "q", "avg", "qcfs")]
    assert script.main([*map(str, runs), "name=made", "dataset.steps=64"]) == 0
    assert [a[0] for a in asked] == ["a"] * 4 + ["q"]
    assert all(a[-1] == "dataset.steps=64" and "dataset.steps=128" not in a for a in asked)
    with (tmp_path / "made.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ways = ["constant threshold", "percentile", "burst", "MSAT", "QCFS"]
    assert [r["conversion"] for r in rows] == ways
    assert (rows[0]["T=1"], rows[0]["T=64"], rows[0]["best"], rows[0]["ann"]) == (
        *("0.5", "32.0", "32.0", "91.23"),
    )
    assert "T=128" not in rows[0] and rows[3]["settings"].startswith("neuron=msat")
    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")


def test_other_runs_and_no_runs(tmp_path):
    with pytest.raises(SystemExit, match="is no run with rule=conversion"):
        script.main([str(run(tmp_path / "b", "avg", None))])
    with pytest.raises(SystemExit, match="Converts trained ANNs"):
        script.main(["name=made"])
