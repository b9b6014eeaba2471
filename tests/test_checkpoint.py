"""Weights from files: snnrun's own and published ones, and what is said of those that do not fit."""

import argparse
import os
import pickle
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from snnrun.checkpoint import (
    DamagedCheckpoint,
    WrongCheckpoint,
    load_weights,
    read,
    recover,
    weights,
)
from snnrun.model import MLP, Layer, SEWResNet, SpikingResNet
from snnrun.model.keymap import to_published
from snnrun.neuron import IF
from snnrun.norm import BatchNorm
from snnrun.surrogate import ATan

FILE = Path("weights.pth")


def head(features: int, classes: int) -> Layer:
    return Layer(nn.Linear(features, classes), None, None)


def net(made=SEWResNet, seed: int = 0, classes: int = 3, **more) -> nn.Module:
    torch.manual_seed(seed)
    more = {"depth": 18} | more if made is not MLP else {}
    return made(lambda c: IF(ATan()), BatchNorm, head, (1, 8, 8), classes, **more)


def published(network: nn.Module, naming, holder: str) -> dict:
    """The content of a file as the authors save it."""
    state = to_published(network, naming)
    arguments = argparse.Namespace(T=4, lr=0.1, model="sew_resnet18", resume=None, amp=True)
    more = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 319}
    return {holder: state, **more, "args": arguments, "max_test_acc1": 63.18} if holder else state


@pytest.mark.parametrize("holder", ["model", "net", ""])
@pytest.mark.parametrize("naming", ["original", "spikingjelly"])
@pytest.mark.parametrize("fmt", ["auto", "named"])
def test_published_files(tmp_path, holder, naming, fmt):
    one, other = net(seed=0), net(seed=1)
    torch.save(published(one, naming, holder), tmp_path / FILE)
    state = weights(read(tmp_path / FILE), FILE)
    found = load_weights(other, state, naming if fmt == "named" else fmt, FILE)
    assert found == naming
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_own_names(prefix):
    one, other = net(seed=0), net(seed=1)
    state = {prefix + key: value for key, value in one.state_dict().items()}
    content = {"state_dict": {**state, "readout.w": torch.zeros(1)}} if prefix == "net." else state
    assert load_weights(other, weights(content, FILE), "auto", FILE) == "snnrun"
    assert torch.equal(one.head.synapse.weight, other.head.synapse.weight)


def refused(network: nn.Module, state, fmt="auto") -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WrongCheckpoint) as error:
        load_weights(network, state, fmt, FILE)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    return str(error.value)


def test_another_architecture_names_the_first_five_keys_of_each_kind():
    state = to_published(net(), "original")
    message = refused(net(depth=34, classes=7), state | {"extra": torch.zeros(2)})
    assert message.splitlines() == [
        "weights.pth is of another architecture (read as ckpt_format=original):",
        "  missing (80): stages.0.2.path.0.synapse.weight, stages.0.2.path.0.norm.weight,"
        " stages.0.2.path.0.norm.bias, stages.0.2.path.0.norm.running_mean,"
        " stages.0.2.path.0.norm.running_var, and 75 more",
        "  unexpected (1): extra",
        "  of another shape (2): head.synapse.weight (3, 512) instead of (7, 512),"
        " head.synapse.bias (3,) instead of (7,)",
    ]


def test_a_spiking_resnet_is_no_sew_resnet():
    message = refused(net(), to_published(net(SpikingResNet), "original"))
    assert "missing (15): stages.1.0.shortcut.synapse.weight, " in message
    assert "unexpected (18): layer2.0.downsample.module.0.weight, " in message


def test_formats_that_do_not_exist():
    state = net().state_dict()
    assert refused(net(), state, "timm") == (
        "ckpt_format must be one of auto, snnrun, original, spikingjelly, got 'timm'."
    )
    message = refused(net(MLP), state, "original")
    assert message.startswith("ckpt_format=original: There are no original names for body.0 of MLP")


def test_a_file_that_holds_no_weights():
    with pytest.raises(WrongCheckpoint) as error:
        weights({"epoch": 3, "model": "sew_resnet18"}, FILE)
    assert str(error.value).endswith("of tensors. It has: epoch, model.")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": net().state_dict(), "args": Harmful()}, FILE)
    with pytest.raises(WrongCheckpoint, match=r"weights\.pth is no file of tensors and numbers"):
        read(FILE)
    FILE.write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(WrongCheckpoint, match=r"weights\.pth is no file of tensors and numbers"):
        read(FILE)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / FILE
    with pytest.raises(WrongCheckpoint, match="There is no checkpoint"):
        read(path)
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DamagedCheckpoint) as error:
        read(path)
    assert str(error.value) == f"{path} is truncated or damaged. It was left as it is."
    torch.save(torch.zeros(3), path)
    with pytest.raises(WrongCheckpoint, match="holds a Tensor, not a dict of weights"):
        read(path)


# --- damage


def same(a, b) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    return type(a) is type(b) and a == b


CONTENT = {
    "state_dict": {f"net.{i}": torch.arange(20.0).view(4, 5) + i for i in range(3)},
    "global_step": 7,
    "snnrun": {"history": [{"epoch": 0, "val/acc": 12.5}]},
}


def damage(content: bytes) -> Iterator[bytes]:
    """Every byte with a bit that is wrong, and the file cut off at many places."""
    places = random.Random(0)
    for i in range(len(content)):
        yield content[:i] + bytes([content[i] ^ 1 << places.randrange(8)]) + content[i + 1 :]
    names = content.index(b"PK\1\2")  # the table of contents, in which a bit may mean anything
    for i in range(names, len(content)):
        for bit in range(8):
            yield content[:i] + bytes([content[i] ^ 1 << bit]) + content[i + 1 :]
    for end in range(0, len(content), 37):
        yield content[:end]


@pytest.mark.parametrize("stride", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_a_wrong_bit_is_found_or_means_nothing(stride, tmp_path):
    torch.save(CONTENT, tmp_path / FILE)
    found = passed = 0
    for content in islice(damage((tmp_path / FILE).read_bytes()), 0, None, stride):
        (tmp_path / FILE).write_bytes(content)
        try:
            read_again = read(tmp_path / FILE)
        except DamagedCheckpoint as error:
            assert str(error) == f"{tmp_path / FILE} is truncated or damaged. It was left as it is."
            found += 1
        except WrongCheckpoint:  # no longer a file of torch's
            found += 1
        else:
            assert same(read_again, CONTENT)
            passed += 1
    assert found > passed > 0


def test_a_run_goes_on_from_the_last_checkpoint_that_is_whole(tmp_path, caplog):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    assert recover(tmp_path) is None
    torch.save({**CONTENT, "global_step": 3}, previous)
    assert recover(tmp_path) == (previous, 3)
    torch.save(CONTENT, last)
    assert recover(tmp_path) == (last, 7)
    assert not caplog.records

    good = last.read_bytes()
    last.write_bytes(good[:-1])
    assert recover(tmp_path) == (previous, 3)
    assert caplog.messages == [
        f"{last} is truncated or damaged. It is kept as damaged.ckpt; going on from previous.ckpt, step 3."
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.ckpt", "previous.ckpt"]
    assert (tmp_path / "damaged.ckpt").read_bytes() == good[:-1]

    for path in (last, previous):
        path.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint) as error:
        recover(tmp_path)
    assert str(error.value) == f"{last} is truncated or damaged. It was left as it is."
    assert last.exists() and previous.exists()
