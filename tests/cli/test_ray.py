"""A sweep by a Ray of this machine: a failure, a loss, Ctrl-C, and the same end as without them."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from snnrun.cli import _dispatch

SMALL = ("model.spec=8", "model.dropout=0.2", "dataset.steps=2", "dataset.batch_size=100")
SMALL += ("trainer.accelerator=cpu", "trainer.max_epochs=40", "test=false", "hydra.sweep.dir=here")


def weights(run: Path) -> list[torch.Tensor]:
    file = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return [file["global_step"], *file["state_dict"].values()]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (extra ray)")
def test_a_sweep_that_is_disturbed_ends_as_one_that_is_not(tmp_path):
    (tmp_path / "start.py").write_text(
        "import ray, signal, sys\nfrom snnrun.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's jobs ignore it
        "known = ray.init\n"
        "ray.init = lambda **given: known(**given, num_cpus=1)\nmain(sys.argv[1:])\n"
    )
    by_ray = [sys.executable, "start.py", "-m", "optimizer.lr=0.01,1e30,0.02", *SMALL]
    by_ray += ["hydra/launcher=ray"]
    environment = {**os.environ, "RAY_worker_niceness": "0", "RAY_AUTH_MODE": "disabled"}
    runs = [tmp_path / "here" / f"optimizer.lr={rate}" for rate in ("0.01", "1e+30", "0.02")]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            by_ray, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    def trained(run: Path) -> None:
        until = time.monotonic() + 200
        while not (run / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < until
            time.sleep(0.01)

    sweep = start()
    trained(runs[0])
    owner = (runs[0] / ".lock").read_text().split()[1]
    os.kill(int(owner), signal.SIGKILL)  # it goes on in another process
    trained(runs[2])
    sweep.send_signal(signal.SIGINT)
    out, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 130, out
    # Ray chooses which of them waits behind the one it runs again
    assert "interrupted  optimizer.lr=0.02" in out and " interrupted\n" in out, out
    assert "\nInterrupted. Go on with: " in out, out

    sweep = start()
    out, _ = sweep.communicate(timeout=200)
    assert sweep.returncode == 1, out  # one fails again
    assert " to go on with" in out and "2 of 3 jobs done, 1 failed" in out, out
    assert "    The loss is nan at epoch 0, step " in out
    assert (runs[0] / "log.txt").read_text().count("parts ") > 1
    words = [word.replace("here", "there") for word in by_ray[2:-1]]
    assert subprocess.run([sys.executable, "-m", "snnrun", *words], cwd=tmp_path).returncode == 1
    for run in (runs[0], runs[2]):
        there = weights(tmp_path / "there" / run.name)
        assert all(
            torch.equal(torch.as_tensor(one), torch.as_tensor(two))
            for one, two in zip(weights(run), there, strict=True)
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra.launcher.cpus=0"], "hydra.launcher.cpus must be at least 1, got 0."),
        (["hydra.launcher.adress=x"], "Did you mean hydra.launcher.address?"),
        ([], "hydra/launcher=ray needs Ray: pip install 'snnrun[ray]'."),
    ],
)
def test_what_is_wrong_or_missing_is_told(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("snnrun.ray_cluster.find_spec", lambda name: None)
    assert _dispatch(["-m", "seed=1,2", "hydra/launcher=ray", *words]) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
