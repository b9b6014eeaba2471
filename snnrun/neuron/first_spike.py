"""First spikes of neurons whose potential is piecewise linear: a spike time for every row of input spike times."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnrun.neuron.kernel import Choice

MOST = 1 << 24  # numbers in one tensor of the plain form
WORK = 1 << 16  # weights times rows below which one thread is enough


@dataclass(frozen=True)
class FirstSpike:
    r"""How neurons of linear response find their spikes, and differentiate.

    Inputs sorted by time, $S_k = \sum_{j \le k} w_j$ and $Q_k = \sum_{j \le k} w_j t_j$: the spike is at
    $t = (\theta + Q_k) / S_k$ of the first k at which the potential $S_k t_{k+1} - Q_k$ reaches $\theta$ by the next
    input. Those k inputs caused it, and only they have gradients:

    $$\frac{\partial t}{\partial t_j} = \frac{w_j}{S_k}, \qquad \frac{\partial t}{\partial w_j} = -\frac{t - t_j}{S_k}$$

    **Arguments:**

    - `choice`: `auto` and `numba` run compiled loops on a CPU; elsewhere, and with `scan`, arrays in torch.
    - `grad_clip`: bound on $1 / S_k$ in the gradients; None for none.
    - `raises`: let a gradient g at a silent neuron mean $-g\, V(t_{\mathrm{end}})$, which raises its potential at the
      horizon; without, it means nothing.
    """

    choice: Choice = "auto"
    grad_clip: float | None = None
    raises: bool = False

    def __call__(self, times: Tensor, weight: Tensor, threshold: float, horizon: float) -> Tensor:
        """Input times `(rows, inputs)` and weights `(neurons, inputs)` to spike times `(rows, neurons)`."""
        looped = self.choice in ("auto", "numba") and times.device.type == "cpu"
        how = (looped, self.grad_clip, self.raises)
        return first_spike(times, weight, threshold, horizon, *how)[0].to(times.dtype)


def common(*tensors: Tensor) -> torch.dtype:
    """float64 if a tensor has it, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


@torch.library.custom_op("snnrun::first_spike", mutates_args=())
def first_spike(
    times: Tensor,
    weight: Tensor,
    threshold: float,
    horizon: float,
    looped: bool,
    grad_clip: float | None,
    raises: bool,
) -> tuple[Tensor, Tensor]:
    """Spike times up to `horizon` and, at the spikes, slopes of the potentials (1 for silence); float32 or wider."""
    dtype = common(times, weight)
    forward = looped_forward if looped else array_forward
    out, slope = forward(times.to(dtype), weight.to(dtype), threshold)
    silent = (out > horizon) | out.isinf()
    return out.masked_fill_(silent, torch.inf), slope.masked_fill_(silent, 1)


@first_spike.register_fake
def _(times, weight, threshold, horizon, looped, grad_clip, raises):
    out = times.new_empty((len(times), len(weight)), dtype=common(times, weight))
    return out, torch.empty_like(out)


@torch.library.custom_op("snnrun::first_spike_backward", mutates_args=())
def first_spike_backward(
    times: Tensor, weight: Tensor, until: Tensor, pull: Tensor, looped: bool, wanted: bool
) -> tuple[Tensor, Tensor]:
    r"""Gradients of the input times (empty unless `wanted`) and of the weights.

    $$\frac{\partial L}{\partial t_j} = \sum_i a_i w_{ij} [t_j < u_i], \qquad
      \frac{\partial L}{\partial w_{ij}} = -\sum a_i \max(u_i - t_j, 0)$$

    `until` holds u and `pull` a, both `(rows, neurons)`; the second sum is over rows.
    """
    dtype = common(times, weight)
    backward = looped_backward if looped else array_backward
    below, into = backward(times.to(dtype), weight.to(dtype), until, pull, wanted)
    return below.to(times.dtype), into.to(weight.dtype)


@first_spike_backward.register_fake
def _(times, weight, until, pull, looped, wanted):
    below = torch.empty_like(times, memory_format=torch.contiguous_format)
    return below if wanted else times.new_empty(0), weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    times, weight, _, ctx.horizon, ctx.looped, ctx.grad_clip, ctx.raises = inputs
    ctx.save_for_backward(times, weight, *output)


def _derive(ctx: Any, grad: Tensor, _: Any) -> Any:
    times, weight, out, slope = ctx.saved_tensors
    fired = out.isfinite()
    steep = slope if ctx.grad_clip is None else slope.clamp(min=1 / ctx.grad_clip)
    pull = grad.to(out.dtype) / steep
    if not ctx.raises:
        pull = torch.where(fired, pull, 0)
    until = torch.where(fired, out, ctx.horizon if ctx.raises else 0.0)
    wanted = ctx.needs_input_grad[0]
    below, into = first_spike_backward(times, weight, until, pull, ctx.looped, wanted)
    return below if wanted else None, into, *[None] * 5


