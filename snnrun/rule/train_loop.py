"""ST-RSBP of one fully connected layer, spike by spike: compiled by numba, for the CPU.

Only weights of inputs that fire are read. B samples, J inputs, I outputs, T steps; trains are 0 and 1, `(T, B, ...)`.
"""

import numpy as np

from snnrun.neuron.kernel.compiled import compiled


@compiled
def fire(weight, source, lateral, constants, refractory, spikes):
    """Spikes of a layer.

    weight (J, I); source (T, B, J); lateral: where the connections inside the layer begin that leave each neuron, where
    they lead, and their weights;
    constants: tau_m, tau_s and the potential above which a neuron fires; spikes (T, B, I) is written.
    """
    steps, batch, inputs = source.shape
    outputs = weight.shape[1]
    tau_m, tau_s, threshold = constants[0], constants[1], constants[2]
    start, target, value = lateral
    v, q = np.empty(outputs, weight.dtype), np.empty(outputs, weight.dtype)
    drive, rest = np.empty(outputs, weight.dtype), np.empty(outputs, np.int32)
    fired, active = np.empty(outputs, np.bool_), np.empty(inputs + 3, np.int64)
    for b in range(batch):
        v[:], q[:], drive[:], rest[:] = 0, 0, 0, 0
        for t in range(steps):
            for i in range(outputs):
                q[i] = q[i] - q[i] / tau_s + drive[i]
                h = v[i] - v[i] / tau_m + q[i] / tau_s
                resting = rest[i] > 0
                fires = (not resting) & (h > threshold)
                v[i] = 0 if resting | fires else h
                rest[i] = refractory if fires else rest[i] - 1 if resting else 0
                fired[i] = fires
                drive[i] = 0
            count = 0
            for j in range(inputs):
                if source[t, b, j]:
                    active[count] = j
                    count += 1
            whole = count - count % 4
            for a in range(0, whole, 4):
                w0, w1 = weight[active[a]], weight[active[a + 1]]
                w2, w3 = weight[active[a + 2]], weight[active[a + 3]]
                for i in range(outputs):
                    drive[i] += (w0[i] + w1[i]) + (w2[i] + w3[i])
            for a in range(whole, count):
                w0 = weight[active[a]]
                for i in range(outputs):
                    drive[i] += w0[i]
            for i in range(outputs):
                spikes[t, b, i] = fired[i]
                if fired[i]:
                    for k in range(start[i], start[i + 1]):
                        drive[target[k]] += value[k]


@compiled
def _times(spikes, b, times, count):
    """Fill `times` (N, T) with the steps at which each neuron of sample `b` fires, `count` (N,) with how many."""
    count[:] = 0
    for t in range(spikes.shape[0]):
        for n in range(spikes.shape[2]):
            if spikes[t, b, n]:
                times[n, count[n]] = t
                count[n] += 1


@compiled
def _membrane(source, b, active, number, constants, trace):
    """Fill `trace` (T, number) with the potential that each active input alone would leave; see `spike_train`."""
    tau_m, tau_s = constants[0], constants[1]
    p = np.zeros(number, trace.dtype)
    trace[0, :number] = 0
    for t in range(1, source.shape[0]):
        for a in range(number):
            p[a] = p[a] - p[a] / tau_s + source[t - 1, b, active[a]]
        for a in range(number):
            trace[t, a] = trace[t - 1, a] - trace[t - 1, a] / tau_m + p[a] / tau_s


