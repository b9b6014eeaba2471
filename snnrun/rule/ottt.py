"""Online training through time (OTTT), and spatial learning through time (SLTT)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from snnrun.model.layers import Layer, layers, over_time
from snnrun.neuron import LI
from snnrun.neuron.base import Kernel, Neuron, OwnBackward, State
from snnrun.rule.base import Rule


@dataclass(frozen=True)
class Instant:
    """One step back that stays within its step: the derivative of the output by the input, and no carry."""

    def __call__(
        self,
        neuron: Neuron,
        x: Tensor,
        state: State,
        out: Tensor,
        grad_out: Tensor,
        grad_state: State,
    ) -> tuple[Tensor, State]:
        """Input, state before the step and gradients from above and from later, to gradient of `x` and carries."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            again, _ = neuron.step(x, tuple(s.detach() for s in state))
        (grad,) = torch.autograd.grad(again, x, grad_out)
        return grad, tuple(torch.zeros_like(s) for s in state)


class TracedLayer(Layer):
    r"""A layer whose weights learn from a trace of what they read: $\hat a_t = \lambda \hat a_{t-1} + x_t$.

    **Arguments:**

    - `layer`: what it takes the place of.
    - `decay`: $\lambda$, above 0 and at most 1.
    """

    def __init__(self, layer: Layer, decay: float):
        super().__init__(layer.synapse, layer.norm, layer.neuron)
        self.decay = decay

    def current(self, x: Tensor) -> Tensor:
        """As of every layer; gradients of the weights are taken as if they had read the trace."""
        if not torch.is_grad_enabled():
            return super().current(x)
        fixed = {name: p.detach() for name, p in self.synapse.named_parameters()}
        now = over_time(lambda step: functional_call(self.synapse, fixed, step), x)
        traced = over_time(self.synapse, trace(x.detach(), self.decay))
        current = now + (traced - traced.detach())  # adds nothing but its gradient
        return current if self.norm is None else self.norm(current)


def trace(x: Tensor, decay: float) -> Tensor:
    """The trace of a sequence that begins at rest."""
    if decay == 1:
        return x.cumsum(0)
    tau = 1 / (1 - decay)
    return LI(tau)(x) * tau


def leak(neuron: Neuron) -> float:
    """What a silent step leaves of the potential. Raises `ValueError` for a neuron that has more than that."""
    ends = []
    for potential in (0.0, -1.0):  # below 0 no neuron fires
        v = torch.full(
            (1, 1), potential, dtype=torch.float64, device="cpu"
        )  # whatever the net is on
        start = neuron.init_state(v)
        if len(start) != 1 or any(True for _ in neuron.parameters()):
            raise ValueError(
                f"rule=ottt needs neurons whose state is a potential and that learn nothing; {type(neuron).__name__} is"
                " none. Choose neuron=lif or neuron=if."
            )
        ends.append(neuron.step(torch.zeros_like(v), (v,))[1][0].item())
    return ends[0] - ends[1]


class OTTT(Rule):
    r"""Online training through time: gradients of a step are those of this step, weights learn from traces of spikes.

    $$\frac{\partial L}{\partial W} = \sum_t \delta_t\, \hat a_t^\top, \qquad
      \hat a_t = \lambda \hat a_{t-1} + s_t$$

    The $\delta_t$ pass down through the layers of step t alone; what a spike does to later steps is in the traces,
    which decay as the potentials do. The reset is left out. For one hidden layer that is the gradient of
    backpropagation through time. With a loss of single steps (`loss=tet`) every term is known as soon as its step is
    over; here they are summed over the sequence. Biases learn without a trace. SpikingJelly's form of the rule also has
    no trace of the input, and one in a head without neurons.

    **Arguments:**

    - `trace`: learn from traces; false takes the present spikes instead, which is SLTT.

    Xiao et al., *Online training through time for spiking neural networks*, NeurIPS 2022; SLTT: Meng et al., *Towards
    memory- and time-efficient backpropagation for training spiking neural networks*, ICCV 2023.
    """

    needs = frozenset({"spikes", "stepped", "soft_reset", "fixed_decay", "feedforward"})

    def __init__(self, trace: bool = True):
        super().__init__()
        self.trace = trace

    def kernel(self, neuron: Neuron) -> Kernel:
        """No gradient through the potential, for neurons that fire; others keep theirs."""
        fires = "spikes" in neuron.traits
        return OwnBackward(Instant()) if fires else super().kernel(neuron)

    def adapt(self, net: nn.Module) -> nn.Module:
        """Layers with traces in the place of those with neurons."""
        for name, layer in list(layers(net)):
            if isinstance(layer.neuron, Neuron) and "spikes" in layer.neuron.traits:
                decay = leak(layer.neuron)
                if self.trace and decay > 0 and not isinstance(layer.synapse, nn.Identity):
                    net.set_submodule(name, TracedLayer(layer, decay))
        return net
