"""Spoken words of TI46, heard by Lyon's model of the ear and written as spikes by BSA."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from snnrun.dataset.base import CorruptData
from snnrun.dataset.events import Events, FileEach

RATE = 12_500  # samples a second
FRAME = 200  # samples that the ear makes one value of
STEPS = 10  # of a spike train in a frame
STEP = FRAME * 1_000_000 // (STEPS * RATE)  # us
GAIN = 2000.0  # on the ear's output


def kernel(length: int = 24, width: float = 25.0) -> np.ndarray:
    r"""What a spike stands for: $e^{-(i - n/2)^2 / w}$, divided by its sum."""
    shape = np.exp(-((np.arange(length) - length / 2) ** 2) / width)
    return shape / shape.sum()


def bsa(signal: np.ndarray, shape: np.ndarray, threshold: float = 0.6) -> np.ndarray:
    r"""Write signals as spikes that give them back when they are filtered (Ben's spiker algorithm).

    A channel fires in step t if what follows comes closer to 0 without one kernel h, by more than a threshold:

    $$\sum_i |x_{t+i}| - |x_{t+i} - h_i| > \theta, \qquad \text{then} \quad x_{t+i} \leftarrow x_{t+i} - h_i$$

    **Arguments:**

    - `signal`: `(T, channels)`; silence is assumed behind it.
    - `shape`: h.
    - `threshold`: $\theta$.

    Returns `(T, channels)`, true where there is a spike.

    Schrauwen & Van Campenhout, *BSA, a fast and accurate spike train encoding scheme*, IJCNN 2003, where the threshold
    is a factor; a difference as in the code of Zhang & Li, NeurIPS 2019.
    """
    rest = np.concatenate([signal, np.zeros((len(shape), signal.shape[1]))])
    spikes, h = np.zeros(signal.shape, bool), shape[:, None]
    for t in range(len(signal)):
        ahead = rest[t : t + len(shape)]
        gained = np.abs(ahead).sum(0) - np.abs(ahead - h).sum(0)
        spikes[t] = gained > threshold
        ahead -= h * spikes[t]
    return spikes


class TI46(FileEach):
    """Words of TI46, recorded at 12.5 kHz; a step of their spikes is 1.6 ms.

    **Arguments:** see `EventRecordings`.
    """

    traits = frozenset({"events"})
    shape = (78,)
    first: str  # of the words: the character that file names have in the second place
    obtain = "TI46 is sold by the Linguistic Data Consortium, as LDC93S9."

    def __init__(self, root: str, *, window: float | None = float(STEP), **common: Any):
        super().__init__(root, window=window, **common)

    @property
    def folder(self) -> Path:
        """The folder of TI46."""
        return Path(self.root, "TI46")

    def label(self, path: Path) -> int:
        """The class of a recording: the number of its word, which its name begins with."""
        label = ord(path.name[1]) - ord(self.first)
        if not 0 <= label < self.num_classes:
            last = chr(ord(self.first) + self.num_classes - 1)
            raise CorruptData(f"{path}: its name should begin with 0{self.first} to 0{last}.")
        return label

    def events(self, path: Path) -> Events:
        """Spikes of 78 channels, from a file in WAV or NIST SPHERE format."""
        try:
            import soundfile
            from lyon.calc import LyonCalc  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f'{path} needs the packages lyon and soundfile: pip install "snnrun[ti46]".'
            ) from error
        try:
            wave, rate = soundfile.read(path, dtype="float64")
        except soundfile.LibsndfileError as error:
            raise ValueError(error) from error
        if rate != RATE or wave.ndim != 1:
            raise CorruptData(f"{path} is not one channel at {RATE} Hz.")
        heard = LyonCalc().lyon_passive_ear(wave, RATE, FRAME)
        step, channel = bsa(np.repeat(heard * GAIN, STEPS, axis=0), kernel()).nonzero()
        return {"t": (step + 1) * STEP, "x": channel}


class TI46Digits(TI46):
    """Spoken digits, 1,594 + 2,474 recordings of 16 people, as spikes of a model of the ear.

    **Arguments:** see `EventRecordings`.

    Liberman et al., *TI 46-Word*, LDC93S9, 1993; Lyon, ICASSP 1982, as the code of Zhang & Li, NeurIPS 2019.
    """

    places = ("TI46/ti20/train/*/0*.wav", "TI46/ti20/test/*/0*.wav")
    option = "ti46_digits"
    num_classes = 10
    first = "0"
    patterns = MappingProxyType({"train": "ti20/train/*/0*.wav", "test": "ti20/test/*/0*.wav"})
    published = MappingProxyType({"train": "1,594 recordings", "test": "2,474 recordings"})


class TI46Alpha(TI46):
    """Spoken letters, 4,142 + 6,628 recordings of 16 people, as spikes of a model of the ear.

    **Arguments:** see `EventRecordings`.

    Liberman et al., *TI 46-Word*, LDC93S9, 1993; Lyon, ICASSP 1982, as the code of Zhang & Li, NeurIPS 2019.
    """

    places = ("TI46/ti_alpha/train/*/0*.wav", "TI46/ti_alpha/test/*/0*.wav")
    option = "ti46_alpha"
    num_classes = 26
    first = "a"
    patterns = MappingProxyType(
        {"train": "ti_alpha/train/*/0*.wav", "test": "ti_alpha/test/*/0*.wav"}
    )
    published = MappingProxyType({"train": "4,142 recordings", "test": "6,628 recordings"})
