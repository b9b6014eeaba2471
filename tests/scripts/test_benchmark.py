"""The benchmark runs every row on tiny sizes, without any peer; its times are not looked at."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ["--peers", "--repeats", "1", "--scale", "4096"]


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    """One repeat on tiny sizes."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *TINY, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_every_row_on_tiny_sizes(tmp_path):
    rows = [
        "lif_t4",
        "lif_t500",
        "linear",
        "conv",
        "conv_bf16",
        "sew",
        "sew20",
        "user",
        "tssl_t30",
        "tssl_conv",
    ]
    table = tmp_path / "table.csv"
    done = benchmark("--csv", str(table), "--rows", *rows)
    with table.open() as file:
        lines = [*csv.DictReader(file)]
    assert [line["workload"] for line in lines] == [
        *("lif_t4", "lif_t500", "linear", "conv", "conv_bf16", "conv_bf16"),
        *("sew", "sew20", "user", "user", "tssl_t30", "tssl_t30", "tssl_conv", "tssl_conv"),
    ]
    assert all(float(line["ms"]) > 0 for line in lines)
    equal = {line["contestant"]: float(line["outputs equal"]) for line in lines}
    assert equal["ours"] == equal["scan"] == 1
    assert done.stdout.count("\n| ") == len(lines) + 2  # names of columns, and a line


def test_half_precision():
    done = benchmark("--precision", "bf16", "--rows", "lif_batch16", "conv")
    lines = [line.split(" | ") for line in done.stdout.splitlines()[3:]]
    assert [line[0] for line in lines] == ["| lif_batch16", "| conv"]
    assert all(float(line[2]) > 0 for line in lines)
