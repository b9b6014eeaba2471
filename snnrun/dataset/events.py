"""Recordings of events, binned into frames once, and the data sets of event cameras."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from snnrun.dataset.base import CorruptData, DataModule, MissingData, Samples, reading
from snnrun.dataset.binning import VERSION, bin_events, check_binning
from snnrun.dataset.cache import cached_frames
from snnrun.dataset.static import random_crop

log = logging.getLogger(__name__)

Events = Mapping[str, np.ndarray] | np.ndarray


class EventRecordings(DataModule):
    """Recordings of events, counted in T bins; a sample is `(T, *shape)`.

    The frames of a split are computed once and kept under `.snnrun_cache` in the data folder, in a
    file for each choice of binning. A subclass says where its files are and how one is read.

    **Arguments:** those of `DataModule`, and

    - `binning`: T bins of equal duration (`time`) or with equally many events (`count`).
    - `window`: duration of a bin in microseconds, instead of a T-th of the recording; what lies
      beyond T bins is left out.
    - `binary`: 1 where there was any event, instead of their number.
    - `cache`: keep the frames in a file; otherwise they are computed anew at each start and held in
      memory.
    - `crop`: in training, pad sensors by that many zeros on each side and crop the old size at random.
    - `train_frames`: train on that many of the T frames, drawn anew for every batch, in their order and the same for
      all of its samples; 0 for all. Evaluation sees all of them.
    - `drop_last`: leave out a last training batch that is not full.
    """

    # where the first window begins; None: at the first event, for clocks that start anywhere
    start: float | None = 0.0
    patterns: Mapping[str, str]  # split -> its files, inside the folder
    published: Mapping[str, str]  # split -> what the archive holds, its name and checksum

    def __init__(
        self,
        root: str,
        *,
        binning: Literal["time", "count"] = "time",
        window: float | None = None,
        binary: bool = False,
        cache: bool = True,
        crop: int = 0,
        train_frames: int = 0,
        drop_last: bool = False,
        **common: Any,
    ):
        super().__init__(root, **common)
        check_binning(binning, window)
        if not 0 <= train_frames <= self.steps:
            raise ValueError(
                f"dataset.train_frames is a number of frames up to dataset.steps={self.steps}, 0 for all; got"
                f" {train_frames}."
            )
        if crop < 0:
            raise ValueError(f"dataset.crop is a number of sensors, 0 for none; got {crop}.")
        self.binning, self.window, self.binary, self.cache = binning, window, binary, cache
        self.crop, self.train_frames, self.drop_last = crop, train_frames, drop_last

    @property
    def folder(self) -> Path:
        """The folder of this data set, named as tonic names it."""
        return Path(self.root, type(self).__name__)

    def files(self, split: str) -> list[Path]:
        """The files of a split in the order of their paths; empty if none is in place."""
        return sorted(self.folder.glob(self.patterns[split]))

    def missing(self) -> str:
        """The splits without files."""
        lost = {
            self.patterns[split]: detail
            for split, detail in self.published.items()
            if not self.files(split)
        }
        return self._missing(self.folder, lost)

    def fetch(self) -> None:
        """Download with tonic."""
        import tonic

        for split in self.published:
            if not self.files(split):
                getattr(tonic.datasets, type(self).__name__)(self.root, **self.called(split))

    def called(self, split: str) -> dict[str, Any]:
        """How tonic calls a split."""
        return {"train": split == "train"}

    def load(self, split: str) -> Samples:
        """The frames of a split, from the cache or from its recordings."""
        return cached_frames(
            self.cache_path(split) if self.cache else None, lambda: self._frames(split)
        )

    def cache_path(self, split: str) -> Path:
        """The file for the frames of a split; its name holds a hash of all that they depend on."""
        digest = hashlib.sha256(json.dumps(self.cache_key(split)).encode()).hexdigest()[:16]
        return Path(self.root, ".snnrun_cache", f"{self.option}-{split}-{digest}.npy")

    def cache_key(self, split: str) -> dict[str, Any]:
        """All that the frames of a split depend on."""
        return {
            "class": type(self).__name__,
            "version": VERSION,
            "frames": [self.steps, *type(self).shape],
            "binning": [self.binning, self.window, self.start, self.binary],
            "files": [
                (p.relative_to(self.root).as_posix(), s.st_size, s.st_mtime_ns)
                for p in self.files(split)
                for s in [p.stat()]
            ],
        }

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Counts as floats; in training of the frames drawn for this batch, and shifted."""
        if train and self.train_frames:
            drawn = torch.randperm(x.shape[1])[: self.train_frames].sort().values
            x = x[:, drawn.to(x.device)]
        if train and self.crop:
            images = x.flatten(1, -3) if x.dim() > 3 else x.unsqueeze(2)
            x = random_crop(images, self.crop if x.dim() > 3 else 0, self.crop).view(x.shape)
        return x.float()

    def _frames(self, split: str) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        labels, recordings = self.read(split)
        log.info("binning %d recordings of dataset=%s", len(labels), self.option)
        options: dict[str, Any] = {
            "sensor": type(self).shape,
            "steps": self.steps,
            "by": self.binning,
            "binary": self.binary,
        }
        options |= {"window": self.window, "start": self.start}
        return labels, (
            bin_events(events, source=source, **options) for source, events in recordings
        )

    def read(self, split: str) -> tuple[np.ndarray, Iterator[tuple[str, Events]]]:
        """Labels of all recordings of a split; of one after the other its name and its events, in us."""
        raise NotImplementedError(f"{type(self).__name__} must define read(split).")


