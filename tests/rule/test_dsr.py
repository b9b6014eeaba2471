"""Differentiation on spike representation, against its plain form; thresholds, the ANN before it, whole runs."""

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snnrun.check import composed, without_hydra
from snnrun.config import Choices, group_defaults
from snnrun.model import ConvNet, Layer, layers
from snnrun.neuron import DSRIF, DSRLIF, LI, Neuron, carry
from snnrun.neuron.dsr import Clamping
from snnrun.neuron.kernel import choose
from snnrun.norm import BatchNorm
from snnrun.readout import RepresentationReadout
from snnrun.rule import DSR
from snnrun.surrogate import ATan

CHOICES = Choices()
NEURONS = {
    "if": lambda: DSRIF(ATan(), 0.8, alpha=0.4),
    "lif": lambda: DSRLIF(ATan(), tau=0.8, dt=0.1, threshold=0.1, alpha=0.4),
}
each_neuron = pytest.mark.parametrize("kind", NEURONS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """The published layer, written down once more: a loop over time, and autograd through the clamp of averages."""

    def __init__(self, neuron: Clamping):
        super().__init__()
        self.v = nn.Parameter(neuron.threshold.detach().clone())
        self.leaky, self.alpha = isinstance(neuron, DSRLIF), neuron.alpha
        self.tau, self.dt = (neuron.tau, neuron.dt) if isinstance(neuron, DSRLIF) else (1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        steps, v = len(x), self.v.detach()
        b = np.exp(-self.dt / self.tau) if self.leaky else 1.0
        m, out = torch.zeros_like(x[0]), []
        for t in range(steps):
            h = b * m + (1 - b) * x[t].detach() if self.leaky else m + x[t].detach()
            s = (h >= self.alpha * v).to(x.dtype)
            m = h - v * s
            out.append(v * s / self.dt)
        w = torch.tensor([b ** (steps - t) for t in range(1, steps + 1)], dtype=x.dtype)
        w = w.view(-1, *[1] * (x.dim() - 1)) / w.sum()
        a, top = (w * x).sum(0).detach(), v * self.tau / self.dt
        below, above = a < 0, a > top
        if self.leaky:  # the ends are outside
            below, inner = a <= 0, (a > 0) & (a < top)
        else:
            inner = ~below & ~above
        # what the backward pass takes for the rate: linear in the plain mean; above, in V times dt
        rate = torch.where(inner, x.mean(0) / self.tau, torch.where(above, self.v * self.dt, 0.0))
        return torch.stack(out) + steps * w * (rate - rate.detach())


def compared(net: nn.Module, plain: nn.Module, x: Tensor, weights: Tensor) -> None:
    """Output, and gradients of input and all parameters."""
    found = []
    for module in (net, plain):
        leaf = x.detach().requires_grad_()
        out = module(leaf)
        grads = torch.autograd.grad((out * weights).sum(), [leaf, *module.parameters()])
        found.append([out.detach(), *grads])
    for one, other in zip(*found, strict=True):
        assert one.shape == other.shape and other.any()
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


LAYOUTS = {
    "dense": lambda x: x,
    "channels_last": lambda x: x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3),
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "the same at all steps": lambda x: x[0].expand(x.shape),
}


@each_neuron
@pytest.mark.parametrize("kernel", ["auto", "scan"])
@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("above", LAYOUTS)
def test_gradients_are_those_of_the_plain_form(kind, kernel, given, above):
    neuron = NEURONS[kind]().double()
    plain = Plain(neuron)
    neuron.kernel = choose(DSR().kernel(neuron), kernel)
    x = LAYOUTS[given](draw(6, 3, 4, 5, 5) + 0.6)
    compared(neuron, plain, x, LAYOUTS[above](draw(6, 3, 4, 5, 5, seed=1)))


@each_neuron
def test_the_gradient_lies_in_memory_as_the_input_does(kind):
    neuron = NEURONS[kind]()
    neuron.kernel = DSR().kernel(neuron)
    for name in ("dense", "channels_last", "the same at all steps"):
        x = LAYOUTS[name](draw(6, 3, 4, 5, 5).float())
        x.requires_grad_()
        (grad,) = torch.autograd.grad(neuron(x).square().sum(), x)
        assert grad.stride() == x.stride(), name
        assert torch.equal(grad, grad[:1].expand(grad.shape)), "every step has the same"


def network(kind: str, neuron: Any = None) -> ConvNet:
    torch.manual_seed(0)
    make = lambda channels: NEURONS[kind]() if neuron is None else neuron  # noqa: E731
    readout = RepresentationReadout(neuron=make, norm=BatchNorm)
    shape, spec = (2, 8, 8), "4C3-P2-6C3-P2-9"
    return ConvNet(make, BatchNorm, readout.head, shape, 3, spec=spec, pool="avg").double()


@each_neuron
def test_a_network_learns_as_in_the_plain_form(kind):
    net, plain, rule = network(kind), network(kind), DSR()
    for _, layer in layers(plain):
        layer.neuron = Plain(layer.neuron).double()
    for _, layer in layers(net):
        layer.neuron.kernel = rule.kernel(layer.neuron)
    compared(net, plain, draw(5, 7, 2, 8, 8) + 0.3, draw(5, 7, 3, seed=1))


@each_neuron
def test_evaluation_is_the_same_as_training_and_as_other_rules(kind):
    neuron = NEURONS[kind]()
    x = draw(9, 3, 4).float() + 0.6
    expected = neuron(x)
    neuron.kernel = DSR().kernel(neuron)
    assert torch.equal(neuron(x), expected)
    with torch.no_grad():
        assert torch.equal(neuron(x), expected)
        with carry(neuron):
            parts = torch.cat([neuron(chunk) for chunk in x.split([1, 6, 2])])
    assert torch.equal(parts, expected)


@each_neuron
def test_a_chunk_has_the_gradient_of_a_sequence_of_its_own(kind):
    """The regions are those of the chunk's average, whatever came before."""
    neuron = NEURONS[kind]().double()
    neuron.kernel = DSR().kernel(neuron)
    first, second, weights = draw(4, 3, 5) + 3, draw(6, 3, 5, seed=1), draw(6, 3, 5, seed=2)
    second.requires_grad_()
    (alone,) = torch.autograd.grad((neuron(second) * weights).sum(), second)
    with carry(neuron):
        neuron(first)
        out = neuron(second)
    (after,) = torch.autograd.grad((out * weights).sum(), second)
    torch.testing.assert_close(after, alone, rtol=1e-12, atol=1e-14)
    assert alone.any() and not alone.all()


@each_neuron
def test_scale_of_the_thresholds_gradient(kind):
    neuron, found = NEURONS[kind]().double(), []
    x, weights = draw(6, 30, 4) + 0.6, draw(6, 30, 4, seed=1)
    for scale in (1.0, 0.25):
        neuron.kernel = DSR(scale).kernel(neuron)
        found.append(torch.autograd.grad((neuron(x) * weights).sum(), neuron.threshold)[0])
    assert found[0].any()
    torch.testing.assert_close(found[1], found[0] / 4, rtol=1e-12, atol=0)


@each_neuron
def test_bfloat16(kind):
    neuron = NEURONS[kind]()
    neuron.kernel = DSR().kernel(neuron)
    x, weights = draw(6, 30, 4) + 0.6, draw(6, 30, 4, seed=1)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = x.bfloat16().to(dtype).requires_grad_()
        out = neuron(leaf)
        loss = (out * weights.to(dtype)).sum()
        grads.append([g.float() for g in torch.autograd.grad(loss, [leaf, neuron.threshold])])
        assert out.dtype == dtype
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * other.abs().max().item())


