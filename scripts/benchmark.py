"""Time our neurons against other libraries', in one process, interleaved, on the same inputs.

    python scripts/benchmark.py                     # every row, one thread: process time
    python scripts/benchmark.py --threads 2         # wall time
    python scripts/benchmark.py --rows lif_t16 conv --repeats 21
    python scripts/benchmark.py --device cuda       # on a GPU, timed by its own events
    python scripts/benchmark.py --device cuda --precision bf16

Peers that are not installed are left out (`pip install -e ".[bench]"`). Of networks, "spikingjelly network" is made of
SpikingJelly's own layers as they come, "spikingjelly" of our layers (channels last, as snnrun has them) with its
neurons; weights are the same, and the limit is what our layers take without neurons. Prints the table as Markdown; each
ratio is the peer's median over ours, with the quartiles of the ratios of neighbouring repeats. `--csv FILE` keeps it
beside that of other numbers of threads, of GPUs and of other precisions.
"""

import argparse
import csv
import ctypes
import importlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.allocator import keep_freed_memory
from snnrun.model import Layer
from snnrun.neuron import LIF, PSCLIF, Neuron, State, scan
from snnrun.neuron.kernel import choose
from snnrun.norm import BatchNorm
from snnrun.result import cpu_name
from snnrun.rule import TSSL
from snnrun.surrogate import ATan


@dataclass
class Row:
    """One line of the table.

    **Arguments:**

    - `name`: the workload.
    - `x`: input, (T, B, ...).
    - `contestants`: networks by name; the first is ours, and ratios are to it.
    - `precision`: of autocast, for contestants that have one.
    - `moved`: bytes that no implementation can avoid to move; 0 if that is not the limit.
    - `layers`: the network without its neurons; its time is the limit.
    """

    name: str
    x: Tensor
    contestants: dict[str, nn.Module]
    precision: dict[str, torch.dtype] = field(default_factory=dict)
    moved: int = 0
    layers: nn.Module | None = None


class SpikingJelly(nn.Module):
    """SpikingJelly's LIF neuron, with the same definition and surrogate."""

    def __init__(self) -> None:
        super().__init__()
        neuron = importlib.import_module("spikingjelly.activation_based.neuron")
        surrogate = importlib.import_module("spikingjelly.activation_based.surrogate")
        self.node = neuron.LIFNode(
            tau=2.0, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
        )

    def forward(self, x: Tensor) -> Tensor:
        self.node.reset()
        return self.node(x)


class SpikingJellyNetwork(nn.Module):
    """A network of SpikingJelly's own layers.

    **Arguments:**

    - `workload`: `linear`, `conv` or `sew`.
    - `ours`: our network, whose weights it takes.
    """

    def __init__(self, workload: str, ours: nn.Module) -> None:
        super().__init__()
        self.functional, layer, neuron, surrogate, models = (
            importlib.import_module(f"spikingjelly.activation_based.{name}")
            for name in ("functional", "layer", "neuron", "surrogate", "model.sew_resnet")
        )
        lif = {"tau": 2.0, "surrogate_function": surrogate.ATan(), "detach_reset": True}

        def conv(channels: int, features: int) -> list[nn.Module]:
            synapse = layer.Conv2d(channels, features, 3, padding=1, bias=False)
            return [synapse, layer.BatchNorm2d(features), neuron.LIFNode(**lif)]

        if workload == "linear":
            self.net = nn.Sequential(layer.Linear(512, 512), neuron.LIFNode(**lif))
        elif workload == "conv":
            self.net = nn.Sequential(*conv(3, 64), *conv(64, 64))
        else:
            self.net = models.sew_resnet18(
                cnf="ADD", spiking_neuron=neuron.LIFNode, num_classes=10, **lif
            )
            self.net.conv1, self.net.maxpool = conv(3, 64)[0], nn.Identity()  # of small images
        self.functional.set_step_mode(self.net, "m")
        for mine, weight in zip(self.net.parameters(), ours.parameters(), strict=True):
            mine.data.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        self.functional.reset_net(self.net)
        return self.net(x)


