"""What is measured: accuracy, firing, synaptic operations and energy."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn import functional

from snnrun.encoder.profile import factors
from snnrun.model.layers import Layer, fires, layers
from snnrun.model.receptive import margins
from snnrun.neuron.base import carrying, wide
from snnrun.neuron.psc_lif import PSCLIF, unfilter

MAC_PJ, AC_PJ = 4.6, 0.9
FORMULA = (
    f"E = {MAC_PJ} pJ * MAC + {AC_PJ} pJ * AC per sample (45 nm, 32-bit float: Horowitz 2014);"
    " a MAC where a layer's input is a current, one AC for each spike and synapse elsewhere;"
    " memory access, which costs more, is not counted"
)


class Tally:
    """Loss and accuracy of classification, summed where the data are and read once an epoch.

    **Arguments:**

    - `num_classes`: top-5 accuracy is taken where there are more than ten.
    - `ties`: `first`: of equal scores that of the first class counts as best; `wrong`: only one above all others does.
    """

    def __init__(self, num_classes: int, ties: Literal["first", "wrong"] = "first"):
        self.num_classes, self.ties = num_classes, ties
        self.total: Tensor | None = None  # samples, loss, correct, correct among the best five
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # batches that are not in it yet

    def update(self, loss: Tensor, logits: Tensor, y: Tensor) -> None:
        """Add a batch. Many are counted at once: of small ones, starting an operation is what takes time."""
        self.waiting.append((loss.detach(), logits, y))
        if len(self.waiting) == 32:
            self._count()

    @property
    def sums(self) -> Tensor | None:
        """Samples, sum of their losses, those that are right, and right among the best five; None before the first."""
        if self.waiting:
            self._count()
        return self.total

    @sums.setter
    def sums(self, total: Tensor | None) -> None:
        self.total, self.waiting = total, []

    def _count(self) -> None:
        losses, logits, labels = zip(*self.waiting, strict=True)
        place = self.place(torch.cat(logits), torch.cat(labels))
        counts = [torch.ones_like(place), torch.zeros_like(place), place == 0, place < 5]
        now = torch.stack([count.sum() for count in counts]).double()
        self.total = now if self.total is None else self.total + now
        for loss, y in zip(losses, labels, strict=True):  # one by one, wherever it was cut
            self.total[1] += loss.double() * len(y)
        self.waiting = []

    def place(self, logits: Tensor, y: Tensor) -> Tensor:
        """How many classes score above the label: `(..., B, C)` and `(B,)` to `(..., B)`; nothing is above NaN."""
        own = logits.gather(-1, y[:, None].expand(*logits.shape[:-1], 1))
        above = ~(logits < own)  # or as good
        if self.ties == "wrong":
            return above.sum(-1) - 1
        behind = torch.arange(logits.shape[-1], device=y.device) >= y[:, None]
        return (above & ~((logits == own) & behind)).sum(-1)

    def compute(self) -> dict[str, float]:
        """`loss`, `acc` and, with more than ten classes, `acc5`, in percent; empty if nothing was added."""
        if self.sums is None:
            return {}
        n, loss, correct, among_five = self.sums.tolist()
        scores = {"loss": loss / n, "acc": 100 * correct / n}
        return scores | {"acc5": 100 * among_five / n} if self.num_classes > 10 else scores


class Activity:
    """Spikes and synaptic operations of every layer, counted by hooks while `watch` is open.

    Inside `carry` the network may be called with one chunk of the sequence after the other.

    **Arguments:**

    - `net`: a network of `Layer`s.
    """

    def __init__(self, net: nn.Module):
        self.names = {layer: name for name, layer in layers(net)}
        last = next(reversed(self.names), None)
        # the name of the last layer, if it fires
        self.output = self.names[last] if last is not None and fires(last.neuron) else None
        self.reset()

    def reset(self) -> None:
        """Forget what was counted."""
        self.samples = 0
        self.fired: dict[str, Tensor] = {}  # spikes of every neuron, over time and samples
        self.slots: dict[str, int] = {}  # time steps times samples
        self.accumulates: dict[str, Tensor] = {}
        self.multiplies: dict[str, Tensor] = {}
        self.dense: dict[str, int] = {}  # operations of one dense pass over one sample

    @contextmanager
    def watch(
        self, x: Tensor, *, current: bool, tau_s: float | None = None, times: bool = False
    ) -> Iterator[None]:
        """Count everything that the network does inside.

        **Arguments:**

        - `x`: the network's input `(T, B, ...)`.
        - `current`: whether `x` is a current rather than spikes; layers that read it multiply.
        - `tau_s`: the time constant of `x`, where it is a trace of spikes or of a current.
        - `times`: whether `x`, and what the layers exchange, are spike times: one spike where there is a time.
        """
        self.samples += x.shape[1]
        currents = [x] if current else []  # kept alive, so that their storage is not used again
        constant = x.stride(0) == 0 or factors(x) is not None
        trace = (
            tau_s  # of what the next layer reads: layers of a network exchange one kind of signal
        )
        ends: dict[nn.Module, list[Tensor]] = {}  # last step in, out and spikes, of a chunk
        known: dict[int, tuple[Any, Tensor]] = {}  # outputs, and what was counted of them

        def count(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> None:
            nonlocal trace
            assert isinstance(layer, Layer)
            name, source, fired = self.names[layer], inputs[0].detach(), out.detach()
            place = source.untyped_storage().data_ptr()
            analog = any(place == c.untyped_storage().data_ptr() for c in currents)
            steps = len(source)
            # a constant current is multiplied once, one with a known profile too
            if source.stride(0) == 0 or (constant and place == x.untyped_storage().data_ptr()):
                steps = 0 if layer in ends else 1
            before = ends.get(layer, [source[:0], fired[:0], fired[:0]])
            skip = len(before[0])
            if skip:  # a trace does not begin at rest here
                source, fired = torch.cat([before[0], source]), torch.cat([before[1], fired])
            last = [source[-1:], fired[-1:]]

            if fires(layer.neuron):
                fired = layer.neuron.spikes(fired)[skip:]
                spikes = total(fired)
                _add(self.fired, name, spikes)
                self.slots[name] = self.slots.get(name, 0) + out.shape[0] * out.shape[1]
                if "graded" not in layer.neuron.traits:
                    known[id(out)] = ref(out), spikes
            else:
                fired = fired[skip:]
                currents.append(out)
            if carrying():
                ends[layer] = [*last, fired[-1:]]

            self.dense[name] = 0
            if (fan_out := self._fan_out(name, layer.synapse, source)) is not None:
                if analog:
                    made = fan_out.expand(source.shape[2:]).sum(dtype=torch.float64)
                    _add(self.multiplies, name, made * steps * source.shape[1])
                else:
                    counted = known.get(id(inputs[0]))
                    if counted and counted[0]() is inputs[0]:
                        spikes = counted[1]
                    elif times:
                        spikes = active(source.isfinite())
                    else:
                        spikes = active((source if trace is None else events(source, trace))[skip:])
                    _add(self.accumulates, name, (spikes * fan_out).sum(dtype=torch.float64))
            if (fan_out := self._fan_out(name, layer.recurrent, fired)) is not None:
                seen = torch.cat([before[2], fired])[:-1] if skip else fired[:-1]
                _add(self.accumulates, name, (active(seen) * fan_out).sum(dtype=torch.float64))
            if fires(layer.neuron):
                trace = layer.neuron.tau_s if isinstance(layer.neuron, PSCLIF) else None

        hooks = [layer.register_forward_hook(count) for layer in self.names]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _fan_out(self, name: str, synapse: nn.Module | None, x: Tensor) -> Tensor | None:
        """Outgoing connections of every input of a layer; a dense pass over them is counted."""
        fan_out = fan_out_of(synapse, x)
        if fan_out is not None:
            self.dense[name] += int(fan_out.expand(x.shape[2:]).sum(dtype=torch.float64))
        return fan_out

    def add_up(self, over: Callable[[Tensor], Tensor]) -> None:
        """Count what other processes have counted, too.

        **Arguments:**

        - `over`: a tensor to its sum over processes.
        """
        self.samples = int(over(torch.tensor(self.samples)))
        self.slots = {name: int(over(torch.tensor(count))) for name, count in self.slots.items()}
        for counts in (self.fired, self.accumulates, self.multiplies):
            for name, count in counts.items():
                counts[name] = over(count)

    def rates(self) -> dict[str, float]:
        """Spikes a neuron and time step, for each spiking layer."""
        return {name: float(fired.mean()) / self.slots[name] for name, fired in self.fired.items()}

    def silent(self) -> dict[str, float]:
        """Share of neurons that never fired, for each spiking layer."""
        return {name: float(fired.eq(0).float().mean()) for name, fired in self.fired.items()}

    def rate(self) -> float | None:
        """Spikes a neuron and time step over all layers; None if there are no spiking layers."""
        places = sum(fired.numel() * self.slots[name] for name, fired in self.fired.items())
        return sum(float(fired.sum()) for fired in self.fired.values()) / places if places else None

    def operations(self) -> dict[str, Any]:
        """Operations and energy of one sample, beside those of an ANN of the same shape."""
        n = max(self.samples, 1)
        ac = sum(float(made) for made in self.accumulates.values()) / n
        mac = sum(float(made) for made in self.multiplies.values()) / n
        dense = sum(self.dense.values())
        return {
            "ac": round(ac),
            "mac": round(mac),
            "ann_mac": dense,
            "energy_nj": round((MAC_PJ * mac + AC_PJ * ac) / 1000, 3),
            "ann_energy_nj": round(MAC_PJ * dense / 1000, 3),
            "formula": FORMULA,
        }


def _add(counts: dict[str, Tensor], name: str, more: Tensor) -> None:
    counts[name] = counts[name] + more if name in counts else more


def total(x: Tensor) -> Tensor:
    """The sum over time and samples: `(T, B, ...)` to `(...)`, exact for whole numbers below 2^24.

    Rows are added up by a product with a vector of ones, which is many times faster than torch's sum over the first
    axes, and never leaves the order of the memory.
    """
    rows, shape_back = _rows(x)
    if x.dtype != torch.float32:
        return shape_back(rows.sum(0, dtype=torch.float32))
    return shape_back(rows.new_ones(len(rows)) @ rows)


def active(x: Tensor, block: int = 1 << 16) -> Tensor:
    """How many elements are not zero over time and samples: `(T, B, ...)` to `(...)`, `block` elements at a time."""
    rows, shape_back = _rows(x)
    if x.device.type != "cpu":
        return shape_back(rows.ne(0).sum(0, dtype=torch.float32))
    found = torch.zeros(rows.shape[1])
    part = torch.empty((max(1, block // max(1, rows.shape[1])), rows.shape[1]))
    ones = torch.ones(len(part))
    for some in rows.split(len(part)):
        n = len(some)
        found.addmv_(torch.ne(some, 0, out=part[:n]).T, ones[:n])
    return shape_back(found)


def _rows(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A sequence as a matrix of one row a step and sample, and what gives a row its shape back."""
    merged = x.flatten(0, 1)
    if merged.dim() == 4 and merged.is_contiguous(memory_format=torch.channels_last):
        last = merged.permute(0, 2, 3, 1)
        return last.flatten(1), lambda row: row.view(last.shape[1:]).permute(2, 0, 1)
    return merged.flatten(1), lambda row: row.view(merged.shape[1:])


