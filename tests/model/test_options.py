"""What holds of every option of the group model, built as the runner builds it."""

import copy
import functools
import pickle

import pytest
import torch
from torch import Tensor, nn

from snnrun.config import Choices, factory, instantiate
from snnrun.model import Dropout, Layer, layers, parts
from snnrun.neuron import Neuron, carry

CHOICES = Choices()
SHAPE = (2, 12, 12)
SMALL = {"event_resnet": ["model.spec=4C1-BP2x2"]}  # the default needs images of 128
every_option = pytest.mark.parametrize("option", CHOICES.options("model"))
with_dropout = pytest.mark.parametrize(
    "option", [o for o in CHOICES.options("model") if "dropout" in CHOICES.load("model", o)]
)


@functools.cache
def made(option: str, *words: str) -> nn.Module:
    torch.manual_seed(0)
    # untrained nets are silent in evaluation, and then all are equal; of many layers without shortcuts the last are
    active = f"neuron.threshold={0.02 if option == 'vgg' else 0.2}"
    small = SMALL.get(option, [])
    cfg = CHOICES.compose([f"model={option}", "dataset.steps=5", *small, *words, active])
    readout = instantiate(
        cfg.readout, neuron=factory(cfg.readout.neuron), norm=factory(cfg.readout.norm)
    )
    return instantiate(
        cfg.model,
        neuron=factory(cfg.neuron),
        norm=factory(cfg.norm),
        head=readout.head,
        in_shape=SHAPE,
        num_classes=4,
    )


def build(option: str, *words: str) -> nn.Module:
    return copy.deepcopy(made(option, *words))


def sequence(batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.rand(5, batch, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)


@every_option
def test_shape_and_gradients(option):
    net = build(option)
    out = net(sequence())
    assert out.shape == (5, 3, 4) and out.isfinite().all()
    (out * torch.rand(5, 3, 4)).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.any() or name.endswith("bias"), f"{name} has no gradient"


@every_option
def test_made_of_layers_and_every_neuron_sits_in_one(option):
    net = build(option)
    found = [layer for _, layer in layers(net)]
    assert found[-1] is net.head and isinstance(net.head, Layer)
    assert net.head.synapse.out_features == 4
    neurons = [m for m in net.modules() if isinstance(m, Neuron)]
    assert neurons and {id(n) for n in neurons} <= {id(layer.neuron) for layer in found}
    own = {id(p) for _, part in parts(net) for p in part.parameters()}
    assert own == {id(p) for p in net.parameters()}


@every_option
def test_layers_come_in_forward_order(option):
    net, called = build(option), []
    for name, layer in layers(net):
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
    net(sequence())
    first_calls = called if "feedback" not in net.traits else list(dict.fromkeys(called))
    assert first_calls == [name for name, _ in layers(net)], "a loop calls its layers once a step"


@every_option
def test_streaming_in_evaluation_equals_the_whole_sequence(option):
    net = build(option).double()
    x = sequence(dtype=torch.float64)
    for _ in range(3):
        net(x)
    net.eval()
    whole = net(x)
    with carry(net):
        streamed = torch.cat([net(chunk) for chunk in x.split([1, 3, 1])])
    torch.testing.assert_close(streamed, whole, rtol=1e-9, atol=1e-11)
    assert (whole.std(0) > 0).all()


@every_option
def test_samples_do_not_see_each_other_in_evaluation(option):
    net = build(option).double()
    x = sequence(4, torch.float64)
    net(x)
    net.eval()
    alone = torch.cat([net(sample) for sample in x.split(1, dim=1)], dim=1)
    torch.testing.assert_close(net(x), alone, rtol=1e-9, atol=1e-11)
    assert (alone.std(1) > 0).any()


@every_option
def test_a_static_input_gives_what_its_copies_give(option):
    net = build(option).double()
    net.eval()
    x = sequence(dtype=torch.float64)[0]
    once = net(x.expand(5, *x.shape))
    copied = net(x.repeat(5, 1, 1, 1, 1))
    torch.testing.assert_close(once, copied, rtol=1e-9, atol=1e-11)
    assert not torch.equal(once[0], once[4]), "neurons must still run over time"


@every_option
def test_a_static_input_goes_through_the_first_synapse_once(option):
    net, rows = build(option), []
    (_, first), *_ = layers(net)
    first.synapse.register_forward_hook(lambda m, args, out: rows.append(len(args[0])))
    x = sequence()[0]
    net(x.expand(5, *x.shape))
    net(sequence())
    assert rows == [3, 15]


@every_option
def test_copies_and_state_dict(option):
    net = build(option)
    x = sequence()
    net(x).sum().backward()
    net.eval()
    out = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(other(x), out)
    fresh = build(option).eval()
    with torch.no_grad():
        for p in fresh.parameters():
            p.add_(1)
    fresh.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(fresh(x), out)


@every_option
def test_keys_stay_under_compilation(option):
    net = build(option)
    keys = list(net.state_dict())
    net.compile(backend="eager")
    assert list(net.state_dict()) == keys


@every_option
@pytest.mark.parametrize("word", ["neuron=plif", "norm=bntt", "norm=none", "readout=spike_rate"])
def test_with_other_parts(option, word):
    out = build(option, word)(sequence())
    assert out.shape == (5, 3, 4)
    if word.startswith("readout"):
        assert set(out.unique().tolist()) <= {0.0, 1.0}


@with_dropout
def test_dropout_is_the_same_at_every_step(option):
    net, masks = build(option, "model.dropout=0.5"), []
    for _, part in parts(net):
        if isinstance(part, Dropout):
            part.register_forward_hook(lambda m, args, out: masks.append((args[0], out)))
    net(sequence(8))
    assert masks
    for given, out in masks:
        dropped = ((given > 0) & (out == 0)).any(0)
        assert dropped.any()
        assert not out[:, dropped].any(), "dropped at one step, passed at another"
    net.eval()
    assert torch.equal(net(sequence()), net(sequence()))


@every_option
def test_mixed_precision(option):
    net = build(option)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(sequence())
    assert out.shape == (5, 3, 4) and out.isfinite().all()
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())
