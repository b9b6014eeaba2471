"""A neuron whose threshold and spikes have another size."""

import copy

from torch import Tensor

from snnrun.neuron.base import Neuron, State, per_channel


class Scaled(Neuron):
    r"""A neuron that sees its input in units of a scale, and whose spikes are as large as that scale.

    $$o_t = V\, n(x_t / V)$$

    A threshold of 1 becomes a threshold of V, and weights behind it need not know. Equal to a network whose weights are
    normalised by the scales of their layers.

    **Arguments:**

    - `neuron`: n; it is copied.
    - `scale`: V, of shape (1,), or (C,) for one a channel.

    Rueckauer et al., *Conversion of continuous-valued deep networks to efficient event-driven networks for image
    classification*, 2017.
    """

    def __init__(self, neuron: Neuron, scale: Tensor):
        super().__init__()
        self.neuron = copy.deepcopy(neuron)
        self.traits, self.kernel, self.potential = neuron.traits, neuron.kernel, neuron.potential
        self.scale: Tensor
        self.register_buffer("scale", scale)

    def init_state(self, x: Tensor) -> State:
        return self.neuron.init_state(x)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        scale = per_channel(self.scale, x)
        out, state = self.neuron.step(x / scale, state)
        return out * scale, state

    def spikes(self, out: Tensor) -> Tensor:
        return self.neuron.spikes(out / per_channel(self.scale, out[0]))
