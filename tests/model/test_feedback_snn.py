"""Chains of populations with feedback."""

import pytest
import torch
from torch import Tensor, nn

from snnrun.model import Dropout, FeedbackSNN, Layer, parts
from snnrun.neuron import FeedbackLIF, carry
from snnrun.norm import BatchNorm
from snnrun.readout import Readout
from snnrun.surrogate import ATan


def net(in_shape=(2, 8, 8), norm=lambda channels: None, threshold=1.0, **options) -> FeedbackSNN:
    torch.manual_seed(0)
    neuron = lambda channels: FeedbackLIF(ATan(), threshold, -threshold)  # noqa: E731
    return FeedbackSNN(neuron, norm, Readout().head, in_shape, 10, **options).double()


def sequence(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.rand(6, 3, *shape, generator=generator, dtype=torch.float64)


def by_hand(model: FeedbackSNN, x: Tensor) -> list[Tensor]:
    """Spikes of every population, one step of time and one population after the other."""
    layers = [part for part in model.body if isinstance(part, Layer)]
    u: list[Tensor | float] = [0.0] * len(layers)
    spikes: list[list[Tensor]] = [[] for _ in layers]
    for x_t in x:
        current = model.input.synapse(x_t)
        if spikes[-1] and model.feedback is not None:
            current = current + model.feedback.synapse(spikes[-1][-1])
        for i, layer in enumerate(layers):
            if i:
                current = layer.synapse(current)
            h = u[i] + current
            s = (h >= layer.neuron.threshold).double()
            u[i] = h - layer.neuron.swing * s
            spikes[i].append(s)
            current = s
    return [torch.stack(s) for s in spikes]


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("4C3s2-5C3s2-6C3", nn.ConvTranspose2d),
        ("4C3-5C3", nn.Conv2d),
        ("4C5s2", nn.Conv2d),
        ("4C3-P2-5C3", nn.ConvTranspose2d),
        ("12-9-7", nn.Linear),
        (11, nn.Linear),
    ],
)
def test_equals_a_loop_by_hand(spec, kind):
    model = net(spec=spec, threshold=0.5)
    x = sequence(2, 8, 8) if "C" in str(spec) else sequence(128)
    assert model.feedback is not None and type(model.feedback.synapse) is kind
    assert model.feedback.synapse.bias is None
    with torch.no_grad():
        model.feedback.synapse.weight.mul_(4)
    expected = by_hand(model, x)
    out = model(x.view(6, 3, 2, 8, 8))
    torch.testing.assert_close(out, model.head(expected[-1].flatten(2)), rtol=1e-12, atol=1e-12)
    assert all(0.02 < s.mean() < 0.98 for s in expected)
    with torch.no_grad():
        model.feedback.synapse.weight.zero_()
    assert not torch.equal(model(x.view(6, 3, 2, 8, 8)), out), "feedback matters"


def test_without_feedback_it_is_a_plain_chain():
    model = net(spec="4C3-P2-5C3-P2-30-D", feedback=0, dropout=0.5)
    assert model.feedback is None
    kinds = [type(part).__name__ for part in model.body]
    assert kinds == ["Layer", "Layer", "Layer", "Layer", "Flatten", "Layer", "Dropout"]
    pools = [
        layer.synapse
        for layer in model.body
        if isinstance(getattr(layer, "synapse", 0), nn.AvgPool2d)
    ]
    assert len(pools) == 2, "pools fire"
    model.eval()
    x = sequence(2, 8, 8)
    assert torch.equal(model(x), model.head(model.body(model.input(x)).flatten(2)))


@pytest.mark.parametrize("side", [7, 8, 9, 12, 13])
def test_feedback_has_the_size_of_the_first_population(side):
    model = net((1, side, side), spec="3C3-4C3s2-4C3s2-5C3")
    assert model.feedback is not None
    first = model.input.synapse(torch.zeros(1, 1, side, side, dtype=torch.float64)).shape
    last = model.body(model.input(torch.zeros(1, 1, 1, side, side, dtype=torch.float64)))
    assert model.feedback.synapse(last[0]).shape == first


