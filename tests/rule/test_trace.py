"""What rules for traces do to a network: pools, dropout, initial weights, bounds; and what they refuse."""

import math

import pytest
import torch
from torch import nn

from snnrun.model import ConvNet, Dropout, Layer, Pool, Recurrent, layers, parts
from snnrun.neuron import PSCLIF
from snnrun.readout import Readout
from snnrun.rule import TSSL, ResetBPTT
from snnrun.surrogate import ATan

SHAPE = (1, 28, 28)


def convnet(spec="15C5-P2-40C5-P2-300", shape=SHAPE, **options) -> ConvNet:
    return ConvNet(
        lambda c: PSCLIF(ATan()),
        lambda c: None,
        Readout(bias=False).head,
        shape,
        10,
        spec=spec,
        **options,
    )


def pools(net: nn.Module) -> list[tuple[str, float]]:
    return [(part.kind, part.gain) for _, part in parts(net) if isinstance(part, Pool)]


@pytest.mark.parametrize("rule", [TSSL, ResetBPTT])
def test_by_default_the_network_stays_as_the_model_made_it(rule):
    net = convnet(dropout=0.3)
    kept = {k: v.clone() for k, v in net.state_dict().items()}
    assert rule().adapt(net) is net
    assert pools(net) == [("max", 1.0)] * 2
    assert {p.share for _, p in parts(net) if isinstance(p, Dropout)} == {"element"}
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


def test_pools_and_dropout():
    net = convnet(dropout=0.3)
    TSSL(pooling="sum", theta=1.2, dropout="row").adapt(net)
    assert pools(net) == [("sum", 1.2)] * 2
    assert {p.share for _, p in parts(net) if isinstance(p, Dropout)} == {"row"}


def test_initial_weights():
    torch.manual_seed(0)
    net = convnet()
    TSSL(init="kaiming", dense_weight_scale=0.5, conv_weight_scale=5.0).adapt(net)
    (_, first), (_, second), (_, dense), (_, head) = layers(net)
    for layer, fan_in in ((first, 25), (second, 15 * 25)):
        weight, bound = layer.synapse.weight, 5 / math.sqrt(fan_in)
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for layer in (dense, head):
        weight = layer.synapse.weight
        expected = 0.5 * math.sqrt(2 / weight.shape[1])
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
        assert weight.abs().max() > 2.5 * expected, "normal, not uniform"


def test_weights_of_synapses_are_clamped_and_nothing_else():
    net = Recurrent(
        lambda c: PSCLIF(ATan()), lambda c: None, Readout().head, (3,), 4, spec="R8", bias=True
    )
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(9.0)
        TSSL(weight_clip=2.0).constrain(net)
    values = {name: p.unique().tolist() for name, p in net.named_parameters()}
    assert values == {name: [2.0 if name.endswith("weight") else 9.0] for name in values}
    assert any("recurrent" in name for name in values)
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(9.0)
        TSSL(weight_clip=None).constrain(net)
    assert all(p.unique().tolist() == [9.0] for p in net.parameters())


def test_sum_pools_that_leave_pixels_out_are_named():
    rule = TSSL(pooling="sum")
    net = rule.adapt(convnet("4C3-P2-6C3-P2-5", shape=(1, 14, 14), padding="same"))
    before = [p.device.type for p in net.parameters()]
    with pytest.raises(ValueError) as error:
        rule.validate((1, 14, 14), 5)
    assert str(error.value) == (
        "body.3: sum pooling over 2x2 would leave out pixels of 7x7."
        " Pad the convolution before it, resize the input, or set rule.pooling=keep."
    )
    assert [p.device.type for p in net.parameters()] == before
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_other_pools_and_even_sizes_are_fine():
    for rule, side in ((TSSL(pooling="sum"), 28), (TSSL(), 14)):
        rule.adapt(convnet(shape=(1, side, side)))
        rule.validate((1, side, side), 5)
    TSSL().validate((1, 8, 8), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, r"rule\.pooling must be keep or sum, got 'max'"),
        ({"dropout": "map"}, r"rule\.dropout must be element or row, got 'map'"),
        ({"init": "zero"}, r"rule\.init must be keep or kaiming, got 'zero'"),
        ({"weight_clip": 0.0}, r"rule\.weight_clip must be above 0, or null for none; got 0\.0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        TSSL(**options)


def test_layers_are_found():
    assert len(list(layers(convnet()))) == 4 and isinstance(next(layers(convnet()))[1], Layer)


TRACES = ("loss=kernel", "readout=trace_sum")
REFUSED = {
    ("rule=tssl", *TRACES, "dataset.steps=7"): (
        "loss=kernel needs T to be 5 or a multiple of 10, the lengths of its desired spike train; got 7."
        " Set dataset.steps=5 or dataset.steps=10, or choose another loss."
    ),
    ("rule=reset_bptt", "model=convnet", "model.spec=4C3p0-P4", "rule.pooling=sum"): (
        "body.1: sum pooling over 4x4 would leave out pixels of 6x6."
        " Pad the convolution before it, resize the input, or set rule.pooling=keep."
    ),
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_requests_are_refused_before_data_are_read(words):
    """Digits of 8x8."""
    from snnrun.check import composed, dry_run, without_hydra  # needs lightning
    from snnrun.config import BadRequest, Choices

    cfg = without_hydra(composed(Choices(), list(words)))
    with pytest.raises(BadRequest) as error:
        dry_run(cfg)
    assert str(error.value) == REFUSED[words]