class FileEach(EventRecordings):
    """Recordings in a file each, the label in its path."""

    def read(self, split: str) -> tuple[np.ndarray, Iterator[tuple[str, Events]]]:
        """See `EventRecordings.read`."""
        files = self.files(split)
        return np.array([self.label(path) for path in files]), (
            (str(path), self._read(path)) for path in files
        )

    def _read(self, path: Path) -> Events:
        with reading(path):
            return self.events(path)

    def label(self, path: Path) -> int:
        """The class of a recording: the number that its folder is called."""
        name = path.parent.name
        if not (name.isdecimal() and int(name) < self.num_classes):
            raise CorruptData(
                f"{path}: its folder should be called by the number of its class, 0 to "
                f"{self.num_classes - 1}."
            )
        return int(name)

    def events(self, path: Path) -> Events:
        """The events of a recording."""
        raise NotImplementedError(f"{type(self).__name__} must define events(path).")


class NMNIST(FileEach):
    """MNIST digits seen by a moving event camera, 60,000 + 10,000 recordings of 0.3 s.

    **Arguments:** those of `EventRecordings`, and

    - `stabilize`: undo the camera's three movements of 105 ms each, so that the digit stands still;
      events that come to lie outside the frame are left out.

    Orchard, Jayawant, Cohen & Thakor, *Converting Static Image Datasets to Spiking Neuromorphic
    Datasets Using Saccades*, 2015.
    """

    traits = frozenset({"events", "spatial"})
    places = ("NMNIST/Train/*/*.bin", "NMNIST/Test/*/*.bin")
    option = "nmnist"
    shape = (2, 34, 34)
    num_classes = 10
    patterns = MappingProxyType({"train": "Train/*/*.bin", "test": "Test/*/*.bin"})
    published = MappingProxyType(
        {
            "train": "60,000 recordings of 5 bytes an event, published in train.zip, MD5 "
            "20959b8e626244a1b502305a9e6e2031",
            "test": "10,000 recordings of 5 bytes an event, published in test.zip, MD5 "
            "69ca8762b2fe404d9b9bad1103e97832",
        }
    )

    def __init__(self, root: str, *, stabilize: bool = False, **common: Any):
        super().__init__(root, **common)
        self.stabilize = stabilize

    def cache_key(self, split: str) -> dict[str, Any]:
        """With the stabilisation, where it is on."""
        return super().cache_key(split) | ({"stabilize": 1} if self.stabilize else {})

    def events(self, path: Path) -> Events:
        """Read with tonic, which also undoes the overflows of the clock."""
        from tonic.io import read_mnist_file

        if size := path.stat().st_size % 5:
            raise ValueError(f"{size} bytes are left over after the last event of 5 bytes")
        events = read_mnist_file(str(path), dtype=np.dtype([(name, np.int64) for name in "xytp"]))
        return stand_still(events) if self.stabilize else events


