import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from snnrun.dataset.base import BatchSampler, CorruptData, DataModule, InMemory, Pooled, reading

SIZES = st.integers(1, 40)


class Made(DataModule):
    """Fifty made samples, forty of them for training, that say their own number."""

    option = "made"
    shape = (1,)
    num_classes = 5

    def load(self, split):
        x = torch.arange(40) if split == "train" else torch.arange(40, 50)
        return InMemory(x.view(-1, 1), x % 5)


def made(**options) -> Made:
    data = Made("data", **{"steps": 1, "batch_size": 4, **options})
    data.setup()
    return data


def flat(sampler) -> list[int]:
    return [i for batch in sampler for i in batch]


@given(SIZES, SIZES, st.integers(0, 2**31), st.integers(0, 100))
def test_every_sample_comes_once_in_an_order_of_seed_and_epoch_alone(n, batch_size, seed, epoch):
    torch.manual_seed(n)
    one = BatchSampler(torch.arange(n) + 7, batch_size, shuffle=True, seed=seed)
    one.set_epoch(epoch)
    first = list(one)
    torch.rand(3)
    two = BatchSampler(torch.arange(n) + 7, batch_size, shuffle=True, seed=seed)
    two.set_epoch(epoch)
    assert first == list(two) == list(one)
    assert sorted(i for batch in first for i in batch) == list(range(7, n + 7))
    assert [len(batch) for batch in first[:-1]] == [batch_size] * (len(first) - 1)
    assert len(first) == len(one)


def test_epochs_and_seeds_differ():
    sampler = BatchSampler(torch.arange(100), 10, shuffle=True, seed=1)
    orders = []
    for sampler.seed in (1, 2):
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            orders.append(tuple(flat(sampler)))
    assert len(set(orders)) == 4


@given(SIZES, st.integers(1, 9), st.integers(0, 40))
def test_skipping_continues_the_epoch_and_only_once(n, batch_size, skip):
    sampler = BatchSampler(torch.arange(n), batch_size, shuffle=True, seed=3)
    whole = list(sampler)
    sampler.skip = skip
    assert list(sampler) == whole[skip:]
    assert list(sampler) == whole


