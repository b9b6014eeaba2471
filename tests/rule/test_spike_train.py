"""Effects of trains on trains, also of trains that no neuron fires."""

import torch

from snnrun.neuron import RefractoryLIF
from snnrun.rule.spike_train import effects, marks, ratios, spike_times
from snnrun.surrogate import ATan

NEURON = RefractoryLIF(ATan(), tau_m=10.0, tau_s=3.0, refractory=3)


def step_by_step(pre: torch.Tensor, post: torch.Tensor) -> float:
    total = p = z = c = 0.0
    for t in range(len(pre)):
        p += -p / 3 + (pre[t - 1].item() if t else 0)
        z += -z / 10 + p / 3
        if c > 0:
            z, c = 0.0, c - 1
        if post[t]:
            total, z, c = total + z, 0.0, 3
    return total


def test_effects_of_any_trains():
    """Spikes inside the rest of the one before, too: those of a label that is made to fire."""
    generator = torch.Generator().manual_seed(0)
    pre = (torch.rand(40, 3, 5, generator=generator) < 0.2).double()
    post = (torch.rand(40, 3, 4, generator=generator) < 0.3).double()
    post[:, 0, 1] = 0
    found = effects(pre, post, NEURON)
    for b in range(3):
        for i in range(4):
            for j in range(5):
                expected = step_by_step(pre[:, b, j], post[:, b, i])
                torch.testing.assert_close(found[b, i, j].item(), expected, rtol=1e-12, atol=1e-12)
    assert not found[0, 1].any() and found[0, 0].all()


def test_spikes_in_order():
    post = torch.zeros(6, 3)
    post[1, 0] = post[4, 0] = post[2, 2] = 1
    owner, time, before = spike_times(post)
    assert owner.tolist() == [0, 0, 2] and time.tolist() == [1, 4, 2]
    assert before.tolist() == [-1, 1, -1]
    assert not marks(torch.zeros(6, 2, 3), NEURON).any()


def test_ratios_of_silent_trains():
    effect = torch.tensor([[6.0, 0.0], [0.0, 0.0]])
    pre, post = torch.tensor([3.0, 0.0]), torch.tensor([2.0, 0.0])
    assert ratios(effect, pre, post[:, None]).tolist() == [[2.0, 0.5], [0.5, 0.5]]