def stand_still(events: Events) -> Events:
    """Move the events of N-MNIST against the saccades, which shifted the digit by 3.5 pixels across and 7 down,
    3.5 across and 7 up, and 7 back, in 105 ms each. Events beyond the left or upper edge are left out.

    Orchard et al. 2015, as in the software published with the data set.
    """
    t = np.asarray(events["t"]) / 105_000
    across = np.where(t <= 2, 3.5 * t, 7 - 7 * (t - 2))
    down = np.interp(t, [0, 1, 2], [0, 7, 0])
    x = np.floor(events["x"] - across + 0.5).astype(np.int64)
    y = np.floor(events["y"] - down + 0.5).astype(np.int64)
    inside = (x >= 0) & (y >= 0) & (x < 34)
    kept = {"x": x, "y": y, "p": np.asarray(events["p"]), "t": np.asarray(events["t"])}
    return {name: values[inside] for name, values in kept.items()}


class DVSGesture(FileEach):
    """Eleven gestures of 29 people before an event camera, 1,077 + 264 recordings as cut by tonic.

    **Arguments:** see `EventRecordings`.

    Amir et al., *A Low Power, Fully Event-Based Gesture Recognition System*, CVPR 2017.
    """

    traits = frozenset({"events", "spatial"})
    places = ("DVSGesture/ibmGestureTrain/*/*.npy", "DVSGesture/ibmGestureTest/*/*.npy")
    option = "dvs_gesture"
    shape = (2, 128, 128)
    num_classes = 11
    start = None
    patterns = MappingProxyType(
        {"train": "ibmGestureTrain/*/*.npy", "test": "ibmGestureTest/*/*.npy"}
    )
    published = MappingProxyType(
        {
            "train": "1,077 arrays user<n>_<light>/<class>.npy, published in "
            "ibmGestureTrain.tar.gz, MD5 3a8f0d4120a166bac7591f77409cb105",
            "test": "264 arrays user<n>_<light>/<class>.npy, published in ibmGestureTest.tar.gz, "
            "MD5 56070e45dadaa85fff82e0fbfbc06de5",
        }
    )

    def label(self, path: Path) -> int:
        """The class of a recording: the number that its file is called."""
        if not (path.stem.isdecimal() and int(path.stem) < self.num_classes):
            raise CorruptData(
                f"{path}: it should be called by the number of its class, 0 to "
                f"{self.num_classes - 1}."
            )
        return int(path.stem)

    def events(self, path: Path) -> Events:
        """Rows of x, y, p and t, the last in milliseconds."""
        table = np.load(path, allow_pickle=False)
        if table.ndim != 2 or table.shape[1] != 4:
            raise ValueError(f"an array of shape {table.shape}, not rows of x, y, p, t")
        return {
            "x": table[:, 0],
            "y": table[:, 1],
            "p": table[:, 2],
            "t": table[:, 3].astype(np.float64) * 1000,
        }