class SnnTorch(nn.Module):
    """snnTorch's leaky neuron; its reset comes one step later than ours, so its spikes differ."""

    def __init__(self) -> None:
        super().__init__()
        snntorch = importlib.import_module("snntorch")
        surrogate = importlib.import_module("snntorch.surrogate")
        self.node = snntorch.Leaky(beta=0.5, reset_mechanism="zero", spike_grad=surrogate.atan())

    def forward(self, x: Tensor) -> Tensor:
        membrane, out = self.node.reset_mem(), []
        for x_t in x.unbind(0):
            spikes, membrane = self.node(x_t, membrane)
            out.append(spikes)
        return torch.stack(out)


class Norse(nn.Module):
    """Norse's LIF neuron without a synaptic current."""

    def __init__(self) -> None:
        super().__init__()
        box = importlib.import_module("norse.torch.functional.lif_box")
        parameters = box.LIFBoxParameters(tau_mem_inv=torch.as_tensor(500.0))
        self.cell = importlib.import_module("norse.torch").LIFBoxCell(parameters)

    def forward(self, x: Tensor) -> Tensor:
        state, out = None, []
        for x_t in x.unbind(0):
            spikes, state = self.cell(x_t, state)
            out.append(spikes)
        return torch.stack(out)


class Sinabs(nn.Module):
    """sinabs' LIF neuron, which takes (B, T, ...)."""

    def __init__(self) -> None:
        super().__init__()
        layers = importlib.import_module("sinabs.layers")
        self.node = layers.LIF(tau_mem=1.4427, norm_input=True)

    def forward(self, x: Tensor) -> Tensor:
        self.node.reset_states()
        return self.node(x.transpose(0, 1)).transpose(0, 1)


PEERS: dict[str, Callable[[], nn.Module]] = {
    "spikingjelly": SpikingJelly,
    "snntorch": SnnTorch,
    "norse": Norse,
    "sinabs": Sinabs,
}


class TwoStates(Neuron):
    """A neuron as a user writes it: a synaptic current, a potential, and a learnable decay."""

    def __init__(self) -> None:
        super().__init__()
        self.surrogate, self.w = ATan(), nn.Parameter(torch.tensor([1.0]))

    def init_state(self, x: Tensor) -> State:
        return torch.zeros_like(x), torch.zeros_like(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        current, v = state
        decay = torch.sigmoid(self.w)
        current = 0.5 * current + x
        v = decay * v + (1 - decay) * current
        s = self.surrogate(v - 1)
        return s, (current, v - s.detach())


def peers(wanted: list[str]) -> Iterator[str]:
    """Those that can be imported; the others are named."""
    for name in wanted:
        try:
            importlib.import_module(name)
            yield name
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)


class Published(torch.autograd.Function):
    """The neuron as published, time last: at every step back, sums over all later ones."""

    @staticmethod
    def forward(ctx, current: Tensor, neuron: PSCLIF) -> Tensor:
        """Loop over time; keep increment, potential, spikes and trace of all steps."""
        r = a = torch.zeros_like(current[..., 0])
        kept = []
        for x in current.unbind(-1):
            d = x - neuron.theta_m * r
            u = r + d
            s = (u > neuron.threshold).to(u.dtype)
            r = u * (1 - s)
            a = a + neuron.theta_s * (s - a)
            kept.append((d, u, s, a))
        d, u, s, a = (torch.stack(column, -1) for column in zip(*kept, strict=True))
        ctx.neuron = neuron
        ctx.save_for_backward(d, u, s, a)
        return a

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        """The formula of `TSSL` with its sums written out."""
        d, u, s, a = (saved.unbind(-1) for saved in ctx.saved_tensors)
        neuron, steps = ctx.neuron, grad.shape[-1]
        kernel = neuron.theta_s * (1 - neuron.theta_s) ** torch.arange(steps, dtype=grad.dtype)
        out, carried = torch.zeros_like(grad), torch.zeros_like(grad[..., 0])
        for t in range(steps - 1, -1, -1):
            later, above = kernel[: steps - t], grad[..., t:]
            slope = (1 / d[t]).clamp(0, 8) * s[t]
            timing = (slope.unsqueeze(-1) * later * above).sum(-1)  # a row of da/du, times above
            through_reset = neuron.theta_m * u[t] * slope + (1 - neuron.theta_m) * (1 - s[t])
            timing = timing + carried * through_reset
            e = torch.exp(((neuron.threshold - u[t]) / 0.2).clamp(-8, 8))
            dense = (later * above).sum(-1) * (e / (0.2 * (1 + e) ** 2))
            out[..., t] = torch.where(a[t] < neuron.theta_s / 4, dense, timing)
            carried = timing
        return out, None


