"""The script that compares a trained network with the deployed one, on a run of the digits."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ternary_spikes_on_the_digits(warm, tmp_path):
    words = ("neuron=ternary", "trainer.max_epochs=2", "hydra.run.dir=run", "test=false")
    done = warm(*words, "logger=[]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compare_deployed.py"), "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["float32", "float64"]
    for line in lines:
        greatest, apart, other, trained, _, deployed, _, _, total = line.split()[1:]
        assert (apart, other, total) == ("0", "0", "360") and float(greatest) < 1e-5
        assert trained == deployed and float(trained) > 60