def test_kernels():
    rule, neuron = DSR(0.5), NEURONS["if"]()
    assert rule.kernel(LI()) is LI.kernel
    kernel = rule.kernel(neuron)
    assert pickle.loads(pickle.dumps(kernel)) == kernel
    assert choose(kernel, "scan") != kernel == choose(kernel, "auto")


def test_thresholds_are_kept_above_their_bounds():
    net, rule = network("if"), DSR()
    neurons = [m for m in net.modules() if isinstance(m, DSRIF)]
    for neuron, value in zip(neurons, (-1.0, 0.0, 0.5, 2.0), strict=True):
        neuron.threshold.data.fill_(value)
    with torch.no_grad():
        rule.constrain(net)
    assert [n.threshold.item() for n in neurons] == [0.01, 0.01, 0.5, 2]


# --- the ANN before it


class Learner:
    """What the rule sees of the learner when it begins."""

    def __init__(self, net: nn.Module, batches: list[Tensor]):
        self.net, self.batches = net, batches

    def encoder(self, x: Tensor) -> Tensor:
        return x.expand(3, *x.shape)

    def training_batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        return self.batches[number], torch.zeros(len(self.batches[number]))


@each_neuron
def test_as_an_ann_the_network_has_relus(kind):
    net, relus, rule = network(kind), network(kind), DSR(ann=True)
    rule.adapt(net)
    for _, layer in layers(net):
        layer.neuron.kernel = rule.kernel(layer.neuron)
    for _, layer in layers(relus):
        layer.neuron = nn.ReLU()
    x = draw(5, 2, 8, 8)
    for steps in (x.expand(4, *x.shape), draw(4, 5, 2, 8, 8)):
        torch.testing.assert_close(net(steps), relus(steps), rtol=1e-10, atol=1e-12)
    assert not any(p.requires_grad for n, p in net.named_parameters() if "threshold" in n)
    assert all(p.requires_grad for n, p in net.named_parameters() if "threshold" not in n)


