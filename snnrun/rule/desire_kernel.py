"""Desire backpropagation of one fully connected layer, event by event: compiled by numba, for the CPU.

Only inputs that fire are read, only rows of weights that change are written. B samples, J inputs, I outputs, T steps.
"""

import numpy as np

from snnrun.neuron.kernel.compiled import compiled

BLOCK = 8  # steps are padded to a multiple of this: whole vector registers


@compiled
def _firing(source, active):
    """Fill `active` with the inputs of one sample (J, T) that fire; returns how many there are."""
    count = 0
    for j in range(source.shape[0]):
        for t in range(source.shape[1]):
            if source[j, t]:
                active[count] = j
                count += 1
                break
    return count


@compiled
def forward(weight, source, delay, scale, decay, threshold, kept, spikes):
    """Spikes of a layer.

    weight (I, J); source (B, J, T) uint8, read `delay` steps late as events of size `scale`; kept (B, I) uint8, 0 where
    dropped; spikes (B, I, T) uint8 is written.
    """
    batch, inputs, steps = source.shape
    outputs = weight.shape[0]
    padded = (steps + BLOCK - 1) // BLOCK * BLOCK
    active = np.empty(inputs, np.int64)
    signal = np.empty((inputs, padded), weight.dtype)
    current = np.empty((4, padded), weight.dtype)
    alive = np.empty(outputs + 3, np.int64)
    for b in range(batch):
        count = _firing(source[b], active)
        for a in range(count):
            signal[a, :] = 0
            for t in range(delay, steps):
                if source[b, active[a], t - delay]:
                    signal[a, t] = scale
        rows = 0
        for i in range(outputs):
            if kept[b, i]:
                alive[rows] = i
                rows += 1
            else:
                spikes[b, i, :] = 0
        alive[rows : rows + 3] = alive[0]  # fills the last four
        for first in range(0, rows, 4):
            i0, i1 = alive[first], alive[first + 1]
            i2, i3 = alive[first + 2], alive[first + 3]
            current[:] = 0
            for a in range(count):
                j = active[a]
                w0, w1, w2, w3 = weight[i0, j], weight[i1, j], weight[i2, j], weight[i3, j]
                for t in range(padded):
                    s = signal[a, t]
                    current[0, t] += w0 * s
                    current[1, t] += w1 * s
                    current[2, t] += w2 * s
                    current[3, t] += w3 * s
            for row in range(min(4, rows - first)):
                potential = current[row, 0] * 0
                for t in range(steps):
                    potential = decay * potential + current[row, t]
                    fires = potential >= threshold
                    spikes[b, alive[first + row], t] = fires
                    if fires:
                        potential -= 1


@compiled
def send(weight, spikes, desire, count, kept, threshold, before):
    """Desires of the layer below.

    weight (I, J); spikes (B, I, T); desire (B, I) int8: 1, -1 or 0; count: spikes of a neuron that fires as it should;
    kept (B, J) uint8; before (B, J) int8 is written.
    """
    batch, outputs, steps = spikes.shape
    inputs = weight.shape[1]
    wish = np.empty(inputs, weight.dtype)
    one = weight[0, 0] * 0 + 1
    for b in range(batch):
        wish[:] = 0
        for i in range(outputs):
            if desire[b, i] == 0:
                continue
            fired = 0
            for t in range(steps):
                fired += spikes[b, i, t]
            target = 1 if desire[b, i] > 0 else 0
            g = abs(target - fired / count) * desire[b, i] * one
            for j in range(inputs):
                wish[j] += g * weight[i, j]
        for j in range(inputs):
            on = kept[b, j] and abs(wish[j]) >= threshold
            before[b, j] = 0 if not on else 1 if wish[j] > 0 else -1


@compiled
def learn(target, source, delay, decay, spikes, desire, rate):
    """Add `rate` times the weight change of every sample to `target` (I, J); the rest as above."""
    batch, inputs, steps = source.shape
    active = np.empty(inputs, np.int64)
    trace = np.empty((steps, inputs), target.dtype)
    change = np.empty(inputs, target.dtype)
    for b in range(batch):
        count = _firing(source[b], active)
        for t in range(steps):
            for a in range(count):
                event = source[b, active[a], t - delay] if t >= delay else 0
                trace[t, a] = (decay * trace[t - 1, a] if t else decay * 0) + event
        for i in range(target.shape[0]):
            if desire[b, i] == 0:
                continue
            fired = False
            for t in range(steps):
                if not spikes[b, i, t]:
                    continue
                if fired:
                    for a in range(count):
                        change[a] += trace[t, a]
                else:
                    for a in range(count):
                        change[a] = trace[t, a]
                fired = True
            if fired:
                step = rate * desire[b, i]
                for a in range(count):
                    target[i, active[a]] += step * change[a]
