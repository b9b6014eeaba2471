"""Linear layers event by event: compiled by numba, for the CPU. N rows, I inputs, O outputs."""

from snnrun.neuron.kernel.compiled import compiled

BLOCK = 16  # inputs that are looked at together


@compiled
def forward(x, starts, index, value, table, first, out, low, high):
    """Rows `low` to `high` of out (N, O) = first (O,) + x (N, I) table (I, O).

    starts (N + 1,): where the events of a row begin in index and value, which are written.
    """
    inputs = x.shape[1]
    whole = inputs // BLOCK * BLOCK
    outputs = out.shape[1]
    for n in range(low, high):
        k = starts[n]
        row = x[n]
        for block in range(0, whole, BLOCK):
            found = 0
            for i in range(BLOCK):
                found |= row[block + i] != 0
            if found:
                for i in range(block, block + BLOCK):
                    if row[i] != 0:
                        index[k] = i
                        value[k] = row[i]
                        k += 1
        for i in range(whole, inputs):
            if row[i] != 0:
                index[k] = i
                value[k] = row[i]
                k += 1
        y = out[n]
        for j in range(outputs):
            y[j] = first[j]
        for e in range(starts[n], starts[n + 1]):
            v = value[e]
            w = table[index[e]]
            for j in range(outputs):
                y[j] += v * w[j]


@compiled
def weight_gradient(starts, index, value, grad, table, low, high):
    """Outputs `low` to `high` of the gradient, added to table (I, O); grad (N, O) is that of the output."""
    for n in range(grad.shape[0]):
        g = grad[n, low:high]
        for e in range(starts[n], starts[n + 1]):
            v = value[e]
            w = table[index[e], low:high]
            for j in range(len(g)):
                w[j] += v * g[j]
