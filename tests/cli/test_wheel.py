"""A built wheel, installed elsewhere, runs as the checkout does."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# several command lines in one process, and where the package is
PROGRAM = """\
import json, sys
import snnrun.cli, snnrun.config
print(snnrun.cli.__file__, snnrun.config.CONF)
for words in json.loads(sys.argv[1]):
    try:
        snnrun.cli.main(words)
    except SystemExit as stop:
        print("exit code", stop.code)
"""


def python(*words: str, cwd: Path, path: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=environment | ({"PYTHONPATH": str(path)} if path else {}),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the wheel installed into it."""
    for module in ("build", "hatchling", "pip"):
        if not importlib.util.find_spec(module):
            pytest.skip(f"{module} is not installed; the extra dev has it")
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), ".", cwd=ROOT)
    (wheel,) = wheels.iterdir()
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    python("-m", "pip", "install", *quiet, "--target", str(folder), str(wheel), cwd=wheels)
    return folder


def test_the_wheel_holds_package_and_configurations_and_nothing_else(site):
    tops = {p.name for p in site.iterdir() if p.name != "bin" and p.suffix != ".dist-info"}
    assert tops == {"snnrun", "hydra_plugins"}
    packed = {str(p.relative_to(site / "snnrun/conf")) for p in site.glob("snnrun/conf/**/*.yaml")}
    assert packed == {str(p.relative_to(ROOT / "conf")) for p in (ROOT / "conf").rglob("*.yaml")}
    for package in ("snnrun", "hydra_plugins"):
        sources = {str(p.relative_to(site)) for p in (site / package).rglob("*.py")}
        assert sources == {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
    assert not (site / "hydra_plugins" / "__init__.py").exists()  # others install theirs beside
    assert (site / "bin" / "snnrun").is_file()


def test_it_runs_from_anywhere_as_the_checkout_does(site, trained, tmp_path):
    words = [
        ["list", "neuron"],
        ["check", "neuron=plif", "dataset=nmnist"],
        ["trainer.max_epochs=2", "hydra.run.dir=run"],
        ["-m", "neuron.tau=2,x"],
    ]
    out = python("-c", PROGRAM, json.dumps(words), cwd=tmp_path, path=site)
    first, *lines = out.splitlines()
    assert first == f"{site}/snnrun/cli.py {site}/snnrun/conf"
    assert [line for line in lines if line.startswith("exit code")] == [
        *["exit code 0"] * 3,
        "exit code 2",
    ]
    assert ["lif", "Leaky", "integrate-and-fire", "neuron."] in [line.split() for line in lines]
    assert any(line.startswith("ok: ") for line in lines)

    start = next(number for number, line in enumerate(lines) if line.startswith("parts "))
    log = [line.split(" INFO ", 1) for line in (trained / "log.txt").read_text().splitlines()]
    told = [line[1] for line in log if len(line) == 2]
    header = [line for line in lines[start : start + 6] if not line.startswith("directory ")]
    assert header == [line for line in told[:6] if not line.startswith("directory ")]

    ours, theirs = (
        json.loads((f / "result.json").read_text()) for f in (trained, tmp_path / "run")
    )
    for key in ("status", "parts", "overrides", "metrics", "selection", "spikes", "ops", "data"):
        assert ours[key] == theirs[key], key
    assert theirs["git"] == {"commit": None, "dirty": None}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