@given(SIZES, st.integers(1, 9))
def test_drop_last_leaves_full_batches(n, batch_size):
    sampler = BatchSampler(torch.arange(n), batch_size, shuffle=True, drop_last=True)
    assert [len(batch) for batch in sampler] == [batch_size] * (n // batch_size)
    assert len(sampler) == n // batch_size


@given(SIZES, st.integers(1, 9), st.integers(1, 5))
def test_ranks_score_every_sample_once_in_evaluation(n, batch_size, world_size):
    ranks = [
        BatchSampler(torch.arange(n), batch_size, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    shares = [flat(rank) for rank in ranks]
    assert sorted(i for share in shares for i in share) == list(range(n))
    assert [rank.share() for rank in ranks] == [len(share) for share in shares]
    assert [len(rank) for rank in ranks] == [len(list(rank)) for rank in ranks]


@given(st.integers(6, 40), st.integers(1, 9), st.integers(1, 5))
def test_ranks_get_as_many_in_training(n, batch_size, world_size):
    ranks = [
        BatchSampler(
            torch.arange(n), batch_size, shuffle=True, seed=5, rank=r, world_size=world_size
        )
        for r in range(world_size)
    ]
    shares = [flat(rank) for rank in ranks]
    assert {len(share) for share in shares} == {-(-n // world_size)}
    seen = sorted(i for share in shares for i in share)
    assert set(seen) == set(range(n)) and len(seen) - n < world_size


def test_splits_are_disjoint_and_complete():
    data = made(val_size=0.25)
    train, val, test = (data.indices[name].tolist() for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (30, 10, 10)
    assert sorted(train + val) == list(range(40)) and test == list(range(10))
    assert [x.item() for batch, _, _ in data.test_dataloader() for x in batch] == list(
        range(40, 50)
    )


def test_validation_size_as_a_count_and_none():
    assert len(made(val_size=7).indices["val"]) == 7
    data = made(val_size=0)
    assert len(data.indices["train"]) == 40 and data.val_dataloader() == []


@pytest.mark.parametrize(("val_size", "splits"), [(0, ["test"]), (0.25, ["val", "test"])])
def test_the_test_split_stands_behind_the_validation_data_where_asked_for(val_size, splits):
    data = made(val_size=val_size)
    data.test_every_epoch = True
    loaders = data.val_dataloader()
    loaders = loaders if isinstance(loaders, list) else [loaders]
    seen = [[i for _, _, index in loader for i in index.tolist()] for loader in loaders]
    assert seen == [data.indices[name].tolist() for name in splits]


def test_split_hash_is_of_the_indices():
    data = made()
    digest = hashlib.sha256()
    for name in ("train", "val", "test"):
        digest.update(name.encode())
        digest.update(b"".join(int(i).to_bytes(8, "little") for i in data.indices[name]))
    assert data.split_sha256() == digest.hexdigest()
    assert made().split_sha256() == data.split_sha256()
    assert made(split_seed=1).split_sha256() != data.split_sha256()
    assert made(val_size=0.2).split_sha256() != data.split_sha256()


def test_each_sample_is_in_exactly_one_test_fold():
    tested = []
    for fold in range(5):
        data = made(folds=5, fold=fold, val_size=0.2)
        parts = [data.indices[name].tolist() for name in ("train", "val", "test")]
        assert sorted(i for part in parts for i in part) == list(range(50))
        assert len(parts[1]) == 8
        tested += parts[2]
    assert sorted(tested) == list(range(50))


def test_pooled_splits_keep_their_order():
    data = made(folds=2)
    x, y = data.samples["test"][[0, 39, 40, 49, 3]]
    assert x.flatten().tolist() == [0, 39, 40, 49, 3]
    assert y.tolist() == [0, 4, 0, 4, 3]
    assert isinstance(data.samples["test"], Pooled) and len(data.samples["test"]) == 50


def test_a_batch_is_samples_labels_and_indices():
    data = made(val_size=0)
    x, y, index = next(iter(data.train_dataloader()))
    assert x.shape == (4, 1)
    assert x.flatten().tolist() == index.tolist()
    assert y.tolist() == (index % 5).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "dataset.steps and dataset.batch_size must be at least 1, got 0 and 4."),
        ({"folds": 3, "fold": 3}, "dataset.fold must lie in 0..2 with dataset.folds=3, got 3."),
        (
            {"val_size": -1},
            "dataset.val_size must be a fraction below 1, a count, or 0 for none; got -1.",
        ),
        ({"val_size": 40}, "dataset.val_size=40 leaves no training data: there are 40 samples."),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        made(**options)
    assert str(error.value) == message


def test_reading_names_the_file_and_lets_others_through():
    with pytest.raises(CorruptData) as error, reading(Path("some.bin")):
        raise EOFError("at byte 7")
    assert str(error.value) == (
        "some.bin is truncated or damaged (EOFError: at byte 7). It was left as it is: put a good "
        "copy in its place."
    )
    with (
        pytest.raises(CorruptData, match=r"^some\.bin is gone\. Put it back"),
        reading(Path("some.bin")),
    ):
        Path("some.bin").read_bytes()
    with pytest.raises(FileNotFoundError, match="no classes"), reading(Path("some.bin")):
        raise FileNotFoundError("no classes")
    with pytest.raises(PermissionError), reading(Path("some.bin")):
        raise PermissionError


def test_a_loader_process_leaves_it_to_the_run_to_stop():
    batches = iter(made(num_workers=1, val_size=0).loader("train"))
    first = [next(batches)]
    (worker,) = multiprocessing.active_children()
    assert worker.pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker.pid, number)
    assert len([*first, *batches]) == 10
    del batches
