"""Convolutional networks from spec strings."""

from functools import partial

import pytest
import torch
from torch import nn

from snnrun.model import ConvNet, Dropout, Layer, Pool, layers, parts
from snnrun.neuron import LIF
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.surrogate import ATan

SHAPE = (1, 28, 28)


def lif(channels: int) -> LIF:
    return LIF(ATan())


def net(spec, in_shape=SHAPE, norm=BatchNorm, **options) -> ConvNet:
    return ConvNet(lif, norm, Readout().head, in_shape, 10, spec=spec, **options)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def outputs(model: nn.Module, in_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes of a sample behind every part."""
    shapes, hooks = [], []
    for _, part in parts(model):
        hooks.append(
            part.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape[2:])))
        )
    model(torch.rand(2, 3, *in_shape))
    for hook in hooks:
        hook.remove()
    return shapes


def test_the_papers_spec():
    model = net("15C5-P2-40C5-P2-300")
    weights = 15 * 25 + 40 * 15 * 25 + 300 * 40 * 7 * 7
    assert count(model) == weights + 2 * (15 + 40 + 300) + 300 * 10 + 10 == 607_095
    assert outputs(model, SHAPE) == [
        *((15, 28, 28), (15, 14, 14), (40, 14, 14), (40, 7, 7), (300,), (10,))
    ]
    assert [name for name, _ in layers(model)] == ["body.0", "body.2", "body.5", "head"]
    assert [type(part) for _, part in parts(model)] == [Layer, Pool, Layer, Pool, Layer, Layer]


def test_valid_padding():
    model = net("15C5-P2-40C5-P2-300", padding="valid")
    assert outputs(model, SHAPE) == [
        *((15, 24, 24), (15, 12, 12), (40, 8, 8), (40, 4, 4), (300,), (10,))
    ]
    weights = 15 * 25 + 40 * 15 * 25 + 300 * 40 * 4 * 4
    assert count(model) == weights + 2 * (15 + 40 + 300) + 3010


@pytest.mark.parametrize(
    ("word", "kernel", "stride", "padding", "side"),
    [
        ("4C3", 3, 1, 1, 9),
        ("4C5", 5, 1, 2, 9),
        ("4C4", 4, 1, 2, 10),
        ("4C3s2", 3, 2, 1, 5),
        ("4C3p0", 3, 1, 0, 7),
        ("4C5s2p1", 5, 2, 1, 4),
        ("4C5p1s2", 5, 2, 1, 4),
        ("4C1s3", 1, 3, 0, 3),
        ("4C9p0", 9, 1, 0, 1),
    ],
)
def test_convolutions(word, kernel, stride, padding, side):
    model = net(word, (2, 9, 9))
    (first, *_), shapes = layers(model), outputs(model, (2, 9, 9))
    synapse = first[1].synapse
    assert isinstance(synapse, nn.Conv2d)
    assert synapse.kernel_size == (kernel, kernel) and synapse.stride == (stride, stride)
    assert synapse.padding == (padding, padding) and synapse.bias is None
    assert shapes == [(4, side, side), (10,)]
    assert model.head.synapse.in_features == 4 * side * side


@pytest.mark.parametrize(
    ("word", "pool", "kind"),
    [
        ("P2", "max", "max"),
        ("P2", "avg", "avg"),
        *(("A2", pool, "avg") for pool in ("max", "avg")),
        *(("M2", pool, "max") for pool in ("max", "avg")),
    ],
)
def test_kinds_of_pools(word, pool, kind):
    found = [part for _, part in parts(net(f"4C3-{word}", pool=pool)) if isinstance(part, Pool)]
    assert [(p.kind, p.size) for p in found] == [(kind, 2)]


@pytest.mark.parametrize(
    ("spec", "shape", "expected"),
    [
        ("3C3-P2-5C3-A2-7", (2, 11, 13), [(3, 11, 13), (3, 5, 6), (5, 5, 6), (5, 2, 3), (7,)]),
        ("3C3-P2-5C3-A2-7", (2, 15, 12), [(3, 15, 12), (3, 7, 6), (5, 7, 6), (5, 3, 3), (7,)]),
        ("3C3-A3-5C3p0-M2", (2, 17, 13), [(3, 17, 13), (3, 5, 4), (5, 3, 2), (5, 1, 1)]),
    ],
)
def test_odd_sizes_and_oblong_images(spec, shape, expected):
    assert outputs(net(spec, shape), shape) == [*expected, (10,)]


def test_dense_only_and_number_as_spec():
    model = net(300, (1, 4, 5))
    assert count(model) == 20 * 300 + 600 + 3010
    assert outputs(model, (1, 4, 5)) == [(300,), (10,)]
    assert [type(m).__name__ for m in model.body] == ["Flatten", "Layer"]


def test_two_dense_layers():
    assert outputs(net("4C3-20-30"), SHAPE)[-3:] == [(20,), (30,), (10,)]


def test_without_norm_and_with_bias():
    model = net("4C3-P2-6", norm=lambda channels: None, bias=True)
    assert count(model) == (4 * 9 + 4) + (6 * 4 * 14 * 14 + 6) + (6 * 10 + 10)
    assert all(layer.norm is None for _, layer in layers(model))


def test_dense_layers_without_norm():
    found = [layer.norm for _, layer in layers(net("4C3-6-5", dense_norm=False))]
    assert found[0] is not None and found[1:] == [None, None, None]


def test_dropout_stands_behind_hidden_layers_not_pools():
    model = net("4C3-P2-6C3-20", dropout=0.25)
    assert [type(part) for _, part in parts(model)] == [
        *(Layer, Dropout, Pool, Layer, Dropout, Layer, Dropout, Layer)
    ]
    assert {part.p for _, part in parts(model) if isinstance(part, Dropout)} == {0.25}


def test_dropout_stands_where_the_spec_says():
    model = net("4C3-6C3-P2-D-20-D", dropout=0.25)
    assert [type(part) for _, part in parts(model)] == [
        *(Layer, Layer, Pool, Dropout, Layer, Dropout, Layer)
    ]
    assert {part.p for _, part in parts(model) if isinstance(part, Dropout)} == {0.25}
    assert outputs(model, SHAPE)[-3:] == [(20,), (20,), (10,)]


def test_neurons_and_norms_are_told_their_channels():
    told = []

    def make(kind, channels):
        told.append((kind, channels))
        return lif(channels) if kind == "neuron" else BatchNorm(channels)

    ConvNet(
        partial(make, "neuron"),
        partial(make, "norm"),
        Readout().head,
        SHAPE,
        10,
        spec="4C3-P2-20",
    )
    assert sorted(told) == [("neuron", 4), ("neuron", 20), ("norm", 4), ("norm", 20)]


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("15C5-Q2", "Q2"),
        ("15C5-D2", "D2"),
        ("15c5", "15c5"),
        ("", ""),
        ("15C5--300", ""),
        ("15C5-P", "P"),
        ("C5", "C5"),
        ("15C", "15C"),
        ("15C5 -P2", "15C5 "),
        ("-15C5", ""),
        ("15C5s0", "15C5s0"),
        ("0C5", "0C5"),
        ("15C0", "15C0"),
        ("15C5-P0", "P0"),
        ("15C5-0", "0"),
        (0, "0"),
    ],
)
def test_words_that_cannot_be_read(spec, word):
    with pytest.raises(ValueError) as error:
        net(spec)
    assert str(error.value) == (
        f"model.spec: cannot read {word!r} in {spec!r}."
        " Words are convolutions (15C5, 15C5s2p1), pools (P2, A2, M2), dense layers (300) and dropout (D)."
    )


@pytest.mark.parametrize("word", ["4C3", "P2", "A2"])
def test_images_end_at_a_dense_layer(word):
    with pytest.raises(ValueError) as error:
        net(f"4C3-300-{word}")
    assert str(error.value) == (
        f"model.spec: {word!r} stands behind a dense layer in '4C3-300-{word}'; dense layers come last."
    )


@pytest.mark.parametrize(
    ("spec", "word"), [("4C3-P2-P2-P2-P2-P2", "P2"), ("4C30p0", "4C30p0"), ("A29", "A29")]
)
def test_nothing_left_of_the_image(spec, word):
    with pytest.raises(ValueError) as error:
        net(spec)
    assert str(error.value) == (
        f"model.spec: nothing is left of the image (1, 28, 28) after {word!r} in {spec!r}."
    )


@pytest.mark.parametrize("dropout", [1.0, -0.5])
def test_dropout_out_of_range(dropout):
    with pytest.raises(ValueError) as error:
        net("4C3", dropout=dropout)
    assert str(error.value) == f"dropout must be at least 0 and below 1, got {dropout}."
