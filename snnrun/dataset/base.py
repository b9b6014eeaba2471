"""What every data set is to the runner: splits, loaders that can be resumed, and a transform per batch."""

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Split = Literal["train", "test"]


class MissingData(FileNotFoundError):
    """The files of a data set are not where they belong; the message says which, where and how to get them."""


class CorruptData(ValueError):
    """A file of a data set cannot be read as what it should be; the message names the file."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a bad or missing file into a `CorruptData` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        if error.errno is None:  # of a reader that says more
            raise
        raise CorruptData(f"{path} is gone. Put it back in its place.") from error
    except (CorruptData, PermissionError):
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        EOFError,
        MemoryError,
        UnpicklingError,
    ) as error:
        raise CorruptData(
            f"{path} is truncated or damaged ({type(error).__name__}: {error})."
            " It was left as it is: put a good copy in its place."
        ) from error


class Samples(Protocol):
    """One split in memory or on disk, read a batch at a time."""

    targets: Tensor

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Sequence[int], /) -> tuple[Tensor, Tensor]:
        """The samples `indices`, stacked batch first, and their labels."""
        ...


def places(indices: Sequence[int]) -> Tensor:
    """Indices as a tensor; by way of numpy, which reads a list several times as fast as torch does."""
    return torch.from_numpy(np.asarray(indices, dtype=np.int64))


class InMemory:
    """Samples held as two tensors."""

    def __init__(self, x: Tensor, targets: Tensor):
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        picked = places(indices)
        return self.x.index_select(0, picked), self.targets.index_select(0, picked)


class Pooled:
    """Several splits as one, in order: what cross-validation folds are cut from."""

    def __init__(self, parts: Sequence[Samples]):
        self.parts = parts
        self.targets = torch.cat([part.targets for part in parts])
        self.start = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = places(indices)
        owner = torch.bucketize(index, self.start[1:], right=True)
        rows = [
            self.parts[int(p)][[int(i - self.start[p])]] for i, p in zip(index, owner, strict=True)
        ]
        return torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])


class _Batches(Dataset):
    """A split as seen by a DataLoader whose sampler yields whole batches of indices."""

    def __init__(self, samples: Samples):
        self.samples = samples

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        x, y = self.samples[indices]
        return x, y, places(indices)


class BatchSampler(Sampler[list[int]]):
    """Batches of indices; the order is a function of seed and epoch alone, so a killed run can be fast-forwarded.

    **Arguments:**

    - `indices`: the samples of the split.
    - `batch_size`: samples a batch.
    - `shuffle`: draw a new order every epoch.
    - `seed`: seed of the order.
    - `drop_last`: leave out a last batch that is not full.
    - `rank`, `world_size`: take every `world_size`-th sample. In training the first samples are repeated so that all
      ranks get as many; in evaluation every sample is scored once, so ranks may differ by one.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.indices, self.batch_size, self.shuffle, self.seed = indices, batch_size, shuffle, seed
        self.drop_last, self.rank, self.world_size = drop_last, rank, world_size
        self.epoch = self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`; Lightning calls this before each epoch."""
        self.epoch = epoch

    def share(self) -> int:
        """Samples that this rank sees in an epoch."""
        surplus = self.world_size - 1 if self.shuffle else self.world_size - 1 - self.rank
        return (len(self.indices) + surplus) // self.world_size

    def __len__(self) -> int:
        return (
            self.share() // self.batch_size
            if self.drop_last
            else -(-self.share() // self.batch_size)
        )

    def __iter__(self) -> Iterator[list[int]]:
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        if self.world_size > 1:
            padding = -len(order) % self.world_size if self.shuffle else 0
            order = torch.cat([order, order[:padding]])[self.rank :: self.world_size]
        start, self.skip = self.skip, 0
        for batch in list(order.split(self.batch_size))[start : len(self)]:
            yield batch.tolist()


class ResumableLoader(DataLoader):
    """A DataLoader that can start in the middle of an epoch (Lightning's stateful-loader protocol)."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: the position is the trainer's batch counter, kept by `DataModule.state_dict`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


def deaf(worker: int) -> None:
    """Leave it to the main process to stop: a batch system sends signals to all processes of a run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


class DataModule(LightningDataModule):
    """A data set: its shape without touching a disk, its splits, and its loaders of `(x, y, index)`, batch first.

    A subclass sets `option`, `shape` and `num_classes`, and writes `load`; one with files of its own writes `missing`
    and `fetch` too, and states in `places` what `snnrun doctor` looks for without importing it: a pattern for each
    file below the data folder, or a tuple of patterns of which one will do; a literal.

    **Arguments:**

    - `root`: folder that holds all data sets.
    - `steps`: number of time steps T.
    - `batch_size`: samples a batch, on each device.
    - `val_size`: samples of the training split that are kept for validation (a fraction below 1, or a count);
      0 trains on everything.
    - `split_seed`: seed of the split into training and validation data; independent of the run's seed.
    - `folds`, `fold`: with `folds` > 0 all samples are pooled, cut into that many parts, and part `fold` is the
      test set.
    - `num_workers`: loader processes; 0 reads in the main process, which is fastest for data in memory.
    - `download`: fetch missing files from the official source.

    Raises `MissingData` and `CorruptData` when the files are read.
    """

    traits: frozenset[str] = frozenset()
    places: tuple[str | tuple[str, ...], ...] = ()
    option: str  # the name that is typed after dataset=
    shape: tuple[int, ...]
    num_classes: int
    seed = 0  # of the order of samples; the runner sets the run's seed
    obtain = ""  # a sentence on how to get files that cannot be fetched
    drop_last = False  # leave out a last training batch that is not full
    test_every_epoch = False  # the runner sets it: the test split stands behind the validation data

    def __init__(
        self,
        root: str,
        *,
        steps: int,
        batch_size: int,
        val_size: float = 0.1,
        split_seed: int = 0,
        folds: int = 0,
        fold: int = 0,
        num_workers: int = 0,
        download: bool = False,
    ):
        super().__init__()
        if steps < 1 or batch_size < 1:
            raise ValueError(
                f"dataset.steps and dataset.batch_size must be at least 1, got {steps} and {batch_size}."
            )
        if val_size is None or val_size < 0:
            raise ValueError(
                f"dataset.val_size must be a fraction below 1, a count, or 0 for none; got {val_size}."
            )
        if folds and not 0 <= fold < folds:
            raise ValueError(
                f"dataset.fold must lie in 0..{folds - 1} with dataset.folds={folds}, got {fold}."
            )
        self.root, self.val_size = os.path.expanduser(root), val_size
        self.steps, self.batch_size = steps, batch_size
        self.split_seed, self.folds, self.fold = split_seed, folds, fold
        self.num_workers, self.download = num_workers, download
        self.begin = 0, 0  # epoch and batch that training begins at
        self.order: BatchSampler | None = None  # of the training data
        self.samples: dict[str, Samples] = {}
        self.indices: dict[str, Tensor] = {}

    @property
    def validates(self) -> bool:
        """Whether there are validation data."""
        return self.val_size is None or self.val_size > 0

    def load(self, split: Split) -> Samples:
        """Read one published split. Raises `MissingData` or `CorruptData`."""
        raise NotImplementedError(f"{type(self).__name__} must define load(split).")

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Turn a raw batch into what the encoder gets: floats, normalised, augmented in training, on its device."""
        return x.float()

    def missing(self) -> str:
        """A message on the files that are not in place; empty if all are."""
        return ""

    def fetch(self) -> None:
        """Get the missing files from the official source."""

    def prepare_data(self) -> None:
        """Fetch what is missing (one process only), if `download` is set."""
        if not self.download or self.obtain or not self.missing():
            return
        try:
            self.fetch()
        except Exception as error:  # whatever the library that fetches raises
            raise MissingData(
                f"{self.missing()}\nFetching them from the official source failed ({type(error).__name__}: {error}); "
                "put them there by hand."
            ) from error

    def setup(self, stage: str | None = None) -> None:
        """Read the splits once and cut validation data off the training split."""
        if self.samples:
            return
        if message := self.missing():
            raise MissingData(message)
        train, test = self.load("train"), self.load("test")
        if self.folds:
            pooled = Pooled([train, test])
            parts = self._order(len(pooled)).tensor_split(self.folds)
            rest = torch.cat([part for k, part in enumerate(parts) if k != self.fold])
            self.samples = {"train": pooled, "val": pooled, "test": pooled}
            test_index = parts[self.fold]
        else:
            rest, test_index = self._order(len(train)), torch.arange(len(test))
            self.samples = {"train": train, "val": train, "test": test}
        held_out = round(self.val_size * len(rest)) if self.val_size < 1 else int(self.val_size)
        if held_out >= len(rest):
            raise ValueError(
                f"dataset.val_size={self.val_size} leaves no training data: there are {len(rest)} samples."
            )
        self.indices = {
            "train": rest[held_out:].sort().values,
            "val": rest[:held_out].sort().values,
            "test": test_index,
        }

    def _missing(self, folder: Path, files: Mapping[str, str], hint: str = "") -> str:
        """The message on missing `files`, each with its size and checksum, that belong into `folder`."""
        if not files:
            return ""
        width = max(map(len, files))
        count = "1 file is" if len(files) == 1 else f"{len(files)} files are"
        lines = [f"dataset={self.option}: {count} missing in {folder.absolute()}:"]
        lines += [f"  {name:{width}}  {detail}" for name, detail in files.items()]
        top = folder.relative_to(self.root).parts[0]
        how = "." if self.download else "; or fetch them with dataset.download=true."
        lines.append(
            "Set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds "
            + top
            + (f". {self.obtain}" if self.obtain else how)
        )
        return "\n".join([*lines, hint] if hint else lines)

    def _order(self, n: int) -> Tensor:
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.split_seed))

    def split_sha256(self) -> str:
        """Hash of the indices of all three splits: two runs with the same hash saw the same split."""
        digest = hashlib.sha256()
        for name in ("train", "val", "test"):
            digest.update(name.encode() + self.indices[name].numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def loader(self, split: Literal["train", "val", "test"]) -> DataLoader:
        """A loader over one split; only training data are shuffled."""
        trainer = self.trainer
        sampler = BatchSampler(
            self.indices[split],
            self.batch_size,
            shuffle=split == "train",
            seed=self.seed,
            drop_last=self.drop_last and split == "train",
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if split == "train" and trainer:
            # worker processes ask for the first batches before Lightning sets the epoch
            (sampler.epoch, sampler.skip), self.begin = self.begin, (0, 0)
            self.order = sampler
        return ResumableLoader(
            _Batches(self.samples[split]),
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=deaf,
            generator=torch.Generator(),  # or starting an epoch would draw from the global one
        )

    def training_batch(self, epoch: int, number: int = 0) -> tuple[Tensor, Tensor]:
        """A training batch of an epoch, the same on all ranks; the loaders do not notice.

        **Arguments:**

        - `epoch`: the epoch.
        - `number`: of the batch; behind the last one they begin anew.
        """
        order = BatchSampler(self.indices["train"], self.batch_size, shuffle=True, seed=self.seed)
        order.set_epoch(epoch)
        return self.samples["train"][next(islice(order, number % len(order), None))]

    def state_dict(self) -> dict[str, Any]:
        """The epoch to go on with, and the number of its batches that were trained on."""
        if self.order is None or self.trainer is None:
            return {"epoch": 0, "batch": 0}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch:  # a checkpoint at the end of an epoch
            return {"epoch": self.order.epoch + 1, "batch": 0}
        return {"epoch": self.order.epoch, "batch": progress.current.ready}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start training in the epoch of a checkpoint, behind the batches that were trained on before."""
        self.begin = state_dict["epoch"], state_dict["batch"]

    def train_dataloader(self) -> DataLoader:
        """Shuffled training batches."""
        return self.loader("train")

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Validation batches, none if everything is trained on; test batches behind them with `test_every_epoch`."""
        loaders = [self.loader("val")] if len(self.indices["val"]) else []
        loaders += [self.loader("test")] if self.test_every_epoch else []
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> DataLoader:
        """Test batches."""
        return self.loader("test")
