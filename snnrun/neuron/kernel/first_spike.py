"""First spikes of piecewise linear potentials, and their gradients: compiled by numba, for the CPU.

B rows of M input times, O neurons in tiles of `TILE`: weights are (tiles, M, TILE), padded with zeros.
"""

import numpy as np

from snnrun.neuron.kernel.compiled import compiled

TILE = 64  # neurons whose slopes and charges stay in the first-level cache


@compiled
def forward(times, weight, threshold, out, slope):
    """When each neuron first reaches the threshold.

    times (B, M), infinite where an input is silent; out (B, O) is written, infinite for silence, and slope (B, O), the
    slope of the potential at the spike, 1 for silence.
    """
    rows, inputs = times.shape
    neurons = out.shape[1]
    active = np.empty(inputs, np.int64)
    found = np.empty(inputs, times.dtype)
    s = np.empty(TILE, times.dtype)
    q = np.empty(TILE, times.dtype)
    for b in range(rows):
        count = 0
        for j in range(inputs):
            if times[b, j] < np.inf:
                active[count] = j
                found[count] = times[b, j]
                count += 1
        order = np.argsort(found[:count], kind="mergesort")
        for tile in range(weight.shape[0]):
            first = tile * TILE
            width = min(TILE, neurons - first)
            left = width
            for i in range(width):
                out[b, first + i] = np.inf
                slope[b, first + i] = 1
            s[:] = 0
            q[:] = 0
            for k in range(count):
                now = found[order[k]]
                w = weight[tile, active[order[k]]]
                for i in range(TILE):
                    s[i] += w[i]
                    q[i] += w[i] * now
                if k + 1 == count:  # nothing follows: every rising potential arrives
                    for i in range(width):
                        if s[i] > 0 and q[i] < np.inf:
                            out[b, first + i] = max((threshold + q[i]) / s[i], now)
                            slope[b, first + i] = s[i]
                    break
                following = found[order[k + 1]]
                reached = False
                for i in range(TILE):  # no division, no branch: whole vector registers
                    reached |= s[i] * following - q[i] >= threshold
                if not reached:
                    continue
                for i in range(width):
                    if s[i] * following - q[i] >= threshold:
                        at = (threshold + q[i]) / s[i]
                        out[b, first + i] = min(max(at, now), following)
                        slope[b, first + i] = s[i]
                        q[i] = np.inf  # never again
                        left -= 1
                if left == 0:
                    break


@compiled
def backward(times, weight, until, pull, into, below, wanted):
    """Gradients of weights and, if `wanted`, of input times.

    until (B, tiles * TILE): what is weighed is the time from an input to here; pull (B, tiles * TILE): the factor on
    it, and on the weights. into (tiles, M, TILE) is added to; below (B, M) is written.
    """
    rows, inputs = times.shape
    zero = times.dtype.type(0)
    lanes = np.empty(TILE, times.dtype)
    for b in range(rows):
        for j in range(inputs):
            now = times[b, j]
            if not now < np.inf:
                if wanted:
                    below[b, j] = 0
                continue
            lanes[:] = 0
            for tile in range(weight.shape[0]):
                end = until[b, tile * TILE : tile * TILE + TILE]
                a = pull[b, tile * TILE : tile * TILE + TILE]
                w = weight[tile, j]
                g = into[tile, j]
                if wanted:
                    for i in range(TILE):
                        lanes[i] += w[i] * (a[i] if end[i] > now else zero)
                for i in range(TILE):
                    ahead = end[i] - now
                    g[i] -= a[i] * (ahead if ahead > 0 else zero)
            if wanted:
                below[b, j] = lanes.sum()