first_spike.register_autograd(_derive, setup_context=_keep)


# --- arrays: on any device


def array_forward(times: Tensor, weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Times and slopes; the plain form."""
    out = times.new_empty((len(times), len(weight)))
    slope = torch.empty_like(out)
    for rows in chunks(times, weight):
        t, order = times[rows].sort(dim=1, stable=True)
        following = torch.cat([t[:, 1:], torch.full_like(t[:, :1], torch.inf)], 1)[..., None]
        active = t.isfinite()[..., None]
        t = torch.where(active, t[..., None], 0)
        w = torch.where(active, weight.t()[order], 0)  # rows, inputs, neurons
        s, q = w.cumsum(1), (w * t).cumsum(1)
        reached = (s > 0) & (s * following - q >= threshold)
        first = reached.int().argmax(1, keepdim=True)
        s, q = s.gather(1, first)[:, 0], q.gather(1, first)[:, 0]
        now, later = t[..., 0].gather(1, first[:, 0]), following[..., 0].gather(1, first[:, 0])
        fired = reached.any(1)
        slope[rows] = torch.where(fired, s, 1)
        at = ((threshold + q) / slope[rows]).clamp(now, later)
        out[rows] = torch.where(fired, at, torch.inf)
    return out, slope


def array_backward(
    times: Tensor, weight: Tensor, until: Tensor, pull: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of times and weights; the plain form."""
    below = torch.empty_like(times) if wanted else times.new_empty(0)
    into = torch.zeros_like(weight)
    for rows in chunks(times, weight):
        ahead = (until[rows, :, None] - times[rows, None]).clamp(min=0)  # rows, neurons, inputs
        into -= torch.einsum("bo,boi->oi", pull[rows], ahead)
        if wanted:
            below[rows] = torch.einsum("bo,boi,oi->bi", pull[rows], ahead.sign(), weight)
    return below, into


def chunks(times: Tensor, weight: Tensor) -> Iterator[slice]:
    """Rows in portions that fit into memory."""
    size = max(1, MOST // max(weight.numel(), 1))
    return (slice(low, low + size) for low in range(0, len(times), size))


# --- loops: on a CPU


def looped_forward(times: Tensor, weight: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Times and slopes; rows are dealt out to as many threads as torch uses."""
    from snnrun.neuron.kernel import first_spike as loops  # compiles on first use

    out = times.new_empty((len(times), len(weight)))
    slope = torch.empty_like(out)
    tiles = tiled(weight.t()).numpy()
    given = times.contiguous().numpy()
    bound = given.dtype.type(threshold)

    def run(rows: slice) -> None:
        loops.forward(given[rows], tiles, bound, out.numpy()[rows], slope.numpy()[rows])

    in_threads(times, weight, run)
    return out, slope


def looped_backward(
    times: Tensor, weight: Tensor, until: Tensor, pull: Tensor, wanted: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of times and weights; every thread adds up weights of its own."""
    from snnrun.neuron.kernel import first_spike as loops

    below = torch.empty_like(times, memory_format=torch.contiguous_format)
    tiles = tiled(weight.t())
    ends, pulls = (tiled(a).transpose(0, 1).flatten(1).contiguous() for a in (until, pull))
    given = times.contiguous().numpy()

    def run(rows: slice) -> Tensor:
        into = torch.zeros_like(tiles)
        read = (given[rows], tiles.numpy(), ends.numpy()[rows], pulls.numpy()[rows])
        loops.backward(*read, into.numpy(), below.numpy()[rows], wanted)
        return into

    into = sum(in_threads(times, weight, run), torch.zeros_like(tiles))
    whole = into.transpose(1, 2).flatten(0, 1)[: len(weight)].contiguous()
    return below if wanted else times.new_empty(0), whole


def tiled(a: Tensor) -> Tensor:
    """`(n, neurons)` to `(tiles, n, TILE)`, padded with zeros."""
    from snnrun.neuron.kernel.first_spike import TILE

    count = -(-a.shape[1] // TILE)
    padded = torch.nn.functional.pad(a, (0, count * TILE - a.shape[1]))
    return padded.unflatten(1, (count, TILE)).transpose(0, 1).contiguous()


def in_threads(times: Tensor, weight: Tensor, run: Callable[[slice], Any]) -> list[Any]:
    """What `run` makes of shares of the rows, in order."""
    from snnrun.neuron.kernel.cpu import deal, pool

    threads = min(torch.get_num_threads(), 1 + len(times) * weight.numel() // WORK)
    shares = [slice(*share) for share in deal(len(times), threads, 1)] if len(times) else []
    workers = pool(os.getpid(), threads) if len(shares) > 1 else None
    rest = [workers.submit(run, share) for share in shares[1:]] if workers else []
    return [run(share) for share in shares[:1]] + [future.result() for future in rest]
