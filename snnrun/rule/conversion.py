"""An ANN is trained, and a spiking network with its weights is tested."""

import copy
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from snnrun.model.layers import Pool, fires, layers, parts
from snnrun.neuron.base import Neuron
from snnrun.neuron.scaled import Scaled
from snnrun.rule.activation import QCFS, ReLU
from snnrun.rule.base import Rule
from snnrun.rule.spiking_parts import SpikeConfidence, SpikingMaxPool

SLOTS = 2048  # steps times samples that a converted network runs at once, to bound memory


class Conversion(Rule):
    r"""ANN-to-SNN conversion: activations are trained, neurons with the activations' scale as threshold are tested.

    $$y = a(W x + b) \quad \longrightarrow \quad o_t = n_V(W o'_t + b), \qquad \frac{1}{T} \sum_t o_t \approx y$$

    Training takes no time: one step. For the test, batch norm is folded into the synapses, the scale V of every
    activation is measured on training data, the chosen neuron takes the activation's place with V as threshold and
    as size of a spike, and the same image is fed in at each of `dataset.steps` steps.

    **Arguments:**

    - `activation`: of the ANN: `relu`, or `qcfs`, which learns its scale and has the steps of a spiking neuron.
    - `levels`, `bound`: of `qcfs`: number of steps, and its scale at the start of training.
    - `scale`: V of a ReLU is the `max` of its activations, their `percentile`, or one percentile a `channel`.
    - `p`: of percentiles, the share of activations that are at most V.
    - `calibration`: number of training images to measure V on.
    - `scale_factor`: factor on V.
    - `start`: potential at the start in units of V; null for 0.5 with `qcfs`, and 0 with `relu`.
    - `pool`: maximum pooling of spikes, by `lateral` inhibition or by a `gate`.
    - `confidence`: probabilities that a spike is kept, of the last so many spiking layers; [] drops none.
    - `confidence_steps`: number of first steps in which spikes are dropped.
    - `init`: `keep` the model's initial weights, or `kaiming`: convolutions normal with deviation sqrt(2/fan-out), no
      bias in dense layers.

    Diehl et al., IJCNN 2015 (max); Rueckauer et al. 2017 (percentile); Bu et al., ICLR 2022 (QCFS); Li & Zeng, IJCAI
    2022 (burst, lateral inhibition); He et al., *MSAT*, 2023.
    """

    needs = frozenset({"integrating", "feedforward", "static", "current"})

    def __init__(
        self,
        activation: Literal["relu", "qcfs"] = "relu",
        levels: int = 8,
        bound: float = 8.0,
        scale: Literal["max", "percentile", "channel"] = "percentile",
        p: float = 0.9995,
        calibration: int = 512,
        scale_factor: float = 1.0,
        start: float | None = None,
        pool: Literal["lateral", "gate"] = "lateral",
        confidence: list[float] | None = None,
        confidence_steps: int = 16,
        init: Literal["keep", "kaiming"] = "keep",
    ):
        super().__init__()
        choices = {
            "activation": (activation, ("relu", "qcfs")),
            "scale": (scale, ("max", "percentile", "channel")),
            "pool": (pool, ("lateral", "gate")),
            "init": (init, ("keep", "kaiming")),
        }
        for name, (given, allowed) in choices.items():
            if given not in allowed:
                raise ValueError(f"rule.{name} must be {' or '.join(allowed)}, got {given!r}.")
        for name, value in (("levels", levels), ("calibration", calibration)):
            if value < 1:
                raise ValueError(f"rule.{name} must be at least 1, got {value}.")
        for name, value in (("bound", bound), ("scale_factor", scale_factor)):
            if value <= 0:
                raise ValueError(f"rule.{name} must be above 0, got {value}.")
        for name, value in (("p", p), *(("confidence", c) for c in confidence or ())):
            if not 0 < value <= 1:
                raise ValueError(f"rule.{name} must lie above 0 and be at most 1, got {value}.")
        self.activation, self.levels, self.bound = activation, levels, bound
        self.scale, self.p, self.calibration = scale, 1.0 if scale == "max" else p, calibration
        self.scale_factor, self.start = scale_factor, start
        self.pool: Literal["lateral", "gate"] = pool
        self.confidence = list(confidence or ())
        self.confidence_steps, self.init = confidence_steps, init

    def adapt(self, net: nn.Module) -> nn.Module:
        """The ANN. Raises `ValueError` for a network that has no spiking counterpart."""
        refuse(net)
        for _, layer in layers(net):
            if fires(layer.neuron):
                layer.neuron = (
                    ReLU(layer.neuron)
                    if self.activation == "relu"
                    else QCFS(layer.neuron, self.levels, self.bound)
                )
        if self.init == "kaiming":
            for module in net.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        return Still(net)

    def ann(self, net: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
        """The trained network itself."""
        return net

    @torch.no_grad()
    def deploy(self, net: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
        """The spiking network. Raises `ValueError` if an activation is silent on the calibration data."""
        assert isinstance(net, Still)
        spiking = copy.deepcopy(net.net).eval()
        fold_norms(spiking)
        spiking.requires_grad_(False)
        scales = self.measure(spiking, calibration)
        if len(self.confidence) > len(scales):
            raise ValueError(
                f"rule.confidence has {len(self.confidence)} values, for {len(scales)} spiking layers."
            )
        kept = dict(zip(reversed(scales), reversed(self.confidence), strict=False))
        for name, layer in list(layers(spiking)):
            if name in scales:
                layer.neuron = self.unit(layer.neuron, scales[name])
            if kept.get(name, 1) < 1:
                drop = SpikeConfidence(kept[name], self.confidence_steps)
                spiking.set_submodule(name, nn.Sequential(layer, drop))
        for name, part in list(parts(spiking)):
            if isinstance(part, Pool) and part.kind == "max":
                spiking.set_submodule(name, SpikingMaxPool(part, self.pool))
        return InParts(spiking).eval()

    def measure(self, net: nn.Module, calibration: Iterable[Tensor]) -> dict[str, Tensor]:
        """The scale of every activation of an ANN, `(1,)` or `(C,)`, by the name of its layer.

        Raises `ValueError` if one is 0.
        """
        found: dict[str, Tensor] = {}
        hooks = []
        for name, layer in layers(net):
            if isinstance(layer.neuron, QCFS):
                found[name] = layer.neuron.threshold.detach().clone()
            elif isinstance(layer.neuron, ReLU):
                found[name] = torch.zeros(1)  # until it is measured
                hooks.append(layer.neuron.register_forward_hook(self._measure(found, name)))
        if hooks:
            for batch in gathered(calibration, self.calibration, whole=self.scale != "channel"):
                device = next((p.device for p in net.parameters()), batch.device)
                net(batch.unsqueeze(0).to(device))
        for hook in hooks:
            hook.remove()
        for name, scale in found.items():
            if not scale.all():
                raise ValueError(
                    f"The scale of {name} is 0: at most a share of {1 - self.p:.2g} of its activations is positive on"
                    f" {self.calibration} training images. Choose a larger rule.p, or rule.scale=max."
                )
        return found

    def _measure(self, found: dict[str, Tensor], name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            if self.scale == "channel":
                values = out.flatten(0, 1).transpose(0, 1).flatten(1)
                rank = int((values.shape[1] - 1) * self.p)
                scale = values.sort(1).values[:, rank] + 1e-10
                found[name] = torch.maximum(found[name].to(scale), scale)
            else:
                found[name] = percentile(out, self.p)

        return hook

    def unit(self, activation: nn.Module, scale: Tensor) -> Neuron:
        """The spiking neuron for an activation of this scale."""
        assert isinstance(activation, ReLU)
        neuron: Any = copy.deepcopy(activation.neuron)
        start = (0.5 if self.activation == "qcfs" else 0.0) if self.start is None else self.start
        neuron.reset_value = start
        scale = scale * self.scale_factor
        if getattr(neuron, "unit", "normalised") == "activation":
            # the neuron knows the unit of its input, and gives out spikes of the right size
            del neuron.threshold
            neuron.register_buffer("threshold", scale)
            return neuron
        return Scaled(neuron, scale)


class Still(nn.Module):
    """A network without time: it is run on the first of all steps, which are the same.

    **Arguments:**

    - `net`: the network.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(1, B, num_classes)`."""
        return self.net(x[:1])


class InParts(nn.Module):
    """A network that is run on a few samples after the other, which bounds the memory that many steps take.

    **Arguments:**

    - `net`: the network, in which samples do not see each other.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(T, B, num_classes)`."""
        return torch.cat([self.net(part) for part in x.split(max(1, SLOTS // len(x)), dim=1)], 1)


def refuse(net: nn.Module) -> None:
    """Raise `ValueError` if a network has no spiking counterpart, and say why."""
    for name, layer in layers(net):
        if getattr(layer.neuron, "threshold", 1) != 1:
            raise ValueError(
                "rule=conversion sets the threshold of every neuron: leave neuron.threshold at 1, and use"
                " rule.scale_factor."
            )
        if layer.norm is not None and not folds(layer.norm):
            raise ValueError(
                f"rule=conversion cannot fold the norm of {name}, which differs from step to step, into weights:"
                " choose norm=batch or norm=none."
            )
    if any(getattr(module, "connect", "add") != "add" for module in net.modules()):
        raise ValueError(
            "rule=conversion needs model.connect=add: a product of spikes does not add up to the product of rates."
        )


def folds(norm: Any) -> bool:
    """Whether a norm is one factor and one shift a channel in evaluation."""
    mean = getattr(norm, "running_mean", None)
    return isinstance(mean, Tensor) and mean.dim() == 1


def fold_norms(net: nn.Module) -> None:
    r"""Fold batch norm into the synapse before it: $W' = W g / \sqrt{v + \epsilon}$, $b' = (b - m) g / \sqrt{v + \epsilon} + \beta$.

    A norm behind anything but a dense layer or a convolution stays.
    """  # noqa: E501
    for _, layer in layers(net):
        norm: Any = layer.norm
        synapse = layer.synapse
        if norm is None or not isinstance(synapse, nn.Linear | nn.Conv2d):
            continue
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = torch.zeros_like(gain) if synapse.bias is None else synapse.bias
        synapse.weight = nn.Parameter(
            synapse.weight * gain.view(-1, *[1] * (synapse.weight.dim() - 1))
        )
        synapse.bias = nn.Parameter((bias - norm.running_mean) * gain + norm.bias)
        layer.norm = None


def gathered(batches: Iterable[Tensor], count: int, *, whole: bool) -> Iterable[Tensor]:
    """The first `count` samples, as they come, or `whole`: as one batch."""
    found, missing = [], count
    for batch in batches:
        found.append(batch[:missing])
        missing -= len(found[-1])
        if missing == 0:
            break
    return [torch.cat(found)] if whole else found


def percentile(x: Tensor, p: float) -> Tensor:
    """The value at place `int(n * p) - 1` of all `n` values in order, `(1,)`."""
    return x.flatten().kthvalue(max(int(x.numel() * p), 1)).values.reshape(1)