def test_where_norms_and_dropout_stand():
    model = net(spec="4C3s2-5C3-P2-6C3", norm=BatchNorm, dropout=0.2)
    assert [type(p) for _, p in parts(model) if isinstance(p, Dropout)] == [Dropout] * 3
    normed = [layer.norm is not None for layer in model.modules() if isinstance(layer, Layer)]
    #  input, population 0 (its norm is the input's), 5C3, P2, 6C3, feedback, head
    assert normed == [True, False, True, False, True, False, False]


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_are_cut_between_chunks_and_not_between_steps(detach):
    model, x = net(spec="9-8", threshold=0.3), sequence(128).view(6, 3, 2, 8, 8)

    def gradient(*chunks: Tensor) -> Tensor:
        model.zero_grad()
        with carry(model, detach=detach):
            torch.cat([model(chunk) for chunk in chunks]).square().sum().backward()
        assert model.input.synapse.weight.grad is not None
        return model.input.synapse.weight.grad.clone()

    whole, cut, steps = gradient(x), gradient(*x.split(3)), gradient(*x.split(1))
    model.zero_grad()
    model(x).square().sum().backward()
    assert torch.equal(whole, model.input.synapse.weight.grad)
    same = [torch.allclose(whole, other, rtol=1e-9) for other in (cut, steps)]
    assert same == ([False, False] if detach else [True, True])
    assert detach is not torch.allclose(cut, steps, rtol=1e-9)


@pytest.mark.parametrize("transposed", [False, True])
def test_unit_rows(transposed):
    model = net(spec="4C3s2-6C3s2" if transposed else "4C3-6C3", init="unit", feedback_scale=0.5)
    assert model.feedback is not None
    for layer in (model.input, model.body[1], model.feedback):
        synapse = layer.synapse
        rows = (
            synapse.weight.transpose(0, 1)
            if isinstance(synapse, nn.ConvTranspose2d)
            else synapse.weight
        )
        norms = rows.flatten(1).norm(dim=1)
        torch.testing.assert_close(
            norms, torch.full_like(norms, 0.5 if layer is model.feedback else 1)
        )
        assert synapse.bias is None or not synapse.bias.any()


def test_kaiming_has_the_deviation_of_its_fan_in():
    model = net((50, 12, 12), spec="60C3s2-70C3s2")
    assert model.feedback is not None
    for layer, fan_in in ((model.input, 50 * 9), (model.body[1], 60 * 9), (model.feedback, 70 * 9)):
        assert layer.synapse.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": "4X3"}, "cannot read '4X3' in '4X3'"),
        ({"spec": "P2-4C3"}, "cannot read 'P2'"),
        ({"spec": "D-4C3"}, "cannot read 'D'"),
        (
            {"spec": "30-4C3"},
            r"'4C3' needs an image \(C, H, W\), but what it reads has the shape \(30,\)",
        ),
        ({"spec": "4C3-P2-P2-P2-P2"}, "nothing is left of the image .* after 'P2'"),
        (
            {"spec": "4C3-30"},
            r"no feedback from a population of the shape \(30,\) to one of \(4, 8, 8\)",
        ),
        ({"spec": "4C3-5C5p0"}, r"no feedback from .* \(5, 4, 4\)|no feedback"),
        ({"feedback": 2}, "model.feedback must be 0 or an odd number, got 2"),
        ({"feedback": -1}, "model.feedback must be 0 or an odd number, got -1"),
        ({"init": "zeros"}, "model.init must be torch, unit or kaiming, got 'zeros'"),
    ],
)
def test_what_is_refused(options, message):
    if options.get("spec") == "4C3-5C5p0":
        options = {
            "spec": "4C3-5C4p0"
        }  # 8 to 5: neither the same nor a whole number of times smaller
    with pytest.raises(ValueError, match=message):
        net(**options)
