"""What one spike train does to the potential of another neuron at that one's spikes: arrays in torch, on any device.

B samples, J inputs, I outputs, T steps; a train is 0 and 1 along the leading axis.
"""

import torch
from torch import Tensor

from snnrun.neuron import RefractoryLIF

FLOOR = 1e-4


def spike_times(post: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every spike of `(T, N)` trains: whose it is, when, and when that neuron fired before (-1: never)."""
    owner, time = post.t().nonzero(as_tuple=True)
    before = torch.full_like(time, -1)
    same = owner[1:] == owner[:-1]
    before[1:] = torch.where(same, time[:-1], -1)
    return owner, time, before


def membrane(pre: Tensor, neuron: RefractoryLIF) -> Tensor:
    r"""The potential that each train alone would leave through a weight of 1, if nothing ever fired.

    $$p_t = p_{t-1} - \frac{p_{t-1}}{\tau_s} + s_{t-1}, \qquad
      m_t = m_{t-1} - \frac{m_{t-1}}{\tau_m} + \frac{p_t}{\tau_s}$$
    """
    p = m = torch.zeros_like(pre[0])
    out = [m]
    for step in pre[:-1].unbind(0):
        p = p - p / neuron.tau_s + step
        m = m - m / neuron.tau_m + p / neuron.tau_s
        out.append(m)
    return torch.stack(out)


def marks(post: Tensor, neuron: RefractoryLIF) -> Tensor:
    """What is to be added up of a `membrane`: its value at each spike, less what is left of it since the last rest.

    A potential is 0 until `refractory` steps after a spike; from there on it is the free one less what that had then.
    """
    flat = post.flatten(1)
    owner, time, before = spike_times(flat)
    rested = before + neuron.refractory
    out = flat.clone()
    again = (before >= 0) & (time > rested)
    left = (1 - 1 / neuron.tau_m) ** (time - rested)[again].to(out.dtype)
    out.index_put_((rested[again], owner[again]), -left, accumulate=True)
    idle = (before >= 0) & ~again  # a train that no neuron with this rest has fired
    out[time[idle], owner[idle]] = 0
    return out.view_as(post)


def effects(pre: Tensor, post: Tensor, neuron: RefractoryLIF) -> Tensor:
    r"""The effect of each train `pre` (T, B, J) on each train `post` (T, B, I): $e_{i|j}$, `(B, I, J)`.

    It is the potential that a synapse of weight 1 would have had at the spikes of i, added up; 0 if either is silent.

    Zhang & Li, NeurIPS 2019, eq. 5.
    """
    return torch.einsum("tbi,tbj->bij", marks(post, neuron), membrane(pre, neuron))


def ratios(effect: Tensor, pre: Tensor, post: Tensor) -> Tensor:
    r"""$\rho = e_{i|j} / o_j$ from effects and the counts of j and i, whose shapes broadcast; 0.5 if one is silent."""
    return torch.where((pre == 0) | (post == 0), 0.5, effect / pre.clamp(min=1))


def slopes(table: Tensor, pre: Tensor) -> Tensor:
    r"""Coefficients of $\partial e/\partial o_i$, highest power first, for counts `pre` of the input: `(..., 4)`."""
    row = table[pre.clamp(1, len(table)).long() - 1]
    return row[..., :4] * row.new_tensor([4.0, 3.0, 2.0, 1.0])


def powers(post: Tensor) -> Tensor:
    """Third, second, first and zeroth power of counts: `(..., 4)`."""
    return torch.stack([post**3, post**2, post, torch.ones_like(post)], -1)


def bounded(bottom: Tensor) -> Tensor:
    """What is divided by, not nearer to 0 than `FLOOR`, with its sign."""
    return torch.where(bottom < 0, bottom.clamp(max=-FLOOR), bottom.clamp(min=FLOOR))


def side_effect(weight: Tensor, pre: Tensor, post: Tensor, table: Tensor) -> Tensor:
    r"""$\sum_j w_{ij}\, \partial e_{i|j}/\partial o_i$: how much more inputs would do to neurons that fire once more.

    **Arguments:**

    - `weight`: `(I, J)`.
    - `pre`, `post`: counts `(B, J)` and `(B, I)`.
    - `table`: quartics, a row for every count of the input.
    """
    drive = slopes(table, pre).to(weight.dtype).mT @ weight.t()
    return (drive * powers(post).mT).sum(1)
