"""What a batch system sends, a checkpoint that was damaged afterwards, and a process that is there already."""

import json
import os
import platform
import shutil

import pytest
import torch

from snnrun.lock import lock, unlock

SEND = "os.kill(os.getpid(), signal.{})"
# as sbatch sets it for one task
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "node7",
}


@pytest.fixture(scope="module")
def stopped(warm, at_call, words, tmp_path_factory):
    """A run that Slurm has warned in the third epoch: two epochs are finished, and some batches."""
    place = tmp_path_factory.mktemp("stopped")
    before = at_call(2 * 13 + 4, SEND.format("SIGUSR1"))
    done = warm(*words, "hydra.run.dir=run", cwd=place, before=before, **SLURM)
    assert done.returncode == 130, done.stdout + done.stderr
    assert done.stderr == "\nStopping after this batch; Ctrl-C again stops at once.\n"
    assert done.stdout.endswith(f"\nInterrupted. Go on with: snnrun resume {place}/run\n")
    names = sorted(path.name for path in (place / "run" / "checkpoints").iterdir())
    assert names == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    return place / "run"


@pytest.fixture
def folder(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def test_resume_under_slurm_and_the_run_that_is_there_already(folder, warm, same_end, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    lock(folder)
    try:
        for words in (("resume", "run"), ("hydra.run.dir=run",)):
            done = warm(*words, cwd=tmp_path)
            assert done.stderr == (
                f"{folder} is in use by process {os.getpid()} on {platform.node()}."
                " Wait until that has ended, or stop it.\n"
            )
            assert (done.returncode, done.stdout) == (2, "")
    finally:
        unlock(folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    done = warm("resume", "run", cwd=tmp_path, **SLURM)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(folder)


def test_a_damaged_last_checkpoint_costs_what_was_trained_since_the_one_before(
    folder, warm, same_end, tmp_path
):
    last = folder / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 4
    last.write_bytes(content)
    done = warm("resume", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.splitlines()[0] == (
        f"{last} is truncated or damaged. It is kept as damaged.ckpt; going on from previous.ckpt, step 14."
    )
    kept = folder / "checkpoints" / "damaged.ckpt"
    assert kept.read_bytes() == content
    kept.unlink()
    same_end(folder)


def test_a_damaged_best_checkpoint_is_never_reported(folder, warm, tmp_path):
    """Nothing can replace it; the network of the last epoch can be tested."""
    best = folder / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:-1000])
    words = ("resume", "run", "trainer.limit_val_batches=0")  # so that no later epoch is better
    done = warm(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        f"{best} is truncated or damaged. It was left as it is. The network of the last epoch is"
        f" whole: snnrun eval {folder} ckpt=last. That of the best epoch has to be trained again:"
        f" snnrun rerun {folder}"
    )


@pytest.mark.parametrize("verb", ["resume", "eval"])
def test_damaged_checkpoints_are_named_and_left(verb, folder, warm, tmp_path):
    (folder / "result.json").unlink()
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:5000])
    damaged = folder / "checkpoints" / ("last.ckpt" if verb == "resume" else "best.ckpt")
    before = {path: path.read_bytes() for path in (damaged, folder / "metrics.csv")}
    done = warm(verb, "run", cwd=tmp_path)
    message = (done.stdout + done.stderr).splitlines()[-1]
    assert message == f"{damaged} is truncated or damaged. It was left as it is."
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_ctrl_c_and_sigterm_in_the_middle_of_an_epoch(words, warm, at_call, same_end, tmp_path):
    """The batch is finished, and the next start goes on behind it."""
    folder = tmp_path / "run"
    request = (*words, "hydra.run.dir=run")
    # the second stop is in the sixth batch of the third epoch; two batches are one step
    for number, batches, steps in (("SIGINT", 13 + 4, 7 + 2), ("SIGTERM", 9 + 6, 2 * 7 + 3)):
        before = at_call(batches, SEND.format(number))
        done = warm(*request, cwd=tmp_path, before=before)
        assert done.returncode == 130
        assert done.stderr == "\nStopping after this batch; Ctrl-C again stops at once.\n"
        assert done.stdout.endswith(f"\nInterrupted. Go on with: snnrun resume {folder}\n")
        result = json.loads((folder / "result.json").read_text())
        assert (result["status"], result["error"]) == ("interrupted", None)
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == steps
        request = ("resume", "run")
    done = warm(*request, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(folder)


# before the first checkpoint, in a validation, while last.ckpt is written, in the test behind the last epoch
MOMENTS = (
    ("training_step", 3, "Learner"),
    ("validation_step", 3, "Learner"),
    ("save_checkpoint", 2, "AtomicCheckpointIO"),
    ("test_step", 2, "Learner"),
)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize(("name", "n", "owner"), MOMENTS)
def test_awkward_moments(name, n, owner, number, words, warm, at_call, same_end, tmp_path):
    before = at_call(n, SEND.format(number), name, owner)
    done = warm(*words, "hydra.run.dir=run", cwd=tmp_path, before=before)
    assert done.returncode == 130, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    done = warm("resume", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    same_end(tmp_path / "run")
