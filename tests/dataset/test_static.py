"""Made files in the published layouts; also the real ones, where SNNRUN_DATA says they are."""

import gzip
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from snnrun.dataset import CIFAR10, CIFAR100, MNIST, CorruptData, FashionMNIST, MissingData
from snnrun.dataset.static import random_crop, random_cutout

REAL = os.environ.get("SNNRUN_DATA", "")
OPTIONS: dict[str, Any] = {"steps": 4, "batch_size": 8}
COUNT = {"train": 20, "t10k": 10}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def make_mnist(root: Path, folder="MNIST/raw", suffix="") -> Path:
    random = np.random.default_rng(0)
    raw = root / folder
    raw.mkdir(parents=True)
    pack = gzip.compress if suffix else bytes
    for part, n in COUNT.items():
        images, labels = (
            random.integers(0, 256, (n, 28, 28), np.uint8),
            np.arange(n, dtype=np.uint8) % 10,
        )
        (raw / f"{part}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (raw / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return raw


def make_cifar(root: Path, data=CIFAR10, rows=6, protocol=4) -> Path:
    random = np.random.default_rng(0)
    folder = root / data.folder
    folder.mkdir(parents=True)
    for name in data.md5:
        entry = {
            "data": random.integers(0, 256, (rows, 3072), np.uint8),
            data.label_key: [k % data.num_classes for k in range(rows)],
        }
        (folder / name).write_bytes(pickle.dumps(entry, protocol=protocol))
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read_as_torchvision_reads_it(tmp_path, suffix):
    raw = make_mnist(tmp_path, suffix=suffix)
    data = MNIST(str(tmp_path), val_size=0, **OPTIONS)
    data.prepare_data()
    data.setup()
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    for split in ("train", "test"):
        theirs = torchvision.datasets.MNIST(tmp_path, train=split == "train")
        x, y = data.samples[split][range(len(theirs))]
        assert x.dtype == torch.uint8 and x.shape[1:] == data.shape
        torch.testing.assert_close(x[:, 0], theirs.data)
        assert y.tolist() == theirs.targets.tolist()


def test_fashion_mnist_is_also_found_where_debian_puts_it(tmp_path, monkeypatch):
    make_mnist(tmp_path, "debian", ".gz")
    monkeypatch.setattr(FashionMNIST, "elsewhere", str(tmp_path / "debian"))
    before = contents(tmp_path)
    data = FashionMNIST(str(tmp_path / "data"), download=True, **OPTIONS)
    data.prepare_data()
    data.setup()
    assert [len(data.indices[name]) for name in ("train", "val", "test")] == [18, 2, 10]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("data", [CIFAR10, CIFAR100])
def test_cifar_batches_are_read(tmp_path, data, protocol):
    folder = make_cifar(tmp_path, data, protocol=protocol)
    module = data(str(tmp_path), val_size=0, **OPTIONS)
    module.setup()
    for split, names in data.files.items():
        entries = [pickle.loads((folder / name).read_bytes()) for name in names]
        x, y = module.samples[split][range(6 * len(names))]
        pixels = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(x.numpy(), pixels)
        assert y.tolist() == [label for entry in entries for label in entry[data.label_key]]


def test_a_pickle_of_python_2_is_read(tmp_path):
    folder = make_cifar(tmp_path)
    raw = bytes(range(256)) * 12
    # what Python 2 wrote: byte strings, numpy.core, protocol 2
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01M\x00\x0c\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(raw).to_bytes(4, "little")
        + raw
        + b"tb"
    )
    (folder / "test_batch").write_bytes(b"\x80\x02}(U\x06labels]K\x07aU\x04data" + array + b"u.")
    x, y = CIFAR10(str(tmp_path), **OPTIONS).load("test")[[0]]
    assert y.tolist() == [7]
    assert x.flatten().tolist() == list(raw)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