@each_neuron
@pytest.mark.parametrize("training", [True, False])
def test_thresholds_are_percentiles_of_activations(kind, training, monkeypatch):
    """Of all batches, running statistics in the norms; the kernels are those of before."""
    net = network(kind).train(training)
    batches = [draw(size, 2, 8, 8, seed=size) for size in (5, 4, 9)]
    rule = DSR(calibrate=2, percentile=90)
    kernels = [layer.neuron.kernel for _, layer in layers(net)]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    rule.begin(Learner(net, batches))  # pyright: ignore[reportArgumentType]
    assert net.training == training and not net.body[0].neuron._forward_hooks
    assert [layer.neuron.kernel for _, layer in layers(net)] == kernels
    relus = network(kind).eval()
    unit = 1.0 if kind == "if" else 0.1
    x = torch.cat(batches[:2])
    seen = {}
    for name, layer in layers(relus):
        layer.neuron = nn.ReLU()
        layer.register_forward_hook(lambda m, args, out, name=name: seen.update({name: out}))
    relus(x.expand(3, *x.shape))
    for name, layer in layers(net):
        expected = np.percentile(seen[name].detach().float()[0], 90) * unit
        assert layer.neuron.threshold.item() == pytest.approx(expected, rel=1e-6) != 0
    for key, value in net.state_dict().items():
        assert "threshold" in key or torch.equal(value, state[key])


def test_a_large_layer_is_sampled_and_a_silent_one_gets_the_bound(monkeypatch):
    monkeypatch.setattr("snnrun.rule.dsr.SAMPLE", 2000)
    neurons = [DSRIF(ATan()), DSRIF(ATan())]
    net = nn.Sequential(*(Layer(nn.Identity(), None, neuron) for neuron in neurons))
    x = torch.rand(2, 10_000, generator=torch.Generator().manual_seed(0)).requires_grad_()
    DSR(calibrate=1, percentile=50).begin(Learner(net, [x]))  # pyright: ignore[reportArgumentType]
    assert neurons[0].threshold.item() == pytest.approx(0.5, abs=0.05)
    DSR(calibrate=1).begin(Learner(net, [-x]))  # pyright: ignore[reportArgumentType]
    assert [n.threshold.item() for n in neurons] == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": "row"}, "rule.dropout must be step or element, got 'row'."),
        ({"calibrate": -1}, "rule.calibrate must be a number of batches or 0, got -1."),
        ({"percentile": 0.0}, "rule.percentile must be above 0 and at most 100, got 0.0."),
        ({"ann": True, "calibrate": 5}, "rule.ann=true trains the ANN, which has no thresholds"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError) as error:
        DSR(**options)
    assert str(error.value).startswith(message)


# --- whole runs

RUN = (
    *("rule=dsr", "model.spec=64", "dataset.steps=5", "dataset.batch_size=100", "logger=[]"),
    *("keep_memory=false", "trainer.accelerator=cpu", "trainer.deterministic=false"),
)