def events(source: Tensor, tau_s: float) -> Tensor:
    """1 where anything was added to a trace: a spike of one of the neurons that it sums, pooled or dropped or not.

    **Arguments:**

    - `source`: the trace, `(T, ...)`, which begins at rest.
    - `tau_s`: its time constant.
    """
    if source.stride(0) == 0:
        source = source.contiguous()
    a = wide(source)
    tolerance = 4 * tau_s * torch.finfo(source.dtype).eps * a.abs().amax(0, keepdim=True)
    return (unfilter(a, tau_s).abs() > tolerance).to(a.dtype)


def fan_out_of(synapse: nn.Module | None, x: Tensor) -> Tensor | None:
    """Outgoing connections of every input, broadcastable to one step of one sample; None for a synapse without weights.

    **Arguments:**

    - `synapse`: the module; `nn.Linear`, `nn.Conv2d`, `nn.ConvTranspose2d` and what states a `fan_out` are counted.
    - `x`: its input `(T, B, ...)`.
    """
    known = getattr(synapse, "fan_out", None)
    if isinstance(known, Tensor):
        return known
    match synapse:
        case nn.Linear():
            return torch.tensor(float(synapse.out_features), device=x.device)
        case nn.Conv2d():
            sides = list(x.shape[-2:])
            before, after = margins(synapse)
            padded = tuple(b + s + a for b, s, a in zip(before, sides, after, strict=True))
            how = (synapse.kernel_size, synapse.dilation, 0, synapse.stride)
            windows = functional.unfold(torch.ones((1, 1, *padded), device=x.device), *how)
            reach = functional.fold(windows, padded, *how)[0]
            (top, left), (height, width) = before, sides
            inside = reach[:, top : top + height, left : left + width]
            return inside * (synapse.out_channels // synapse.groups)
        case nn.ConvTranspose2d():  # an input reaches what a convolution of the output would read for it
            stride, padding, dilation, more = (
                [int(n) for n in sides]
                for sides in (
                    *(synapse.stride, synapse.padding),
                    *(synapse.dilation, synapse.output_padding),
                )
            )
            ones = torch.ones((1, 1, *synapse.kernel_size), device=x.device)
            inputs = torch.zeros((1, 1, *x.shape[-2:]), device=x.device)
            image = functional.conv_transpose2d(
                inputs, ones, None, stride, padding, more, 1, dilation
            )
            reach = functional.conv2d(
                torch.ones_like(image), ones, None, stride, padding, dilation
            )[0]
            return reach * (synapse.out_channels // synapse.groups)
        case _:
            return None