@pytest.mark.parametrize("place", ["data", "labels", "more"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    folder = make_cifar(tmp_path)
    path = folder / "data_batch_2"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), place: Planted()}))
    before = contents(tmp_path)
    data = CIFAR10(str(tmp_path), **OPTIONS)
    with pytest.raises(CorruptData) as error:
        data.setup()
    assert str(error.value) == (
        f"{path} is truncated or damaged (ValueError: it wants to run posix.mkdir, which is "
        "refused). "
        "It was left as it is: put a good copy in its place."
    )
    assert contents(tmp_path) == before and not Path("planted").exists()


def test_missing_files_are_listed(tmp_path):
    raw = make_mnist(tmp_path)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (raw / name).unlink()
    with pytest.raises(MissingData) as error:
        MNIST(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == (
        f"dataset=mnist: 2 files are missing in {raw}:\n"
        "  train-images-idx3-ubyte  47,040,016 bytes, MD5 6bbc9ace898e44ae57da46a324031adb "
        "(unpacked; train-images-idx3-ubyte.gz will do)\n"
        "  t10k-labels-idx1-ubyte   10,008 bytes, MD5 27ae3e4e09519cfbb04c329615203637 "
        "(unpacked; t10k-labels-idx1-ubyte.gz will do)\n"
        "Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds "
        "MNIST; "
        "or fetch them with dataset.download=true."
    )


def test_missing_fashion_mnist_names_the_debian_package(tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "elsewhere", None)
    with pytest.raises(MissingData) as error:
        FashionMNIST(str(tmp_path), **OPTIONS).setup()
    assert str(error.value).endswith(
        "to the folder that holds FashionMNIST; or fetch them with dataset.download=true.\n"
        "On Debian and Ubuntu, apt install dataset-fashion-mnist puts them into "
        "/usr/share/datasets/fashion-mnist, which is read too."
    )


def test_missing_cifar_batches_are_listed(tmp_path):
    folder = make_cifar(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(MissingData) as error:
        CIFAR10(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == (
        f"dataset=cifar10: 1 file is missing in {folder}:\n"
        "  data_batch_3  10,000 images, about 31 MB, MD5 54ebc095f3ab1f0389bbae665268c751\n"
        "Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds "
        "cifar-10-batches-py; or fetch them with dataset.download=true.\n"
        "They are published in cifar-10-python.tar.gz, 170,498,071 bytes, MD5 "
        "c58f30108f718f92721af3b95e74349a."
    )


def test_nothing_is_fetched_where_the_files_are_in_place(tmp_path, monkeypatch):
    make_mnist(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", None)
    data = MNIST(str(tmp_path), download=True, **OPTIONS)
    data.prepare_data()
    data.setup()


def test_an_unreachable_source_says_where_the_files_belong(tmp_path, monkeypatch):
    def unreachable(root, download):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", unreachable)
    with pytest.raises(MissingData) as error:
        CIFAR100(str(tmp_path), download=True, **OPTIONS).prepare_data()
    assert str(error.value) == (
        f"dataset=cifar100: 2 files are missing in {tmp_path}/cifar-100-python:\n"
        "  train  50,000 images, about 155 MB, MD5 16019d7e3df5f24257cddd939b257f8d\n"
        "  test   10,000 images, about 31 MB, MD5 f0ef6b0ae62326f3e7ffdfab6717acfc\n"
        "Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds "
        "cifar-100-python.\n"
        "They are published in cifar-100-python.tar.gz, 169,001,437 bytes, MD5 "
        "eb9058c3a382ffc7106e4002c42a8d85.\n"
        "Fetching them from the official source failed (OSError: Name or service not known); put "
        "them there by hand."
    )


LEFT = "It was left as it is: put a good copy in its place."


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "train-images-idx3-ubyte",
            lambda b: b[:-1],
            "{} is truncated or damaged (ValueError: 15,679 bytes after the header, which "
            "announces 15,680). " + LEFT,
        ),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: b"",
            "{} is truncated or damaged (ValueError: not an idx file of bytes). " + LEFT,
        ),
        (
            "t10k-labels-idx1-ubyte",
            lambda b: b[:-1] + b"\x0a",
            "{} holds labels other than 0 to 9.",
        ),
        (
            "train-labels-idx1-ubyte",
            lambda b: idx(np.zeros(19, np.uint8)),
            "{folder}/train-images-idx3-ubyte holds 20 images, but {} 19 labels.",
        ),
        (
            "train-images-idx3-ubyte",
            lambda b: idx(np.zeros((20, 27, 28), np.uint8)),
            "{} holds an array of shape (20, 27, 28), not images of 28x28.",
        ),
    ],
)
def test_corrupt_idx_files_are_named_and_left(tmp_path, name, damage, message):
    path = make_mnist(tmp_path) / name
    path.write_bytes(damage(path.read_bytes()))
    before = contents(tmp_path)
    data = MNIST(str(tmp_path), download=True, **OPTIONS)
    data.prepare_data()
    with pytest.raises(CorruptData) as error:
        data.setup()
    assert str(error.value) == message.format(path, folder=path.parent)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("cut", [0.3, 0.999])
