"""Made recordings in the published layouts; N-MNIST also real, where SNNRUN_DATA says it is."""

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tonic
import torch

from snnrun.dataset import (
    CIFAR10DVS,
    NMNIST,
    NTIDIGITS18,
    SHD,
    SSC,
    CorruptData,
    DVSGesture,
    MissingData,
)
from snnrun.dataset.binning import bin_events
from snnrun.dataset.events import stand_still

REAL = os.environ.get("SNNRUN_DATA", "")
ALL = [NMNIST, DVSGesture, CIFAR10DVS, SHD, SSC, NTIDIGITS18]
OPTIONS: dict[str, Any] = {"steps": 5, "batch_size": 4}
LEFT = "It was left as it is: put a good copy in its place."


def made_events(seed: int, shape: tuple[int, ...], n: int = 40) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = {
        name: random.integers(0, size, n)
        for name, size in zip("pyx"[-len(shape) :], shape, strict=True)
    }
    return {**columns, "t": np.sort(random.integers(0, 300_000, n))}


def write_nmnist(path: Path, events) -> None:
    t, p = events["t"], events["p"]
    columns = [events["x"], events["y"], p << 7 | t >> 16, t >> 8 & 255, t & 255]
    path.write_bytes(np.stack(columns, 1).astype(np.uint8).tobytes())