@cache
def configuration(words: tuple[str, ...]) -> Any:
    cfg = composed(CHOICES, [*RUN, *words])
    return without_hydra(cfg), group_defaults(cfg)


def trained(folder: Path, *words: str, resume: bool = False) -> dict[str, Any]:
    from snnrun.run import Run, quiet, train

    quiet()
    cfg, parts = configuration(words)
    folder.mkdir(exist_ok=True)
    return train(Run(cfg.copy(), folder, parts, []), bar=False, resume=resume)


def thresholds(folder: Path) -> list[float]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return [v.item() for k, v in content["state_dict"].items() if k.endswith("threshold")]


@pytest.mark.parametrize(
    "words",
    [
        (
            "trainer.gradient_clip_val=0.5",
            "trainer.accumulate_grad_batches=2",
            "neuron.threshold=2",
        ),
        ("trainer.precision=bf16-mixed", "ema=0.9", "neuron=dsr_lif", "readout=representation"),
        ("recompute=true", "kernel=scan", "model.spec=64-64", "neuron.threshold=2"),
    ],
    ids=["clipped and accumulated", "bf16, averaged, leaky", "recomputed"],
)
def test_runs(tmp_path, words):
    outcome = trained(tmp_path, *words, "trainer.max_epochs=4", "optimizer.lr=0.02")
    assert outcome["metrics"]["test/acc"] > 85
    start = torch.tensor(0.3 if "neuron=dsr_lif" in words else 2).item()
    assert all(0 < v != start for v in thresholds(tmp_path))


def test_accumulated_batches_have_the_gradient_of_one(monkeypatch, tmp_path):
    from snnrun.learner import Learner

    gradients = []
    step = Learner.optimizer_step

    def watched(self, *args, **kwargs):
        step(self, *args, **kwargs)
        gradients.append([p.grad.clone() for p in self.net.parameters()])

    monkeypatch.setattr(Learner, "optimizer_step", watched)
    for size, count in ((100, 1), (50, 2)):
        limits = f"trainer.limit_train_batches={count}", "dataset.val_size=0"
        more = f"trainer.accumulate_grad_batches={count}", "trainer.max_epochs=1", "test=false"
        sizes = f"dataset.batch_size={size}", "norm=none", "neuron.threshold=0.5"
        trained(tmp_path / str(size), *limits, *more, *sizes)
    assert len(gradients) == 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert one.any()


def test_a_network_begins_as_the_ann_that_was_trained_before(tmp_path):
    ann, snn = tmp_path / "ann", tmp_path / "snn"
    before = trained(ann, "rule.ann=true", "trainer.max_epochs=4", "optimizer.lr=0.02")
    assert before["metrics"]["test/acc"] > 85
    assert thresholds(ann) == [6], "an ANN does not train them"
    words = (f"start={ann}", "rule.calibrate=5", "dataset.steps=20", "scheduler=constant")
    words += ("optimizer.lr=0", "norm.momentum=0")
    at_once = trained(snn, *words, "trainer.max_epochs=1")
    assert abs(at_once["metrics"]["test/acc"] - before["metrics"]["test/acc"]) < 10
    calibrated = thresholds(snn)
    assert all(0.5 < v < 6 for v in calibrated)
    # resumed, it goes on from its own checkpoint: neither the ANN's weights nor its file are wanted again
    (ann / "checkpoints" / "best.ckpt").unlink()
    (ann / "checkpoints" / "last.ckpt").unlink()

    trained(snn, *words, "trainer.max_epochs=2", resume=True)
    assert thresholds(snn) == calibrated


def test_misfits_say_what_is_missing():
    from snnrun.config import BadRequest

    with pytest.raises(BadRequest) as error:
        composed(CHOICES, ["rule=dsr", "neuron=lif", "model=recurrent"])
    assert str(error.value).startswith(
        "rule=dsr needs clamped_rate, which none of the chosen parts has.\n"
        "  neuron: dsr_if, dsr_lif   (now lif)\n"
        "rule=dsr needs feedforward, which none of the chosen parts has.\n"
    )


def test_neurons_are_neurons():
    assert all(isinstance(made(), Neuron) for made in NEURONS.values())