def test_a_truncated_gz_file_is_named(tmp_path, cut):
    path = make_mnist(tmp_path, suffix=".gz") / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(CorruptData) as error:
        MNIST(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == (
        f"{path} is truncated or damaged (EOFError: Compressed file ended before the end-of-stream "
        "marker "
        f"was reached). {LEFT}"
    )


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch"])
@pytest.mark.parametrize("cut", [0, 5, 60, 200, 3000, -1])
def test_a_truncated_cifar_batch_is_named_and_left(tmp_path, name, cut):
    path = make_cifar(tmp_path) / name
    path.write_bytes(path.read_bytes()[:cut])
    before = contents(tmp_path)
    with pytest.raises(CorruptData) as error:
        CIFAR10(str(tmp_path), **OPTIONS).setup()
    assert str(error.value).startswith(f"{path} is truncated or damaged (")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"data": np.zeros((3, 3072), np.uint8), "labels": [0, 1]},
            "{0} holds 3 images, but {0} 2 labels.",
        ),
        (
            {"data": np.zeros((1, 3072), np.uint8), "labels": [10]},
            "{0} holds labels other than 0 to 9.",
        ),
        (
            {"data": np.zeros((1, 3071), np.uint8), "labels": [0]},
            "{0} is truncated or damaged (ValueError: data has shape (1, 3071), not rows of 3,072 "
            "bytes). " + LEFT,
        ),
        (
            {"data": np.zeros((1, 3072)), "labels": [0]},
            "{0} is truncated or damaged (ValueError: an array of f8, not of bytes in C order). "
            + LEFT,
        ),
        ({"labels": [0]}, "{0} is truncated or damaged (KeyError: 'data'). " + LEFT),
    ],
)
def test_a_batch_of_something_else_is_named(tmp_path, entry, message):
    path = make_cifar(tmp_path) / "test_batch"
    path.write_bytes(pickle.dumps(entry, protocol=4))
    with pytest.raises(CorruptData) as error:
        CIFAR10(str(tmp_path), **OPTIONS).setup()
    assert str(error.value) == message.format(path)


def test_normalisation():
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    plain = CIFAR10("data", normalize=False, crop=0, flip=False, **OPTIONS)
    torch.testing.assert_close(plain.transform(x, True), x / 255)
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    own = torch.tensor([0.2023, 0.1994, 0.2010])
    for module, deviation in (
        (CIFAR10("data", **OPTIONS), std),
        (CIFAR10("data", std=own.tolist(), **OPTIONS), own),
    ):
        expected = (x / 255 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
        torch.testing.assert_close(module.transform(x, False), expected)


def test_crop_is_a_shift_by_at_most_the_padding_with_zeros_outside_and_differs_between_samples():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5)
    x = image.expand(200, 1, 5, 5)
    y = random_crop(x, 2, 2)
    padded = torch.nn.functional.pad(image, [2] * 4)
    places = {
        tuple(padded[0, i : i + 5, j : j + 5].flatten().tolist())
        for i in range(5)
        for j in range(5)
    }
    seen = {tuple(row.flatten().tolist()) for row in y}
    assert seen <= places and len(seen) > 15
    assert y.dtype == torch.uint8 and y.shape == x.shape


