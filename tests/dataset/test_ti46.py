"""TI46 in its published layout, made of tones; spikes held to a plain loop over the algorithm."""

import sys
from pathlib import Path

import numpy as np
import pytest

from snnrun.check import composed
from snnrun.config import Choices
from snnrun.dataset import CorruptData, MissingData, TI46Alpha, TI46Digits
from snnrun.dataset.ti46 import GAIN, bsa, kernel

soundfile = pytest.importorskip("soundfile")
calc = pytest.importorskip("lyon.calc", exc_type=ImportError)
OPTIONS = {"steps": 700, "batch_size": 2}


def tone(seed: int, seconds: float = 0.4) -> np.ndarray:
    random = np.random.default_rng(seed)
    t = np.arange(int(12_500 * seconds)) / 12_500
    return 0.3 * np.sin(2 * np.pi * random.uniform(200, 3000) * t) * np.hanning(len(t))


def make(root: Path) -> None:
    names = {
        "ti20/train/f1": ["00f1set0", "03f1set2", "enf1set0"],
        "ti20/test/m2": ["09m2s1t0", "01m2s4t1"],
        "ti_alpha/train/f1": ["0af1set0", "0zf1set1"],
        "ti_alpha/test/m2": ["0cm2s1t0", "0cm2s1t1"],
    }
    seed = 0
    for folder, files in names.items():
        (root / "TI46" / folder).mkdir(parents=True)
        for name in files:
            seed += 1
            kind = "NIST" if seed % 2 else "WAV"
            path = root / "TI46" / folder / f"{name}.wav"
            soundfile.write(path, tone(seed), 12_500, subtype="PCM_16", format=kind)


def by_hand(signal: np.ndarray, shape: np.ndarray, threshold: float) -> list[int]:
    rest, found = [*signal, *[0.0] * len(shape)], []
    for t in range(len(signal)):
        kept = sum(abs(rest[t + i]) for i in range(len(shape)))
        less = sum(abs(rest[t + i] - h) for i, h in enumerate(shape))
        if less < kept - threshold:
            found.append(t)
            for i, h in enumerate(shape):
                rest[t + i] -= h
    return found


def test_spikes_are_those_of_the_algorithm_and_give_the_signal_back():
    t = np.arange(400)[:, None]
    signal = 0.25 + 0.2 * np.sin(2 * np.pi * t / np.array([80.0, 120.0, 200.0]))
    spikes = bsa(signal, kernel())
    for channel in range(3):
        expected = by_hand(signal[:, channel], kernel(), 0.6)
        assert spikes[:, channel].nonzero()[0].tolist() == expected and len(expected) > 50
        back = np.convolve(spikes[:, channel], kernel())[24:376]
        assert np.corrcoef(back, signal[24:376, channel])[0, 1] > 0.95
    assert kernel().sum() == pytest.approx(1) and kernel().argmax() == 12


@pytest.mark.parametrize(
    "data, labels", [(TI46Digits, [[0, 3], [1, 9]]), (TI46Alpha, [[0, 25], [2, 2]])]
)
def test_recordings_become_spikes_of_their_words(tmp_path, data, labels):
    make(tmp_path)
    module = data(str(tmp_path), val_size=0, **OPTIONS)
    module.setup()
    assert [module.samples[split].targets.tolist() for split in ("train", "test")] == labels
    x, _ = module.samples["train"][[1]]
    assert x.shape == (1, 700, 78) and x.max() == 1
    (path,) = module.files("train")[1:]
    wave, _ = soundfile.read(path)
    heard = calc.LyonCalc().lyon_passive_ear(wave, 12_500, 200)
    channel = int(heard.max(0).argmax())
    fired = by_hand(np.repeat(heard[:, channel] * GAIN, 10), kernel(), 0.6)
    assert x[0, :, channel].nonzero()[:, 0].tolist() == [t + 1 for t in fired] and fired


def test_what_lies_beyond_the_last_step_is_left_out(tmp_path):
    make(tmp_path)
    path = tmp_path / "TI46/ti20/train/f1/00f1set0.wav"
    soundfile.write(path, tone(1, 1.5), 12_500, format="WAV")
    module = TI46Digits(str(tmp_path), val_size=0, **OPTIONS)
    module.setup()
    x, _ = module.samples["train"][[0]]
    assert x.sum() > 0 and x[0, -1].sum() < 20


@pytest.mark.parametrize("download", [False, True])
def test_missing_recordings_say_where_they_are_had(tmp_path, download):
    module = TI46Alpha(str(tmp_path), download=download, **OPTIONS)
    module.prepare_data()
    with pytest.raises(MissingData) as error:
        module.setup()
    assert str(error.value) == (
        f"dataset=ti46_alpha: 2 files are missing in {tmp_path}/TI46:\n"
        "  ti_alpha/train/*/0*.wav  4,142 recordings\n"
        "  ti_alpha/test/*/0*.wav   6,628 recordings\n"
        "Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds TI46. TI46 is sold by"
        " the Linguistic Data Consortium, as LDC93S9."
    )


def test_files_that_are_no_such_recordings(tmp_path):
    make(tmp_path)
    path = tmp_path / "TI46/ti20/test/m2/01m2s4t1.wav"
    soundfile.write(path, tone(1), 16_000, format="WAV")
    with pytest.raises(CorruptData) as error:
        TI46Digits(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == f"{path} is not one channel at 12500 Hz."
    odd = path.rename(path.with_name("0xm2s4t1.wav"))
    with pytest.raises(CorruptData) as error:
        TI46Digits(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == f"{odd}: its name should begin with 00 to 09."
    odd.rename(path).write_bytes(b"RIFF")
    with pytest.raises(CorruptData, match="is truncated or damaged") as error:
        TI46Digits(str(tmp_path), **OPTIONS).setup()
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("package", ["lyon.calc", "soundfile"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    make(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"snnrun\[ti46\]\"\.$"):
        TI46Digits(str(tmp_path), **OPTIONS).setup()


@pytest.mark.parametrize("option", ["ti46_digits", "ti46_alpha"])
def test_a_step_is_that_of_the_spikes(option):
    cfg = composed(Choices(), [f"dataset={option}"])
    assert (cfg.dataset.steps, cfg.dataset.window) == (700, 1600.0)
