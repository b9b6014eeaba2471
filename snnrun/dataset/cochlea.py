"""Data sets of artificial cochleas."""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from snnrun.dataset.base import CorruptData, reading
from snnrun.dataset.events import EventRecordings, Events


class CochleaSpikes(EventRecordings):
    """Spikes of an artificial cochlea; a split is one HDF5 file, read once, front to back."""

    def read(self, split: str) -> tuple[np.ndarray, Iterator[tuple[str, Events]]]:
        """See `EventRecordings.read`; times are seconds in half precision."""
        (path,) = self.files(split)
        with reading(path), _hdf5(path) as file:
            counts = [len(file[key]) for key in ("labels", "spikes/times", "spikes/units")]
            if len(set(counts)) > 1:
                raise ValueError("{} labels, {} times and {} units".format(*counts))
            labels = np.asarray(file["labels"][:]).astype(np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise CorruptData(f"{path} holds labels other than 0 to {self.num_classes - 1}.")
        return labels, self._spikes(path, len(labels))

    def _spikes(self, path: Path, n: int, block: int = 256) -> Iterator[tuple[str, Events]]:
        for first in range(0, n, block):
            with reading(path), _hdf5(path) as file:
                times, units = (
                    file[f"spikes/{key}"][first : first + block] for key in ("times", "units")
                )
            for i, (t, x) in enumerate(zip(times, units, strict=True), first):
                yield f"{path}, recording {i}", {"t": np.asarray(t, np.float64) * 1e6, "x": x}


def _hdf5(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")


class SHD(CochleaSpikes):
    """Spoken digits in English and German as spikes of 700 channels, 8,156 + 2,264 recordings.

    **Arguments:** see `EventRecordings`.

    Cramer, Stradmann, Schemmel & Zenke, *The Heidelberg Spiking Data Sets for the Systematic
    Evaluation of Spiking Neural Networks*, 2022.
    """

    traits = frozenset({"events"})
    places = ("SHD/shd_train.h5", "SHD/shd_test.h5")
    option = "shd"
    shape = (700,)
    num_classes = 20
    patterns = MappingProxyType({"train": "shd_train.h5", "test": "shd_test.h5"})
    published = MappingProxyType(
        {
            "train": "8,156 recordings, published in shd_train.h5.zip, MD5 "
            "f3252aeb598ac776c1b526422d90eecb",
            "test": "2,264 recordings, published in shd_test.h5.zip, MD5 "
            "1503a5064faa34311c398fb0a1ed0a6f",
        }
    )


class SSC(CochleaSpikes):
    """Spoken commands, 35 words, as spikes of 700 channels, 75,466 + 9,981 + 20,382 recordings.

    The middle part is the published validation split; it is used where `val_size` is null.

    **Arguments:** see `EventRecordings`.

    Cramer, Stradmann, Schemmel & Zenke, *The Heidelberg Spiking Data Sets for the Systematic
    Evaluation of Spiking Neural Networks*, 2022.
    """

    traits = frozenset({"events"})
    places = ("SSC/ssc_train.h5", "SSC/ssc_valid.h5", "SSC/ssc_test.h5")
    option = "ssc"
    shape = (700,)
    num_classes = 35
    patterns = MappingProxyType(
        {"train": "ssc_train.h5", "val": "ssc_valid.h5", "test": "ssc_test.h5"}
    )
    published = MappingProxyType(
        {
            "train": "75,466 recordings, published in ssc_train.h5.zip, MD5 "
            "d102be95e7144fcc0553d1f45ba94170",
            "val": "9,981 recordings, published in ssc_valid.h5.zip, MD5 "
            "b4eee3516a4a90dd0c71a6ac23a8ae43",
            "test": "20,382 recordings, published in ssc_test.h5.zip, MD5 "
            "a35ff1e9cffdd02a20eb850c17c37748",
        }
    )

    def __init__(self, root: str, *, val_size: float | None = None, folds: int = 0, **common: Any):
        super().__init__(root, val_size=val_size or 0.0, folds=folds, **common)
        if folds and val_size is None:
            raise ValueError(
                "dataset.val_size must be set with dataset.folds: the published validation split "
                "is in no fold."
            )
        self.published_val = val_size is None

    def setup(self, stage: str | None = None) -> None:
        """Read the splits; with `val_size` as null, validation data are the published ones."""
        if self.samples:
            return
        super().setup(stage)
        if self.published_val:
            self.samples["val"] = self.load("val")
            self.indices["val"] = torch.arange(len(self.samples["val"]))

    def called(self, split: str) -> dict[str, Any]:
        """How tonic calls a split."""
        return {"split": "valid" if split == "val" else split}


class NTIDIGITS18(EventRecordings):
    """Spoken digits, zero called o or z, as spikes of 64 channels, single ones: 2,475 + 2,474 recordings.

    The file also holds sequences of digits, which are left out.

    **Arguments:** see `EventRecordings`.

    Anumula, Neil, Delbruck & Liu, *Feature Representations for Neuromorphic Audio Spike Streams*, 2018.
    """

    traits = frozenset({"events"})
    places = ("NTIDIGITS18/n-tidigits.hdf5",)
    option = "ntidigits"
    shape = (64,)
    words = "o123456789z"
    num_classes = 11
    patterns = MappingProxyType({"train": "n-tidigits.hdf5", "test": "n-tidigits.hdf5"})
    published = MappingProxyType(
        dict.fromkeys(
            ("train", "test"),
            "2,475 and 2,474 recordings of single digits, MD5 360a2d11e5429555c9197381cf6b58e0",
        )
    )

    def read(self, split: str) -> tuple[np.ndarray, Iterator[tuple[str, Events]]]:
        """See `EventRecordings.read`; times are seconds."""
        (path,) = self.files(split)
        with reading(path), _hdf5(path) as file:
            names = [name.decode() for name in file[f"{split}_labels"]]
        single = [name for name in names if name.rpartition("-")[2] in [*self.words]]
        labels = [self.words.index(name[-1]) for name in single]
        return np.array(labels, np.int64), self._spikes(path, split, single)

    def _spikes(self, path: Path, split: str, names: list[str]) -> Iterator[tuple[str, Events]]:
        for name in names:
            with reading(path), _hdf5(path) as file:
                seconds, x = (
                    np.asarray(file[f"{split}_{key}"][name]) for key in ("timestamps", "addresses")
                )
            yield f"{path}, {split} recording {name}", {"t": seconds * 1e6, "x": x}