@compiled
def learn(weight, source, spikes, gain, back, constants, refractory, grad, before):
    """Add the gradient of the weights to `grad`, and write the error of the inputs to `before`.

    weight, grad (I, J); source (T, B, J); spikes (T, B, I); gain, back (B, I): what effects and ratios are multiplied
    by; before (B, J), or of no samples where it is not wanted.
    """
    steps, batch, inputs = source.shape
    outputs = spikes.shape[2]
    wanted = before.shape[0] > 0
    left = np.empty(steps, weight.dtype)
    left[0] = 1
    for t in range(1, steps):
        left[t] = left[t - 1] * (1 - 1 / constants[0])
    trace = np.empty((steps, inputs), weight.dtype)
    times, count = np.empty((outputs, steps), np.int32), np.empty(outputs, np.int32)
    fed, active = np.empty(inputs, np.int32), np.empty(inputs, np.int64)
    effect, sent = np.empty(inputs, weight.dtype), np.empty(inputs, weight.dtype)
    silent, half = np.empty(inputs, weight.dtype), np.empty(inputs, weight.dtype)
    for b in range(batch):
        if wanted:
            before[b] = 0
        if not (gain[b].any() or back[b].any()):
            continue
        fed[:] = 0
        for t in range(steps):
            for j in range(inputs):
                fed[j] += source[t, b, j] != 0
        number = 0
        for j in range(inputs):
            if fed[j]:
                active[number] = j
                number += 1
        _membrane(source, b, active, number, constants, trace)
        _times(spikes, b, times, count)
        sent[:], silent[:], half[:] = 0, 0, 0
        for i in range(outputs):
            g, h = gain[b, i], back[b, i]
            if g == 0 and h == 0:
                continue
            row = weight[i]
            if count[i] == 0:
                if wanted:
                    for j in range(inputs):
                        silent[j] += h * row[j]
                continue
            first = trace[times[i, 0]]
            for a in range(number):
                effect[a] = first[a]
            for k in range(1, count[i]):
                rested = times[i, k - 1] + refractory
                if times[i, k] > rested:
                    now, then, share = trace[times[i, k]], trace[rested], left[times[i, k] - rested]
                    for a in range(number):
                        effect[a] += now[a] - share * then[a]
            into = grad[i]
            for a in range(number):
                into[active[a]] += g * effect[a]
            if wanted:
                for j in range(inputs):
                    half[j] += h * row[j]
                for a in range(number):
                    sent[a] += h * row[active[a]] * effect[a]
        if wanted:
            for j in range(inputs):
                if fed[j] == 0:
                    before[b, j] = (half[j] + silent[j]) / 2
            for a in range(number):
                before[b, active[a]] = sent[a] / fed[active[a]] + silent[active[a]] / 2


@compiled
def pairs(spikes, start, target, needed, constants, refractory, effect):
    """Write the effects of the neurons of a layer on each other to `effect` (B, K).

    start (N + 1,), target (K,): the connections, by the neuron that they leave; needed (B,): of which samples.
    """
    steps, batch, neurons = spikes.shape
    left = np.empty(steps, effect.dtype)
    left[0] = 1
    for t in range(1, steps):
        left[t] = left[t - 1] * (1 - 1 / constants[0])
    trace = np.empty((steps, neurons), effect.dtype)
    times, count = np.empty((neurons, steps), np.int32), np.empty(neurons, np.int32)
    active = np.arange(neurons)
    for b in range(batch):
        effect[b] = 0
        if not needed[b]:
            continue
        _times(spikes, b, times, count)
        _membrane(spikes, b, active, neurons, constants, trace)
        for p in range(neurons):
            if count[p] == 0:
                continue
            for k in range(start[p], start[p + 1]):
                i = target[k]
                if count[i] == 0:
                    continue
                total = trace[times[i, 0], p]
                for n in range(1, count[i]):
                    rested = times[i, n - 1] + refractory
                    if times[i, n] > rested:
                        share = left[times[i, n] - rested]
                        total += trace[times[i, n], p] - share * trace[rested, p]
                effect[b, k] = total


@compiled
def relax(bottom, start, target, coupling, right, rounds, accuracy, y):
    """Solve a system by Gauss and Seidel's iteration; returns whether every sample came to rest.

    bottom (B, N): its diagonal; coupling (B, K): what is taken off it in the row that a connection leaves and the
    column where it leads; right, y (B, N).
    """
    for b in range(bottom.shape[0]):
        y[b] = 0
        rest = False
        for _ in range(rounds):
            change, size = accuracy * 0, accuracy * 0
            for p in range(bottom.shape[1]):
                total = right[b, p]
                for k in range(start[p], start[p + 1]):
                    total += coupling[b, k] * y[b, target[k]]
                total /= bottom[b, p]
                if not np.isfinite(total):
                    return False
                change, size = max(change, abs(total - y[b, p])), max(size, abs(total))
                y[b, p] = total
            if change <= accuracy * size:
                rest = True
                break
        if not rest:
            return False
    return True
