"""Data sets of still images: uint8 in memory, normalised and augmented a batch at a time."""

import gzip
import io
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from snnrun.dataset.base import CorruptData, DataModule, InMemory, Samples, Split, reading

DEBIAN_FASHION = (
    "/usr/share/datasets/fashion-mnist"  # where Debian's package dataset-fashion-mnist puts it
)


class StaticImages(DataModule):
    """Images of uint8 in memory, normalised and augmented a batch at a time.

    Training batches are cropped, flipped, put through AutoAugment, normalised and cut out. Every
    sample has draws of its own, from torch's global CPU generator whatever the batch's device.

    **Arguments:** those of `DataModule`, and

    - `normalize`: subtract the mean and divide by the deviation of each channel; otherwise
      intensities lie in 0..1.
    - `mean`, `std`: these values instead of those of the training split.
    - `crop`: pad by that many zeros on each side and crop the old size at random.
    - `flip`: mirror half of the images.
    - `cutout`: side of a square that is set to zero, its centre anywhere in the image; 0 for none.
    - `autoaugment`: a policy of torchvision's AutoAugment, `cifar10`.

    DeVries & Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017;
    Cubuk et al., *AutoAugment*, 2019.
    """

    traits = frozenset({"static", "spatial"})
    traits_if: ClassVar = {("normalize", False): {"intensity"}}
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]

    def __init__(
        self,
        root: str,
        *,
        normalize: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        crop: int = 0,
        flip: bool = False,
        cutout: int = 0,
        autoaugment: Literal["cifar10"] | None = None,
        **common: Any,
    ):
        super().__init__(root, **common)
        channels = self.shape[0]
        for key, values in (("mean", mean), ("std", std)):
            if values is not None and not normalize:
                raise ValueError(
                    f"dataset.{key} has no effect with dataset.normalize=false; remove one of them."
                )
            if values is not None and len(values) != channels:
                raise ValueError(
                    f"dataset.{key} must have a value for each of {channels} channels, got "
                    f"{list(values)}."
                )
        if crop < 0 or cutout < 0:
            raise ValueError(
                f"dataset.crop and dataset.cutout are numbers of pixels, 0 for none; got {crop} "
                f"and {cutout}."
            )
        if autoaugment not in (None, "cifar10"):
            raise ValueError(f"dataset.autoaugment must be cifar10 or null, got {autoaugment!r}.")
        if autoaugment and channels != 3:
            raise ValueError(
                f"dataset.autoaugment needs colour images; dataset={self.option} has {channels} "
                "channel."
            )
        self.normalize, self.crop, self.flip, self.cutout, self.autoaugment = (
            normalize,
            crop,
            flip,
            cutout,
            autoaugment,
        )
        self.mean = torch.tensor(list(mean or self.channel_mean)).view(-1, 1, 1)
        self.std = torch.tensor(list(std or self.channel_std)).view(-1, 1, 1)

    def fetch(self) -> None:
        """Download with torchvision."""
        import torchvision

        getattr(torchvision.datasets, type(self).__name__)(self.root, download=True)

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Floats, normalised; augmented in training."""
        if train and self.crop:
            x = random_crop(x, self.crop, self.crop)
        if train and self.flip:
            x = torch.where(torch.rand(len(x), 1, 1, 1).to(x.device) < 0.5, x.flip(-1), x)
        if train and self.autoaugment:
            from torchvision.transforms.v2 import AutoAugment, AutoAugmentPolicy

            policy = AutoAugment(AutoAugmentPolicy.CIFAR10)
            x = torch.stack([policy(image) for image in x])
        x = x.to(torch.float32, copy=True).div_(255)
        if self.normalize:
            self.mean, self.std = self.mean.to(x.device), self.std.to(x.device)
            x.sub_(self.mean).div_(self.std)
        return random_cutout(x, self.cutout) if train and self.cutout else x


def random_crop(x: Tensor, above: int, beside: int) -> Tensor:
    """Pad `(B, C, H, W)` by zeros and cut the old size out at a place drawn for each sample."""
    n, _, h, w = x.shape
    top, left = (torch.randint(2 * p + 1, (n,)).to(x.device) for p in (above, beside))
    windows = pad(x, [beside, beside, above, above]).unfold(2, h, 1).unfold(3, w, 1)
    return windows[torch.arange(n, device=x.device), :, top, left]


def random_cutout(x: Tensor, size: int) -> Tensor:
    """Set a square of `(B, C, H, W)` to zero around a pixel drawn for each sample."""
    n, _, h, w = x.shape

    def covered(length: int) -> Tensor:
        first = torch.randint(length, (n, 1)).to(x.device) - size // 2
        place = torch.arange(length, device=x.device)
        return (place >= first) & (place < first + size)

    hole = covered(h)[:, None, :, None] & covered(w)[:, None, None, :]
    return x.masked_fill(hole, 0)


class MNIST(StaticImages):
    """Handwritten digits, 60,000 + 10,000 of 28x28.

    **Arguments:** see `StaticImages`.

    LeCun, Bottou, Bengio & Haffner, *Gradient-Based Learning Applied to Document Recognition*,
    1998.
    """

    places = (
        "MNIST/raw/train-images-idx3-ubyte*",
        "MNIST/raw/train-labels-idx1-ubyte*",
        "MNIST/raw/t10k-images-idx3-ubyte*",
        "MNIST/raw/t10k-labels-idx1-ubyte*",
    )
    option = "mnist"
    shape = (1, 28, 28)
    num_classes = 10
    channel_mean, channel_std = (0.1307,), (0.3081,)
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    elsewhere: str | None = None
    hint = ""

    def path(self, name: str) -> Path | None:
        """Where the file `name` is, unpacked or as `.gz`; None if it is missing."""
        folders = [
            Path(self.root, type(self).__name__, "raw"),
            *([Path(self.elsewhere)] if self.elsewhere else []),
        ]
        candidates = [folder / (name + suffix) for folder in folders for suffix in ("", ".gz")]
        return next((path for path in candidates if path.is_file()), None)

    def missing(self) -> str:
        """The missing ones of the four published files."""
        size = {
            "train-images": 47_040_016,
            "train-labels": 60_008,
            "t10k-images": 7_840_016,
            "t10k-labels": 10_008,
        }
        files = {
            name: f"{size[name.split('-idx')[0]]:,} bytes, MD5 {md5} (unpacked; {name}.gz will do)"
            for name, md5 in self.md5.items()
            if self.path(name) is None
        }
        return self._missing(Path(self.root, type(self).__name__, "raw"), files, self.hint)

    def load(self, split: Split) -> Samples:
        """Read images and labels of a split."""
        part = "train" if split == "train" else "t10k"
        images, path = self._idx(f"{part}-images-idx3-ubyte")
        labels, label_path = self._idx(f"{part}-labels-idx1-ubyte")
        if images.ndim != 3 or images.shape[1:] != self.shape[1:]:
            raise CorruptData(
                f"{path} holds an array of shape {images.shape}, not images of 28x28."
            )
        return checked(images.reshape(-1, *self.shape), labels, self.num_classes, path, label_path)

    def _idx(self, name: str) -> tuple[np.ndarray, Path]:
        """Read an array of bytes and say where it was found.

        The file begins with two zeros, 8 for bytes, the number of axes and the big-endian lengths.
        """
        path = self.path(name) or Path(self.root, type(self).__name__, "raw", name)
        with reading(path):
            content = path.read_bytes()
            try:
                content = gzip.decompress(content) if path.suffix == ".gz" else content
            except zlib.error as error:
                raise ValueError(error) from error
            if len(content) < 4 or not content.startswith(b"\0\0\x08"):
                raise ValueError("not an idx file of bytes")
            start = 4 + 4 * content[3]
            shape = [int(n) for n in np.frombuffer(content[4:start], ">u4")]
            body = np.frombuffer(content, np.uint8, offset=start)
            if body.size != np.prod(shape):
                raise ValueError(
                    f"{body.size:,} bytes after the header, which announces {int(np.prod(shape)):,}"
                )
            return body.reshape(shape), path


class FashionMNIST(MNIST):
    """Pieces of clothing, 60,000 + 10,000 of 28x28.

    Also read from where Debian's package dataset-fashion-mnist puts it.

    **Arguments:** see `StaticImages`.

    Xiao, Rasul & Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms*, 2017.
    """

    places = (
        (
            "FashionMNIST/raw/train-images-idx3-ubyte*",
            "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte*",
        ),
        (
            "FashionMNIST/raw/train-labels-idx1-ubyte*",
            "/usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte*",
        ),
        (
            "FashionMNIST/raw/t10k-images-idx3-ubyte*",
            "/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte*",
        ),
        (
            "FashionMNIST/raw/t10k-labels-idx1-ubyte*",
            "/usr/share/datasets/fashion-mnist/t10k-labels-idx1-ubyte*",
        ),
    )
    option = "fashion_mnist"
    channel_mean, channel_std = (0.2860,), (0.3530,)
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
    elsewhere = DEBIAN_FASHION
    hint = (
        "On Debian and Ubuntu, apt install dataset-fashion-mnist puts them into "
        f"{DEBIAN_FASHION}, which is read too."
    )


class CIFAR10(StaticImages):
    """Small colour photographs of ten things, 50,000 + 10,000 of 32x32.

    **Arguments:** see `StaticImages`; here training images are cropped and flipped by default.

    Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """

    places = (
        "cifar-10-batches-py/data_batch_1",
        "cifar-10-batches-py/data_batch_2",
        "cifar-10-batches-py/data_batch_3",
        "cifar-10-batches-py/data_batch_4",
        "cifar-10-batches-py/data_batch_5",
        "cifar-10-batches-py/test_batch",
    )
    option = "cifar10"
    shape = (3, 32, 32)
    num_classes = 10
    channel_mean, channel_std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz, 170,498,071 bytes, MD5 c58f30108f718f92721af3b95e74349a"
    label_key = "labels"
    files: ClassVar[dict[str, list[str]]] = {
        "train": [f"data_batch_{k}" for k in range(1, 6)],
        "test": ["test_batch"],
    }
    md5: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }

    def __init__(self, root: str, *, crop: int = 4, flip: bool = True, **common: Any):
        super().__init__(root, crop=crop, flip=flip, **common)

    def missing(self) -> str:
        """The missing ones of the published batches."""
        folder = Path(self.root, self.folder)
        size = {
            name: f"{rows:,} images, about {rows * 3_100 / 1e6:.0f} MB"
            for name, rows in self.rows.items()
        }
        files = {
            name: f"{size[name]}, MD5 {md5}"
            for name, md5 in self.md5.items()
            if not (folder / name).is_file()
        }
        return self._missing(folder, files, f"They are published in {self.archive}.")

    @property
    def rows(self) -> dict[str, int]:
        """Number of images in each published file."""
        return {
            name: (50_000 if part == "train" else 10_000) // len(names)
            for part, names in self.files.items()
            for name in names
        }

    def load(self, split: Split) -> Samples:
        """Read the batches of a split; a copy pickled anew will do, whatever its MD5."""
        parts = [self._batch(Path(self.root, self.folder, name)) for name in self.files[split]]
        return InMemory(
            torch.cat([part.x for part in parts]), torch.cat([part.targets for part in parts])
        )

    def _batch(self, path: Path) -> InMemory:
        with reading(path):
            entry = Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
            pixels, labels = entry["data"].array(), np.asarray(entry[self.label_key])
            if pixels.ndim != 2 or pixels.shape[1] != 3072:
                raise ValueError(f"data has shape {pixels.shape}, not rows of 3,072 bytes")
        return checked(pixels.reshape(-1, *self.shape), labels, self.num_classes, path, path)


class CIFAR100(CIFAR10):
    """Small colour photographs of a hundred things, 50,000 + 10,000 of 32x32.

    **Arguments:** see `CIFAR10`.

    Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
    """

    places = ("cifar-100-python/train", "cifar-100-python/test")
    option = "cifar100"
    num_classes = 100
    channel_mean, channel_std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz, 169,001,437 bytes, MD5 eb9058c3a382ffc7106e4002c42a8d85"
    label_key = "fine_labels"
    files: ClassVar[dict[str, list[str]]] = {"train": ["train"], "test": ["test"]}
    md5: ClassVar[dict[str, str]] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    }


def checked(
    images: np.ndarray, labels: np.ndarray, num_classes: int, path: Path, label_path: Path
) -> InMemory:
    """Images and labels as tensors, if they are equally many and all labels are classes."""
    if labels.ndim != 1 or len(labels) != len(images):
        raise CorruptData(
            f"{path} holds {len(images):,} images, but {label_path} {labels.size:,} labels."
        )
    if len(labels) and not (
        labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < num_classes
    ):
        raise CorruptData(f"{label_path} holds labels other than 0 to {num_classes - 1}.")
    return InMemory(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


class PickledBytes:
    """Stands for a numpy array of bytes while a pickle is read, so that nothing of numpy's runs."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array."""
        _, shape, dtype, fortran, raw = self.state
        if dtype.args[0] != "u1" or fortran:
            raise ValueError(f"an array of {dtype.args[0]}, not of bytes in C order")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # a str in pickles of Python 2
        return np.frombuffer(raw, np.uint8).reshape(shape)


class Unpickler(pickle.Unpickler):
    """Reads containers and arrays of bytes; any other name is refused, nothing is executed."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for the few names of an array."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return PickledBytes
        if module == "numpy" and name in ("ndarray", "dtype"):
            return PickledBytes
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")
        raise ValueError(f"it wants to run {module}.{name}, which is refused")
