"""The event-camera recipes train on made recordings in the published layouts."""

from pathlib import Path

import numpy as np
import pytest

from snnrun.check import composed, without_hydra
from snnrun.config import Choices, group_defaults
from snnrun.dataset import CIFAR10DVS
from snnrun.run import Run, quiet, train

# what makes an epoch of the recipe short enough for a test; rule, optimiser, schedule and network stay
SHORT = (
    *("trainer.max_epochs=1", "trainer.precision=32", "trainer.accelerator=cpu", "logger=[]"),
    *("trainer.limit_train_batches=2", "dataset.batch_size=1", "test=false", "keep_memory=false"),
)


def gestures(root: Path) -> None:
    random = np.random.default_rng(0)
    for split in ("Train", "Test"):
        folder = root / "DVSGesture" / f"ibmGesture{split}" / "user01_led"
        folder.mkdir(parents=True)
        for label in range(11):
            xy, p = random.integers(0, 128, (2, 900)), random.integers(0, 2, 900)
            t = np.sort(random.integers(0, 6000, 900))
            np.save(folder / f"{label}.npy", np.stack([*xy, p, t], 1))


def pictures(root: Path) -> None:
    random = np.random.default_rng(0)
    for name in CIFAR10DVS.classes:
        folder = root / "CIFAR10DVS" / name
        folder.mkdir(parents=True)
        for k in range(2):
            x, y = random.integers(0, 128, (2, 900))
            words = np.stack([x << 8 | y << 1, np.sort(random.integers(0, 10**6, 900))], 1)
            header = b"#!AER-DAT2.0\r\n"
            (folder / f"cifar10_{name}_{k}.aedat").write_bytes(
                header + words.astype(">u4").tobytes()
            )


@pytest.mark.parametrize(
    ("experiment", "make", "words", "parameters", "frames"),
    [
        ("dvs_gesture_7b", gestures, ["dataset.steps=4", "dataset.train_frames=3"], 130_426, 3),
        ("cifar10_dvs_wide7b", pictures, ["dataset.steps=2"], 1_192_218, 2),
    ],
)
def test_an_epoch_on_made_recordings(tmp_path, experiment, make, words, parameters, frames):
    make(tmp_path)
    words = [
        f"experiment=sew_resnet/{experiment}",
        f"paths.data={tmp_path}",
        "ema=0.9",
        *SHORT,
        *words,
    ]
    cfg = composed(Choices(), words)
    seen = []
    quiet()
    run = Run(without_hydra(cfg), tmp_path / "run", group_defaults(cfg), words)
    run.folder.mkdir()

    from snnrun.model import EventResNet

    forward = EventResNet.forward

    def watched(net, x):
        seen.append((net.training, tuple(x.shape[:2])))
        return forward(net, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventResNet, "forward", watched)
        outcome = train(run, bar=False)
    assert (outcome["status"], outcome["parameters"]) == ("completed", parameters)
    assert outcome["steps"] == 2 and outcome["selection"]["best_val"] is None
    assert 0 < outcome["metrics"]["train/loss"] < 10
    assert [shape for training, shape in seen if training] == [(frames, 1)] * 2