def published(neuron: Neuron, x: Tensor, state: State) -> tuple[Tensor, State]:
    """The published rule as a kernel of `PSCLIF`."""
    out = Published.apply(x.movedim(0, -1).contiguous(), neuron)
    return out.movedim(-1, 0), state  # pyright: ignore[reportAttributeAccessIssue]


def tssl(own: bool) -> Neuron:
    """TSSL-BP's neuron, with our printed recursion or with the published sums."""
    neuron = PSCLIF(ATan(), tau_m=8.0, tau_s=4.0)
    neuron.kernel = choose(TSSL().kernel(neuron), "auto") if own else published
    return neuron


def by_steps(neuron: Neuron) -> Neuron:
    """The same neuron, run step by step in torch."""
    neuron.kernel = scan
    return neuron


def rows(wanted: list[str], libraries: list[str], scale: int) -> Iterator[Row]:
    """The workloads. `scale` divides their sizes."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(*(shape[0], *(max(n // scale, min(n, 2)) for n in shape[1:]))) * 2

    def conv(make: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        first = Layer(nn.Conv2d(3, 64, 3, padding=1, bias=False), BatchNorm(64), make())
        second = Layer(nn.Conv2d(64, 64, 3, padding=1, bias=False), BatchNorm(64), make())
        return nn.Sequential(first, second).to(memory_format=torch.channels_last)

    def dense(make: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(0)
        return Layer(nn.Linear(512, 512), None, make())

    def sew(make: Callable[[], nn.Module], depth: int = 18) -> nn.Module:
        from snnrun.model import SEWResNet

        torch.manual_seed(0)
        return SEWResNet(
            lambda channels: make(),  # pyright: ignore[reportArgumentType]
            BatchNorm,
            lambda features, classes: Layer(nn.Linear(features, classes), None, None),
            (3, 32, 32),
            10,
            depth=depth,
        ).to(memory_format=torch.channels_last)

    def networks(workload: str, build: Callable[..., nn.Module]) -> dict[str, nn.Module]:
        nets = {name: build(make) for name, make in only.items()}
        if main:
            nets["spikingjelly network"] = SpikingJellyNetwork(workload, nets["ours"])
        return nets

    ours, main = {"ours": lambda: LIF(ATan())}, [n for n in libraries if n == "spikingjelly"]
    builders = {**ours, **{name: PEERS[name] for name in libraries}}
    only = {**ours, **{name: PEERS[name] for name in main}}
    for name, *shape in NEURONS:
        if name in wanted:
            x = draw(*shape)
            # forward reads x and writes spikes, backward reads x and a gradient and writes one
            moved = 5 * x.numel() * x.element_size()
            yield Row(name, x, {n: make() for n, make in builders.items()}, moved=moved)
    if "linear" in wanted:
        x = torch.randn(max(500 // scale, 2), 16, 512)
        yield Row("linear", x, networks("linear", dense), layers=dense(nn.Identity))
    image = (4, 16, 3, 32, 32) if scale == 1 else (2, 2, 3, 8, 8)
    if "conv" in wanted:
        yield Row("conv", torch.randn(*image), networks("conv", conv), layers=conv(nn.Identity))
    if "conv_bf16" in wanted:
        nets = {"ours": conv(ours["ours"]), "ours float32": conv(ours["ours"])}
        yield Row("conv_bf16", torch.randn(*image), nets, {"ours": torch.bfloat16})
    image = (4, 8, 3, 32, 32) if scale == 1 else (2, 2, 3, 32, 32)
    if "sew" in wanted:
        yield Row("sew", torch.randn(*image), networks("sew", sew), layers=sew(nn.Identity))
    if "sew20" in wanted:
        nets = {name: sew(make, 20) for name, make in only.items()}
        yield Row("sew20", torch.randn(*image), nets, layers=sew(nn.Identity, 20))
    if "sew_bf16" in wanted:
        nets = {"ours": sew(ours["ours"]), "ours float32": sew(ours["ours"])}
        yield Row("sew_bf16", torch.randn(*image), nets, {"ours": torch.bfloat16})
    if "user" in wanted:
        x = draw(16, 1 << 18).unsqueeze(1)
        yield Row("user", x, {"ours": TwoStates(), "scan": by_steps(TwoStates())})
    for steps, size in ((5, 1 << 19), (30, 1 << 17), (100, 1 << 15)):
        if f"tssl_t{steps}" in wanted:
            x = draw(steps, size).unsqueeze(1)
            yield Row(f"tssl_t{steps}", x, {"ours": tssl(True), "published": tssl(False)})
    if "tssl_conv" in wanted:
        x = torch.rand(30, *((16, 12, 16, 16) if scale == 1 else (2, 2, 8, 8)))
        synapses = [nn.Conv2d(x.shape[2], 64, 5, bias=False) for _ in range(2)]
        synapses[1].load_state_dict(synapses[0].state_dict())
        ours, theirs = (Layer(s, None, tssl(s is synapses[0])) for s in synapses)
        yield Row("tssl_conv", x, {"ours": ours, "published": theirs})


NEURONS = (
    *(("lif_t4", 4, 1, 1 << 20), ("lif_t16", 16, 1, 1 << 19), ("lif_t64", 64, 1, 1 << 17)),
    ("lif_t500", 500, 1, 1 << 14),
    ("lif_batch16", 500, 16, 1 << 14),  # the shape of the Open Neuromorphic benchmark
)
ROWS = (*(name for name, *_ in NEURONS), "linear", "conv", "conv_bf16", "sew", "sew20", "sew_bf16")
ROWS = (*ROWS, "user", "tssl_t5", "tssl_t30", "tssl_t100", "tssl_conv")


def place(row: Row, device: str, precision: str) -> None:
    """Put a row where it is to run; neurons alone have no autocast, so that their input is made what it would be."""
    nets = [*row.contestants.values(), *([row.layers] if row.layers else [])]
    row.x = row.x.to(device)
    for net in nets:
        net.to(device)
    if precision == "bf16":
        row.precision = dict.fromkeys([*row.contestants, ""], torch.bfloat16)
        if not any(isinstance(part, nn.Linear | nn.Conv2d) for n in nets for part in n.modules()):
            row.x, row.moved = row.x.bfloat16(), row.moved // 2


def step(net: nn.Module, x: Tensor, weights: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Forward and backward; returns the output."""
    net.zero_grad()
    x = x.detach().requires_grad_()
    kind = x.device.type
    with torch.autocast(kind, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        out = net(x)
    out.backward(weights.to(out.dtype))
    return out.detach()


def peak(run: Callable[[], Any], device: str) -> float:
    """By how many MB the process, or what it has of a GPU, grows while something runs; nan where Linux does not say."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status = Path("/proc/self/status")

    def read(key: str) -> int:
        line = next(s for s in status.read_text().splitlines() if s.startswith(key))
        return int(line.split()[1])

    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = read("VmRSS")
        run()
        return (read("VmHWM") - before) / 1024
    except (OSError, StopIteration, AttributeError):
        return float("nan")


Watch = Callable[[Callable[[], Any]], float]


def by_clock(clock: Callable[[], float], run: Callable[[], Any]) -> float:
    """Seconds that something takes on the processor."""
    begin = clock()
    run()
    return clock() - begin


def by_events(run: Callable[[], Any]) -> float:
    """Seconds that something takes on the GPU."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def bandwidth(watch: Watch, device: str) -> float:
    """Bytes a second that a copy of a large tensor moves, read and written."""
    one = torch.randn(1 << (24 if device == "cpu" else 28), device=device)
    other = torch.empty_like(one)
    seconds = [watch(lambda: other.copy_(one)) for _ in range(7)]
    return 2 * one.numel() * one.element_size() / statistics.median(seconds)


def measure(row: Row, repeats: int, watch: Watch, speed: float) -> list[dict[str, Any]]:
    """One line of results for each contestant."""
    x = row.x
    nets = {**row.contestants, **({"": row.layers} if row.layers else {})}
    run = {
        name: lambda net=net, name=name: step(net, x, weights, row.precision.get(name))
        for name, net in nets.items()
    }
    with torch.no_grad():
        like = row.contestants["ours"](x)
    weights = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
    weights = torch.empty_like(like).copy_(weights)  # in the memory order of the output
    outs = {name: one() for name, one in run.items()}  # warms up, too
    agree = {n: (o.float() == outs["ours"].float()).float().mean().item() for n, o in outs.items()}
    del outs
    memory = {name: peak(one, x.device.type) for name, one in run.items()}
    seconds: dict[str, list[float]] = {name: [] for name in run}
    for _ in range(repeats):
        for name, one in run.items():
            seconds[name].append(watch(one))
    limit = row.moved / speed or min(seconds.pop("", [0.0]))
    found = []
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["ours"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if repeats > 1 else ratios * 3
        ratio = statistics.median(taken) / statistics.median(seconds["ours"])
        found.append(
            {
                "workload": row.name,
                "contestant": name,
                "ms": round(1e3 * statistics.median(taken), 3),
                "ratio to ours": round(ratio, 2),
                "quartiles": f"{low:.2f}-{high:.2f}",
                "peak MB": round(memory[name], 1),
                "outputs equal": f"{agree[name]:.4f}",
                "limit ms": round(1e3 * limit, 3) if limit else "",
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="*", choices=ROWS, help="default: all that fit the device")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--threads", type=int, default=1, help="on a processor")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--scale", type=int, default=1, help="divides all sizes, for tests")
    parser.add_argument("--csv", type=Path, help="where to keep the results")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kept = keep_freed_memory()
    clock = time.process_time if given.threads == 1 else time.perf_counter
    watch = by_events if given.device == "cuda" else partial(by_clock, clock)
    speed = bandwidth(watch, given.device)
    unfit = set() if given.device == "cuda" else {"lif_batch16"}  # which takes gigabytes
    unfit |= {"conv_bf16", "sew_bf16"} if given.precision == "bf16" else set()
    wanted = given.rows or [name for name in ROWS if name not in unfit]
    libraries, results = [*peers(given.peers)], []
    for row in rows(wanted, libraries, given.scale):
        place(row, given.device, given.precision)
        results += measure(row, given.repeats, watch, speed)
    where = f"{given.threads} thread(s), {'process' if given.threads == 1 else 'wall'} time"
    if given.device == "cuda":
        where = f"{torch.cuda.get_device_name()}, {given.precision}, events"
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {where}, "
        f"median of {given.repeats}, freed memory {'kept' if kept else 'handed back'}, copy {speed / 1e9:.1f} GB/s"
    )
    with suppress(IndexError):
        print("| " + " | ".join(results[0]) + " |\n|" + " --- |" * len(results[0]))
    for line in results:
        print("| " + " | ".join(map(str, line.values())) + " |")
    if given.csv and results:
        gpu = given.device == "cuda"
        on = torch.cuda.get_device_name() if gpu else cpu_name()
        keep(results, given.csv, f"GPU {given.precision}" if gpu else str(given.threads), on)


def keep(results: list[dict[str, Any]], path: Path, threads: str, on: str) -> None:
    """Write results with what they were measured on, in the place of earlier ones of the same workloads and threads."""
    made = {"date": time.strftime("%Y-%m-%d"), "cpu": on, "torch": torch.__version__}
    lines = [{"threads": threads, **line, **made} for line in results]
    if path.exists():
        with path.open(newline="") as file:
            new = {(threads, line["workload"]) for line in results}
            earlier = list(csv.DictReader(file))
        lines += [line for line in earlier if (line["threads"], line["workload"]) not in new]
        lines.sort(key=lambda line: (str(line["threads"]), ROWS.index(str(line["workload"]))))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
