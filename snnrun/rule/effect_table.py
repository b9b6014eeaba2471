"""How the effect of a spike train depends on the number of spikes: quartics, one for each count of the input."""

from functools import lru_cache

import torch
from torch import Tensor

from snnrun.neuron import RefractoryLIF
from snnrun.rule.spike_train import membrane


@lru_cache(maxsize=16)
def _fitted(tau_m: float, tau_s: float, refractory: int, steps: int, rows: int) -> Tensor:
    mean = mean_effects(tau_m, tau_s, refractory, steps, rows)
    count = len(mean)
    o = torch.arange(1, count + 1, dtype=torch.float64)
    scaled = torch.stack([(o / count) ** k for k in (4, 3, 2, 1, 0)], 1)
    found = torch.linalg.lstsq(scaled, mean.T, driver="gelsd").solution
    return (found / torch.tensor([count**k for k in (4.0, 3.0, 2.0, 1.0, 0.0)])[:, None]).T


def effect_table(neuron: RefractoryLIF, steps: int, rows: int) -> Tensor:
    r"""Quartics in the count o of the output that fit the mean effect: `(rows, 5)`, highest power first.

    $$\bar e(n, o) \approx c_0 o^4 + c_1 o^3 + c_2 o^2 + c_3 o + c_4, \qquad n, o = 1 \ldots N$$

    **Arguments:**

    - `neuron`: its time constants and rest.
    - `steps`: T.
    - `rows`: N; fewer if no train of T steps has that many spikes.

    Zhang & Li, NeurIPS 2019, supplement.
    """
    with torch.device("cpu"):
        return _fitted(neuron.tau_m, neuron.tau_s, neuron.refractory, steps, rows)


def mean_effects(tau_m: float, tau_s: float, refractory: int, steps: int, rows: int) -> Tensor:
    r"""The mean effect over all pairs of trains with n and o spikes that are more than `refractory` steps apart.

    Where the authors average random pairs, this is their expectation: the two trains are independent, so it is the
    product of means over each, which are sums over the ways to place the other spikes before and behind.

    Returns `(N, N)`, n by o, in float64.
    """
    rest, t = refractory, torch.arange(steps, dtype=torch.float64)
    rows = min(rows, (steps - 1) // (rest + 1) + 1)
    k = torch.arange(rows, dtype=torch.float64)[:, None]
    before = _log_ways(t - k * rest, k)  # of k spikes before one at t
    behind = before.flip(1)
    n = torch.arange(1, rows + 1, dtype=torch.float64)
    total = _log_ways(steps - (n - 1) * rest, n)
    # ways(m, s): m spikes behind the next one, which is weighted by what is left of a potential at s + rest
    decay, ways = 1 - 1 / tau_m, torch.zeros(rows, steps, dtype=torch.float64)
    peak = behind.amax(1, keepdim=True)
    share = (behind - peak).exp()
    for s in range(steps - rest - 2, -1, -1):
        ways[:, s] = decay * (share[:, s + rest + 1] + ways[:, s + 1])
    ways = ways.log() + peak
    fires, mark = torch.zeros(2, rows, steps, dtype=torch.float64)
    for count in range(1, rows + 1):
        fires[count - 1] = (before[:count] + behind[:count].flip(0) - total[count - 1]).exp().sum(0)
        mark[count - 1] = fires[count - 1]
        if count > 1:
            pair = before[: count - 1] + ways[: count - 1].flip(0) - total[count - 1]
            mark[count - 1, rest:] -= pair.exp().sum(0)[: steps - rest]
    return membrane(fires.T, _Constants(tau_m, tau_s)).T @ mark.T  # pyright: ignore[reportArgumentType]


class _Constants:
    def __init__(self, tau_m: float, tau_s: float):
        self.tau_m, self.tau_s = tau_m, tau_s


def _log_ways(places: Tensor, chosen: Tensor) -> Tensor:
    """The logarithm of the binomial coefficient; minus infinity where there are too few places."""
    possible = places >= chosen
    n = torch.where(possible, places, chosen)
    ways = torch.lgamma(n + 1) - torch.lgamma(chosen + 1) - torch.lgamma(n - chosen + 1)
    return torch.where(possible, ways, -torch.inf)
