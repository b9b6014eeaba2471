"""Kill -9 at moments that nobody has chosen: `resume` ends where the run that was never stopped ends, bit for bit."""

import random

import pytest


def begin(warm, words, place, kill: float) -> int:
    """Start a run, or go on with it where it has begun, and kill it after so many seconds; returns its exit code."""
    begun = (place / "run" / ".hydra" / "overrides.yaml").exists()
    request = ("resume", "run") if begun else (*words, "hydra.run.dir=run")
    return warm(*request, cwd=place, kill=kill).returncode


def finish(warm, words, place) -> None:
    """Without a kill, to the end; a run that was killed before it had begun is started again."""
    begun = (place / "run" / ".hydra" / "overrides.yaml").exists()
    request = ("resume", "run") if begun else (*words, "hydra.run.dir=run")
    done = warm(*request, cwd=place)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("share", [0.7])
def test_one_kill(share, warm, words, duration, same_end, tmp_path):
    begin(warm, words, tmp_path, share * duration)
    finish(warm, words, tmp_path)
    same_end(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_twenty_kills(number, warm, words, duration, same_end, tmp_path):
    moment = random.Random(number).uniform(0.1, 1) * duration
    begin(warm, words, tmp_path, moment)
    finish(warm, words, tmp_path)
    same_end(tmp_path / "run")


@pytest.mark.slow
def test_kill_after_kill_in_one_run(warm, words, duration, same_end, tmp_path):
    moments = random.Random(0)
    codes = [begin(warm, words, tmp_path, moments.uniform(0.05, 0.9) * duration) for _ in range(20)]
    assert codes.count(-9) >= 5  # at last it is done, and left alone
    finish(warm, words, tmp_path)
    same_end(tmp_path / "run")