def write_gesture(path: Path, events) -> None:
    np.save(path, np.stack([events[name] for name in "xyp"] + [events["t"] // 1000], 1))


def write_aedat(path: Path, events) -> None:
    address = 127 - events["x"] << 8 | 127 - events["y"] << 1 | 1 - events["p"]
    words = np.stack([address, events["t"]], 1).astype(">u4")
    path.write_bytes(
        b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n" + words.tobytes()
    )


def write_hdf5(path: Path, labels, recordings) -> None:
    with h5py.File(path, "w") as file:
        kinds = {"times": np.float16, "units": np.uint16}
        for key, kind in kinds.items():
            column = file.create_dataset(f"spikes/{key}", (len(labels),), h5py.vlen_dtype(kind))
            for i, events in enumerate(recordings):
                column[i] = (events["t"] / 1e6 if key == "times" else events["x"]).astype(kind)
        file["labels"] = np.array(labels, np.uint16)
        file["extra/keys"] = np.array([b"zero", b"one"])
        file["extra/speaker"] = np.zeros(len(labels), np.uint16)


def write_tidigits(path: Path, held: dict[str, list]) -> None:
    """Each recording under its name, and between them a sequence of digits."""
    with h5py.File(path, "w") as file:
        for split in ("train", "test"):
            names = [
                f"ae-{i}-{NTIDIGITS18.words[label]}" for i, (label, _) in enumerate(held[split])
            ]
            file[f"{split}_labels"] = np.array([*names[:1], "ae-9-12z", *names[1:]], "S")
            for name, (_, events) in zip(names, held[split], strict=True):
                file[f"{split}_timestamps/{name}"] = events["t"] / 1e6
                file[f"{split}_addresses/{name}"] = events["x"].astype(np.uint8)


def make(data, root: Path) -> dict[str, list[tuple[int, dict]]]:
    """Write a small data set in its published layout; what it holds, in the order of paths."""
    held: dict[str, list] = {"train": [], "val": [], "test": []}
    seed = 0
    if data in (SHD, SSC):
        folder = root / data.__name__
        folder.mkdir(parents=True)
        for split, name in data.patterns.items():
            for label in (3, 0, 2, 1, 3):
                seed += 1
                events = made_events(seed, data.shape, 40 if label else 0)
                events["t"] = (events["t"] / 1e6).astype(np.float16).astype(float) * 1e6
                held[split].append((label, events))
            write_hdf5(
                folder / name, [label for label, _ in held[split]], [e for _, e in held[split]]
            )
        return held
    if data is NTIDIGITS18:
        path = root / "NTIDIGITS18/n-tidigits.hdf5"
        path.parent.mkdir(parents=True)
        for split in ("train", "test"):
            for label in (3, 0, 10, 1, 3):
                seed += 1
                held[split].append((label, made_events(seed, data.shape)))
        write_tidigits(path, held)
        return held
    if data is CIFAR10DVS:
        paths = [
            (label, f"{c}/cifar10_{c}_{k}.aedat")
            for label, c in enumerate(data.classes)
            for k in range(11)
        ]
        # 11 of a class: sorted as text, the last two of 0 1 10 2 ... 9 are for testing
        test = [p for p in paths if p[1].endswith(("_8.aedat", "_9.aedat"))]
        splits = {"train": [p for p in paths if p not in test], "test": test}
        write = write_aedat
    elif data is NMNIST:
        splits = {
            split: [
                (label, f"{split.title()}/{label}/{k:05d}.bin")
                for label in range(10)
                for k in (9, 10)
            ]
            for split in ("train", "test")
        }
        write = write_nmnist
    else:
        splits = {
            split: [
                (k, f"ibmGesture{split.title()}/user{u:02d}_{light}/{k}.npy")
                for u in (1, 2)
                for light in ("led", "lab")
                for k in range(11)
            ]
            for split in ("train", "test")
        }
        write = write_gesture
    for split, paths in splits.items():
        for label, name in sorted(paths, key=lambda pair: Path(pair[1])):
            seed += 1
            path = root / data.__name__ / name
            path.parent.mkdir(parents=True, exist_ok=True)
            events = made_events(seed, data.shape)
            if data is DVSGesture:
                events["t"] = events["t"] // 1000 * 1000
            write(path, events)
            held[split].append((label, events))
    return held


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("data", ALL)
def test_made_recordings_come_back_binned_in_the_order_of_paths(tmp_path, data, cache):
    held = make(data, tmp_path)
    before = contents(tmp_path)
    module = data(str(tmp_path), val_size=0, cache=cache, download=True, **OPTIONS)
    module.prepare_data()
    module.setup()
    for split in ("train", "test"):
        samples = module.samples[split]
        assert samples.targets.tolist() == [label for label, _ in held[split]]
        x, y = samples[range(len(samples))]
        assert x.shape[1:] == (5, *data.shape) and y.tolist() == samples.targets.tolist()
        expected = [bin_events(events, sensor=data.shape, steps=5) for _, events in held[split]]
        np.testing.assert_array_equal(x.numpy(), np.stack(expected))
    assert module.transform(x, True).dtype == torch.float32
    after = contents(tmp_path)
    assert before == {
        name: content for name, content in after.items() if ".snnrun_cache" not in name
    }
    assert (after != before) == cache


@pytest.mark.parametrize(
    "options", [{"binning": "count"}, {"window": 20_000.0}, {"binary": True}, {"steps": 3}]
)
@pytest.mark.parametrize("data", [NMNIST, CIFAR10DVS, SHD])
def test_options_reach_the_binning_and_change_the_cache(tmp_path, data, options):
    held = make(data, tmp_path)
    data(str(tmp_path), **OPTIONS).setup()
    files = set(os.listdir(tmp_path / ".snnrun_cache"))
    module = data(str(tmp_path), **{**OPTIONS, **options})
    module.setup()
    assert len(set(os.listdir(tmp_path / ".snnrun_cache")) - files) == 2
    known = {
        "by" if key == "binning" else key: value for key, value in {"steps": 5, **options}.items()
    }
    expected = bin_events(held["test"][0][1], sensor=data.shape, start=data.start, **known)
    np.testing.assert_array_equal(module.samples["test"][[0]][0][0].numpy(), expected)


@pytest.mark.parametrize("data", ALL)
def test_the_second_setup_reads_no_recording(tmp_path, data, monkeypatch):
    make(data, tmp_path)
    one = data(str(tmp_path), **OPTIONS)
    one.setup()

    def forbidden(*_):
        raise AssertionError("the recordings were read again")

    monkeypatch.setattr(data, "read", forbidden)
    two = data(str(tmp_path), **OPTIONS)
    two.setup()
    for split in ("train", "val", "test"):
        every = range(len(one.samples[split]))
        for a, b in zip(one.samples[split][every], two.samples[split][every], strict=True):
            assert torch.equal(a, b)
    assert one.split_sha256() == two.split_sha256()


def test_nmnist_stands_still_when_asked(tmp_path):
    """A point that moves with the camera: 3.5 across and 7 down, 3.5 across and 7 up, 7 back, in 105 ms each."""
    make(NMNIST, tmp_path)
    t = np.arange(0, 315_001, 2_500)
    third = t / 105_000
    across = np.where(third <= 2, 3.5 * third, 7 - 7 * (third - 2))
    down = np.where(third <= 1, 7 * third, np.maximum(0, 14 - 7 * third))
    point = {"x": np.round(12 + across), "y": np.round(9 + down), "p": t % 2, "t": t}
    events = {name: np.asarray(column, np.int64) for name, column in point.items()}
    write_nmnist(tmp_path / "NMNIST/Test/0/00009.bin", events)
    still = NMNIST(str(tmp_path), stabilize=True, **OPTIONS)
    still.setup()
    frames = still.samples["test"][[0]][0][0].sum((0, 1))
    seen = np.argwhere(frames.numpy() > 0)
    assert np.abs(seen - [9, 12]).max() <= 1 and frames[9, 12] > 0.6 * len(t)
    moving = NMNIST(str(tmp_path), **OPTIONS)
    moving.setup()
    assert (moving.samples["test"][[0]][0][0].sum((0, 1)) > 0).sum() > len(seen)
    assert still.cache_path("test") != moving.cache_path("test")


def test_events_of_nmnist_that_leave_the_frame_are_left_out():
    events = {name: np.array(v) for name, v in {"x": [2, 33], "y": [3, 20], "p": [0, 1]}.items()}
    kept = stand_still({**events, "t": np.array([105_000, 105_000])})
    assert {name: column.tolist() for name, column in kept.items()} == {
        "x": [30],
        "y": [13],
        "p": [1],
        "t": [105_000],
    }


def test_a_changed_recording_is_read_again(tmp_path):
    make(NMNIST, tmp_path)
    NMNIST(str(tmp_path), **OPTIONS).setup()
    path = tmp_path / "NMNIST/Test/0/00009.bin"
    write_nmnist(path, made_events(999, NMNIST.shape, 70))
    module = NMNIST(str(tmp_path), **OPTIONS)
    module.setup()
    assert module.samples["test"][[0]][0].sum() == 70


def test_a_damaged_cache_is_built_again(tmp_path):
    make(NMNIST, tmp_path)
    NMNIST(str(tmp_path), **OPTIONS).setup()
    path = NMNIST(str(tmp_path), **OPTIONS).cache_path("test")
    good = path.read_bytes()
    path.write_bytes(good[:-1000])
    NMNIST(str(tmp_path), **OPTIONS).setup()
    assert path.read_bytes() == good


def test_an_empty_recording_is_legal(tmp_path):
    make(NMNIST, tmp_path)
    (tmp_path / "NMNIST/Test/0/00009.bin").write_bytes(b"")
    module = NMNIST(str(tmp_path), **OPTIONS)
    module.setup()
    assert module.samples["test"][[0]][0].sum() == 0


def test_the_published_validation_data_of_ssc(tmp_path):
    held = make(SSC, tmp_path)
    module = SSC(str(tmp_path), **OPTIONS)
    module.setup()
    assert [len(module.indices[name]) for name in ("train", "val", "test")] == [5, 5, 5]
    (x, _, _) = next(iter(module.val_dataloader()))
    expected = [bin_events(events, sensor=SSC.shape, steps=5) for _, events in held["val"][:4]]
    np.testing.assert_array_equal(x.numpy(), np.stack(expected))
    split = SSC(str(tmp_path), val_size=0.2, **OPTIONS)
    split.setup()
    assert [len(split.indices[name]) for name in ("train", "val", "test")] == [4, 1, 5]
    with pytest.raises(ValueError) as error:
        SSC(str(tmp_path), folds=5, **OPTIONS)
    assert str(error.value) == (
        "dataset.val_size must be set with dataset.folds: the published validation split is in no "
        "fold."
    )


@pytest.mark.parametrize("data", [NMNIST, DVSGesture, SHD, NTIDIGITS18])
def test_tonic_reads_the_same_events(tmp_path, data):
    make(data, tmp_path)
    for name in (
        "train.zip",
        "test.zip",
        "ibmGestureTrain.tar.gz",
        "shd_train.h5.zip",
        "shd_test.h5.zip",
    ):
        (tmp_path / data.__name__ / name).touch()
    tonic_class = type(
        data.__name__, (getattr(tonic.datasets, data.__name__),), {"_check_exists": lambda _: True}
    )
    theirs = {}
    single = {"single_digits": True} if data is NTIDIGITS18 else {}
    source = tonic_class(str(tmp_path), train=True, **single)
    if data is DVSGesture:
        import numpy.lib.recfunctions  # noqa: F401  tonic forgets to (tonic 1.7.0)
    for i in range(len(source)):
        events, label = source[i]
        theirs[source.data[i] if isinstance(source.data, list) and source.data else i] = (
            events,
            int(label),
        )
    module = data(str(tmp_path), val_size=0, **OPTIONS)
    module.setup()
    assert len(theirs) == len(module.samples["train"])
    for i, (_, (events, label)) in enumerate(sorted(theirs.items())):
        x, y = module.samples["train"][[i]]
        assert y.item() == label
        expected = bin_events(events, sensor=data.shape, steps=5)
        if data in (SHD, NTIDIGITS18):  # tonic cuts microseconds off
            assert x.sum() == expected.sum()
        else:
            np.testing.assert_array_equal(x[0].numpy(), expected)


MISSING = {
    NMNIST: """2 files are missing in {}:
  Train/*/*.bin  60,000 recordings of 5 bytes an event, published in train.zip, MD5 20959b8e626244a1b502305a9e6e2031
  Test/*/*.bin   10,000 recordings of 5 bytes an event, published in test.zip, MD5 69ca8762b2fe404d9b9bad1103e97832""",
    DVSGesture: """2 files are missing in {}:
  ibmGestureTrain/*/*.npy  1,077 arrays user<n>_<light>/<class>.npy, published in ibmGestureTrain.tar.gz, \
MD5 3a8f0d4120a166bac7591f77409cb105
  ibmGestureTest/*/*.npy   264 arrays user<n>_<light>/<class>.npy, published in ibmGestureTest.tar.gz, \
MD5 56070e45dadaa85fff82e0fbfbc06de5""",
    CIFAR10DVS: """1 file is missing in {}:
  <class>/*.aedat4  10 x 1,000 recordings (.aedat will do), published in CIFAR10DVS.zip, \
MD5 ce3a4a0682dc0943703bd8f749a7701c""",
    SHD: """2 files are missing in {}:
  shd_train.h5  8,156 recordings, published in shd_train.h5.zip, MD5 f3252aeb598ac776c1b526422d90eecb
  shd_test.h5   2,264 recordings, published in shd_test.h5.zip, MD5 1503a5064faa34311c398fb0a1ed0a6f""",
    NTIDIGITS18: """1 file is missing in {}:
  n-tidigits.hdf5  2,475 and 2,474 recordings of single digits, MD5 360a2d11e5429555c9197381cf6b58e0""",
    SSC: """3 files are missing in {}:
  ssc_train.h5  75,466 recordings, published in ssc_train.h5.zip, MD5 d102be95e7144fcc0553d1f45ba94170
  ssc_valid.h5  9,981 recordings, published in ssc_valid.h5.zip, MD5 b4eee3516a4a90dd0c71a6ac23a8ae43
  ssc_test.h5   20,382 recordings, published in ssc_test.h5.zip, MD5 a35ff1e9cffdd02a20eb850c17c37748""",
}


@pytest.mark.parametrize("data", ALL)
def test_missing_recordings_are_listed(tmp_path, data, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    start = f"dataset={data.option}: " + MISSING[data].format(tmp_path / data.__name__)
    where = (
        "\nSet paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds "
        + data.__name__
    )
    with pytest.raises(MissingData) as error:
        data(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == f"{start}{where}; or fetch them with dataset.download=true."
    monkeypatch.setattr(tonic.datasets, data.__name__, unreachable)
    with pytest.raises(MissingData) as error:
        data(str(tmp_path), download=True, **OPTIONS).prepare_data()
    assert str(error.value) == (
        f"{start}{where}.\n"
        "Fetching them from the official source failed (OSError: Name or service not known); put "
        "them there by hand."
    )


@pytest.mark.parametrize("data", ALL)
def test_missing_recordings_are_fetched_with_tonic(tmp_path, data, monkeypatch):
    calls = []

    def fetch(root, **which):
        calls.append(which)
        if len(calls) == 1:
            make(data, Path(root))

    monkeypatch.setattr(tonic.datasets, data.__name__, fetch)
    module = data(str(tmp_path), download=True, **OPTIONS)
    module.prepare_data()
    module.setup()
    assert len(calls) == 1


CUT = {
    NMNIST: (
        "NMNIST/Test/3/00010.bin",
        -2,
        "ValueError: 3 bytes are left over after the last event of 5 bytes",
    ),
    DVSGesture: ("DVSGesture/ibmGestureTest/user02_lab/7.npy", -2, None),
    CIFAR10DVS: ("CIFAR10DVS/cat/cifar10_cat_10.aedat", -2, None),
    SHD: ("SHD/shd_train.h5", -700, None),
    SSC: ("SSC/ssc_test.h5", 300, None),
    NTIDIGITS18: ("NTIDIGITS18/n-tidigits.hdf5", -700, None),
}


@pytest.mark.parametrize("data", ALL)
def test_truncated_recordings_are_named_and_left(tmp_path, data):
    make(data, tmp_path)
    name, cut, reason = CUT[data]
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:cut])
    before = path.read_bytes()
    with pytest.raises(CorruptData) as error:
        data(str(tmp_path), **OPTIONS).setup()
    assert str(error.value).startswith(f"{path} is truncated or damaged ({reason or ''}")
    assert str(error.value).endswith(LEFT)
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", [NMNIST, DVSGesture, SHD])
def test_events_beyond_the_sensor_name_the_file(tmp_path, data):
    make(data, tmp_path)
    events = made_events(1, data.shape)
    events["x"][7] = data.shape[-1]
    if data is SHD:
        path = tmp_path / "SHD/shd_test.h5"
        write_hdf5(path, [0, 1], [made_events(2, (700,)), events])
        source = f"{path}, recording 1"
    elif data is NMNIST:
        path = source = tmp_path / "NMNIST/Train/2/00009.bin"
        write_nmnist(path, events)
    else:
        path = source = tmp_path / "DVSGesture/ibmGestureTrain/user01_led/4.npy"
        write_gesture(path, events)
    with pytest.raises(CorruptData) as error:
        data(str(tmp_path), **OPTIONS).setup()
    size = data.shape[-1]
    assert str(error.value) == (
        f"{source}: x={size} of event 7 is beyond the sensor, which has x from 0 to {size - 1} (1 "
        "of 40 events are)."
    )
    assert not list((tmp_path / ".snnrun_cache").glob("*.part"))


def test_names_that_are_no_class(tmp_path):
    make(NMNIST, tmp_path)
    make(DVSGesture, tmp_path)
    path = tmp_path / "NMNIST/Test/ten/00001.bin"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(CorruptData) as error:
        NMNIST(str(tmp_path), **OPTIONS).setup()
    assert (
        str(error.value)
        == f"{path}: its folder should be called by the number of its class, 0 to 9."
    )
    path = tmp_path / "DVSGesture/ibmGestureTest/user02_led/11.npy"
    write_gesture(path, made_events(0, DVSGesture.shape))
    with pytest.raises(CorruptData) as error:
        DVSGesture(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == f"{path}: it should be called by the number of its class, 0 to 10."


def test_unequal_columns_of_an_hdf5_file(tmp_path):
    make(SHD, tmp_path)
    path = tmp_path / "SHD/shd_test.h5"
    with h5py.File(path, "a") as file:
        del file["labels"]
        file["labels"] = np.zeros(4, int)
    with pytest.raises(CorruptData) as error:
        SHD(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == (
        f"{path} is truncated or damaged (ValueError: 4 labels, 5 times and 5 units). {LEFT}"
    )
    write_hdf5(path, [20], [made_events(0, (700,))])
    with pytest.raises(CorruptData) as error:
        SHD(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == f"{path} holds labels other than 0 to 19."


def test_aedat4_without_its_package_says_how_to_get_it(tmp_path, monkeypatch):
    make(CIFAR10DVS, tmp_path)
    path = tmp_path / "CIFAR10DVS/airplane/a.aedat4"
    path.write_bytes(b"#!AER-DAT4.0\r\n")
    monkeypatch.setitem(sys.modules, "aedat", None)
    with pytest.raises(ModuleNotFoundError) as error:
        CIFAR10DVS(str(tmp_path), **OPTIONS).setup()
    assert (
        str(error.value)
        == f"{path} is in AEDAT 4, which needs the package aedat: pip install aedat."
    )


class MadeDecoder:
    """What the package aedat gives for a recording, in two packets."""

    def __init__(self, name):
        if Path(name).read_bytes() != b"whole":
            raise RuntimeError("failed to fill whole buffer")

    def id_to_stream(self):
        return {0: {"type": "frame"}, 1: {"type": "events"}}

    def __iter__(self):
        events = np.zeros(4, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])
        events["t"], events["x"], events["on"] = [10, 20, 30, 40], [1, 2, 3, 4], [1, 0, 0, 1]
        return iter(
            [{"stream_id": 1, "events": events[:3]}, {"stream_id": 1, "events": events[3:]}]
        )


def test_aedat4_is_read_with_tonic(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", types.SimpleNamespace(Decoder=MadeDecoder))
    folder = tmp_path / "CIFAR10DVS/bird"
    folder.mkdir(parents=True)
    for k in range(2):
        (folder / f"{k}.aedat4").write_bytes(b"whole")
    module = CIFAR10DVS(str(tmp_path), steps=2, batch_size=1, val_size=0)
    module.setup()
    x, y = module.samples["test"][[0]]
    assert y.tolist() == [2]
    assert x[0].nonzero().tolist() == [[0, 0, 0, 2], [0, 1, 0, 1], [1, 0, 0, 3], [1, 1, 0, 4]]
    path = folder / "1.aedat4"
    path.write_bytes(b"cut")
    with pytest.raises(CorruptData) as error:
        CIFAR10DVS(str(tmp_path), steps=2, batch_size=1, val_size=0).setup()
    assert str(error.value) == (
        f"{path} is truncated or damaged (ValueError: failed to fill whole buffer). {LEFT}"
    )


def test_a_batch_has_time_after_the_batch(tmp_path):
    make(DVSGesture, tmp_path)
    module = DVSGesture(str(tmp_path), **OPTIONS)
    module.setup()
    x, y, index = next(iter(module.train_dataloader()))
    assert x.shape == (4, 5, 2, 128, 128) and len(y) == len(index) == 4


@pytest.mark.parametrize("kind", [NMNIST, SHD])
def test_crop_shifts_a_recording_as_a_whole_and_only_in_training(kind):
    module = kind("data", steps=3, batch_size=4, crop=2)
    x = torch.zeros(200, 3, *module.shape, dtype=torch.uint8)
    middle = tuple(size // 2 for size in module.shape[-2:])
    x[(..., *middle)] = 1
    assert torch.equal(module.transform(x, False), x.float())
    y = module.transform(x, True)
    assert y.shape == x.shape
    assert torch.equal(y, y[:, :1].expand_as(y))  # every time step alike
    spots = y.flatten(1, -len(middle) - 1)[:, 0]
    places = {tuple((spot.nonzero()[0] - torch.tensor(middle)).tolist()) for spot in spots}
    shifts = range(-2, 3)
    wanted = (
        {(i, j) for i in shifts for j in shifts} if len(middle) == 2 else {(i,) for i in shifts}
    )
    assert places <= wanted and len(places) > len(wanted) // 2


def test_training_frames_are_drawn_for_a_batch_in_their_order():
    module = NMNIST("data", steps=16, batch_size=4, train_frames=12)
    x = torch.arange(16).view(1, 16, 1, 1, 1).expand(3, 16, *module.shape).to(torch.uint8)
    torch.manual_seed(0)
    seen = []
    for _ in range(8):
        y = module.transform(x, True)
        assert y.shape == (3, 12, *module.shape) and y.dtype == torch.float32
        frames = y[0, :, 0, 0, 0]
        assert torch.equal(y, frames.view(1, 12, 1, 1, 1).expand_as(y))  # all samples alike
        assert (frames.diff() > 0).all()
        seen.append(tuple(frames.tolist()))
    assert len(set(seen)) > 4
    assert torch.equal(module.transform(x, False), x.float())
    torch.manual_seed(0)
    assert seen[0] == tuple(module.transform(x, True)[0, :, 0, 0, 0].tolist())


@pytest.mark.parametrize("train_frames", [-1, 6])
def test_more_training_frames_than_there_are(train_frames):
    with pytest.raises(ValueError) as error:
        NMNIST("data", **OPTIONS, train_frames=train_frames)
    assert str(error.value) == (
        "dataset.train_frames is a number of frames up to dataset.steps=5, 0 for all; got"
        f" {train_frames}."
    )


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_last_training_batch_that_is_not_full(tmp_path, drop_last):
    make(NMNIST, tmp_path)
    module = NMNIST(str(tmp_path), steps=2, batch_size=8, val_size=0, drop_last=drop_last)
    module.setup()
    assert [len(y) for _, y, _ in module.train_dataloader()] == ([8, 8] if drop_last else [8, 8, 4])
    assert [len(y) for _, y, _ in module.test_dataloader()] == [8, 8, 4]


def test_a_stored_split_of_cifar10_dvs(tmp_path):
    make(CIFAR10DVS, tmp_path)
    stored = tmp_path / "split.txt"
    stored.write_text("cat/cifar10_cat_0.aedat\n\nairplane/cifar10_airplane_3\n")
    module = CIFAR10DVS(str(tmp_path), split_file=str(stored), **OPTIONS)
    names = [f"{path.parent.name}/{path.name}" for path in module.files("test")]
    assert names == ["airplane/cifar10_airplane_3.aedat", "cat/cifar10_cat_0.aedat"]
    assert len(module.files("train")) == 108 and not set(module.files("train")) & set(
        module.files("test")
    )
    module.setup()
    assert module.samples["test"].targets.tolist() == [0, 3]
    stored.write_text("cat/cifar10_cat_0\ncat/cifar10_cat_77.aedat")
    with pytest.raises(CorruptData) as error:
        module.files("train")
    assert str(error.value) == (
        f"{stored} names recordings that are not in {module.folder}: cat/cifar10_cat_77.aedat."
    )
    stored.unlink()
    with pytest.raises(MissingData, match="there is no such file"):
        module.files("train")


def test_cifar10_dvs_resized_mirrored_and_rolled(tmp_path):
    module = CIFAR10DVS(str(tmp_path), resize=48, flip=True, roll=5, **OPTIONS)
    assert module.shape == (2, 48, 48)
    whole = CIFAR10DVS(str(tmp_path), **OPTIONS)
    assert module.cache_key("train") == whole.cache_key("train")  # frames are kept as they are
    x = torch.rand(60, 3, 2, 128, 128, generator=torch.Generator().manual_seed(0))
    small = module.transform(x, False)
    expected = torch.nn.functional.interpolate(x.flatten(0, 1), size=(48, 48), mode="nearest")
    assert torch.equal(small.flatten(0, 1), expected)
    torch.manual_seed(0)
    seen = set()
    for before, after in zip(small, module.transform(x, True), strict=True):
        found = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-5, 6)
            for right in range(-5, 6)
            if torch.equal(
                (before.flip(-1) if mirrored else before).roll((down, right), (-2, -1)), after
            )
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {m for m, _, _ in seen} == {False, True} and len(seen) > 40
    assert {abs(d) for _, d, _ in seen} == {abs(r) for _, _, r in seen} == {*range(6)}


def test_cifar10_dvs_is_cropped_in_the_pixels_that_are_left():
    module = CIFAR10DVS("data", resize=48, crop=2, **OPTIONS)
    x = torch.zeros(200, 3, 2, 128, 128)
    x[..., 64, 64] = 1
    place = module.transform(x[:1], False)[0, 0, 0].nonzero()[0]
    y = module.transform(x, True)
    assert y.shape == (200, 3, 2, 48, 48) and torch.equal(y, y[:, :1].expand_as(y))
    found = {tuple((image.nonzero()[0] - place).tolist()) for image in y[:, 0, 0]}
    assert found == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_wrong_options():
    for name, value, words in (("resize", 129, "a side of 1 to 128"), ("roll", -1, "0 for none")):
        with pytest.raises(ValueError, match=rf"^dataset.{name} is .*{words}.*; got {value}"):
            CIFAR10DVS("data", **{name: value}, **OPTIONS)
    with pytest.raises(
        ValueError, match=r"^dataset.crop is a number of sensors, 0 for none; got -1"
    ):
        NMNIST("data", steps=3, batch_size=4, crop=-1)
    with pytest.raises(ValueError) as error:
        NMNIST("data", window=3000.0, binning="count", **OPTIONS)
    assert str(error.value).startswith("dataset.window is the duration of a bin")


def test_importing_data_sets_imports_no_reader():
    code = (
        "import sys, lightning.pytorch; before = set(sys.modules); import snnrun.dataset;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new & {'torchvision', 'tonic', 'h5py', 'sklearn', 'scipy', 'PIL', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_real_nmnist(tmp_path):
    if not list(Path(REAL or "nowhere", "NMNIST/Train").glob("*/*.bin")):
        pytest.skip("dataset=nmnist is not in the folder that SNNRUN_DATA names")
    (tmp_path / "NMNIST").symlink_to(
        Path(REAL, "NMNIST").absolute()
    )  # so that the cache is written here
    module = NMNIST(str(tmp_path), steps=10, batch_size=32)
    module.setup()
    for split in ("train", "test"):
        samples, files = module.samples[split], module.files(split)
        assert len(samples) == len(files) and samples.targets.unique().tolist() == list(range(10))
        for i in range(0, len(files), 97):
            x, y = samples[[i]]
            assert x.sum() == files[i].stat().st_size // 5
            assert y.item() == int(files[i].parent.name)