def test_cutout_is_a_square_of_zeros_around_a_pixel_of_the_image():
    y = random_cutout(torch.ones(300, 2, 6, 6), 3)
    assert torch.equal(y[:, 0], y[:, 1])
    sizes = {(int((row == 0).any(1).sum()), int((row == 0).any(0).sum())) for row in y[:, 0]}
    assert sizes == {(a, b) for a in (2, 3) for b in (2, 3)}
    holes = (y[:, 0] == 0).sum((1, 2))
    assert torch.equal(holes, (y[:, 0] == 0).any(2).sum(1) * (y[:, 0] == 0).any(1).sum(1))
    assert len(random_cutout(torch.ones(50, 1, 6, 6), 3).unique(dim=0)) > 10


def test_flip_mirrors_about_half_of_the_samples():
    x = torch.arange(4, dtype=torch.uint8).expand(400, 1, 1, 4).contiguous()
    module = MNIST("data", flip=True, normalize=False, **OPTIONS)
    mirrored = (module.transform(x, True) * 255).round()[:, 0, 0, 0] == 3
    assert 140 < int(mirrored.sum()) < 260


AUGMENTED: dict[str, Any] = {"crop": 4, "flip": True, "cutout": 8, "autoaugment": "cifar10"}


@pytest.mark.parametrize(
    "options", [{key: value} for key, value in AUGMENTED.items()] + [AUGMENTED]
)
def test_augmentation_is_drawn_per_sample_and_repeated_by_the_seed(options):
    nothing: dict[str, Any] = {"crop": 0, "flip": False}
    module = CIFAR10("data", **OPTIONS, **{**nothing, **options})
    image = torch.randint(
        256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    x = image.expand(16, 3, 32, 32).contiguous()
    kept = x.clone()
    torch.manual_seed(1)
    one, two = module.transform(x, True), module.transform(x, True)
    torch.manual_seed(1)
    assert torch.equal(one, module.transform(x, True))
    assert not torch.equal(one, two)
    assert len(one.unique(dim=0)) > 1
    assert torch.equal(x, kept)
    state = torch.get_rng_state()
    evaluated = module.transform(x, False)
    torch.testing.assert_close(evaluated, CIFAR10("data", **OPTIONS, **nothing).transform(x, True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            MNIST,
            {"mean": [0.1], "normalize": False},
            "dataset.mean has no effect with dataset.normalize=false; remove one of them.",
        ),
        (
            CIFAR10,
            {"std": [0.1]},
            "dataset.std must have a value for each of 3 channels, got [0.1].",
        ),
        (
            MNIST,
            {"crop": -1},
            "dataset.crop and dataset.cutout are numbers of pixels, 0 for none; got -1 and 0.",
        ),
        (
            CIFAR10,
            {"autoaugment": "imagenet"},
            "dataset.autoaugment must be cifar10 or null, got 'imagenet'.",
        ),
        (
            MNIST,
            {"autoaugment": "cifar10"},
            "dataset.autoaugment needs colour images; dataset=mnist has 1 channel.",
        ),
    ],
)
def test_wrong_options(data, options, message):
    with pytest.raises(ValueError) as error:
        data("data", **OPTIONS, **options)
    assert str(error.value) == message


@pytest.mark.parametrize("data", [MNIST, FashionMNIST, CIFAR10])
def test_the_real_files(data):
    module = data(REAL or "nowhere", normalize=True, **OPTIONS)
    if module.missing():
        pytest.skip(f"dataset={module.option} is not in the folder that SNNRUN_DATA names")
    module.setup()
    train, test = module.samples["train"], module.samples["test"]
    assert (len(train), len(test)) == ((50_000 if data is CIFAR10 else 60_000), 10_000)
    assert len(train.targets.unique()) == 10 and len(test.targets.unique()) == 10
    x = module.transform(train[range(0, len(train), 5)][0], False)
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.02