class CIFAR10DVS(FileEach):
    """CIFAR-10 images moved before an event camera, 10 x 1,000 recordings.

    The first nine tenths of each class, in the order of paths, are for training, unless a stored split says otherwise.
    Recordings may be the original ones (`.aedat`) or in AEDAT 4, as tonic fetches them (`.aedat4`).

    **Arguments:** those of `EventRecordings`, and

    - `split_file`: a text file that names the recordings for testing, one a line, as `<class>/<file>`; an ending may
      be left out.
    - `resize`: side of the frames, of which the nearest sensors are taken; null for all 128. `crop` is in their pixels.
    - `flip`: in training, mirror every second recording at random.
    - `roll`: in training, move recordings by up to that many pixels either way, what leaves on one side coming in on
      the other.

    Li, Liu, Ji, Li & Shi, *CIFAR10-DVS: An Event-Stream Dataset for Object Classification*, 2017.
    """

    traits = frozenset({"events", "spatial"})
    places = (("CIFAR10DVS/airplane/*.aedat4", "CIFAR10DVS/airplane/*.aedat"),)
    option = "cifar10_dvs"
    shape = (2, 128, 128)
    num_classes = 10
    start = None
    classes = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    patterns = MappingProxyType({"train": "<class>/*.aedat4"})
    published = MappingProxyType(
        {
            "train": "10 x 1,000 recordings (.aedat will do), published in CIFAR10DVS.zip, MD5 "
            "ce3a4a0682dc0943703bd8f749a7701c"
        }
    )

    def __init__(
        self,
        root: str,
        *,
        split_file: str | None = None,
        resize: int | None = None,
        flip: bool = False,
        roll: int = 0,
        **common: Any,
    ):
        super().__init__(root, **common)
        if resize is not None and not 1 <= resize <= 128:
            raise ValueError(f"dataset.resize is a side of 1 to 128, null for 128; got {resize}.")
        if roll < 0:
            raise ValueError(f"dataset.roll is a number of pixels, 0 for none; got {roll}.")
        self.split_file = Path(split_file).expanduser() if split_file else None
        self.flip, self.roll = flip, roll
        if resize is not None:
            self.shape = (2, resize, resize)

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Counts as floats, resized; in training mirrored and moved."""
        if (side := self.shape[-1]) != (whole := type(self).shape[-1]):
            nearest = torch.arange(side, device=x.device) * whole // side
            x = x[..., nearest, :][..., nearest]
        x = super().transform(x, train)
        if train and self.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1, 1).to(x.device) < 0.5, x.flip(-1), x)
        if train and self.roll:
            moves = torch.randint(-self.roll, self.roll + 1, (len(x), 2)).tolist()
            x = torch.stack([s.roll(move, (-2, -1)) for s, move in zip(x, moves, strict=True)])
        return x

    def files(self, split: str) -> list[Path]:
        """The first nine tenths of each class, or the others; or what a stored split says. In the order of paths."""
        by_class = [
            sorted([*self.folder.glob(f"{name}/*.aedat"), *self.folder.glob(f"{name}/*.aedat4")])
            for name in self.classes
        ]
        if self.split_file and any(by_class):
            every = [path for files in by_class for path in files]
            chosen = self._stored(every, self.split_file)
            return [path for path in every if (path in chosen) == (split == "test")]
        cuts = [len(files) * 9 // 10 for files in by_class]
        halves = zip(by_class, cuts, strict=True)
        return [
            p for files, cut in halves for p in (files[:cut] if split == "train" else files[cut:])
        ]

    def _stored(self, files: list[Path], source: Path) -> set[Path]:
        """The recordings that a split file names."""
        if not source.is_file():
            raise MissingData(f"dataset.split_file={source}: there is no such file.")
        place = {f"{path.parent.name}/{path.stem}": path for path in files}
        with reading(source):
            lines = [line.strip() for line in source.read_text().splitlines() if line.strip()]
        unknown = [line for line in lines if line.removesuffix(Path(line).suffix) not in place]
        if unknown:
            raise CorruptData(
                f"{source} names recordings that are not in {self.folder}: {', '.join(unknown[:5])}"
                f"{f', and {len(unknown) - 5} more' if len(unknown) > 5 else ''}."
            )
        return {place[line.removesuffix(Path(line).suffix)] for line in lines}

    def fetch(self) -> None:
        """Download with tonic."""
        import tonic

        tonic.datasets.CIFAR10DVS(self.root)

    def label(self, path: Path) -> int:
        """The class of a recording: that of its folder's name."""
        return self.classes.index(path.parent.name)

    def events(self, path: Path) -> Events:
        """AEDAT 4 is read with tonic.

        AEDAT 2 is lines that start with #, then pairs of big-endian words, address and time.
        """
        if path.suffix == ".aedat4":
            return _aedat4(path)
        content = path.read_bytes()
        begin = 0
        while content[begin : begin + 1] == b"#":
            begin = content.index(b"\n", begin) + 1
        words = np.frombuffer(content, ">u4", offset=begin).reshape(-1, 2).astype(np.int64)
        # the camera lay on its side: bits 8-14 run along the image's width and bits 1-7 along its
        # height, both backwards; bit 0 is 0 for ON
        address, t = words.T
        return {
            "x": 127 - (address >> 8 & 127),
            "y": 127 - (address >> 1 & 127),
            "p": 1 - (address & 1),
            "t": t,
        }


def _aedat4(path: Path) -> Events:
    from tonic.io import read_aedat4

    try:
        events = read_aedat4(str(path))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is in AEDAT 4, which needs the package aedat: pip install aedat."
        ) from error
    except Exception as error:  # the decoder raises RuntimeError, tonic a plain Exception
        raise ValueError(error) from error
    return dict(zip("txyp", (events[name] for name in events.dtype.names), strict=True))
