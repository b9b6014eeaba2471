"""What a learning rule is, and the one that all others change: surrogate gradients through time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from snnrun.model.layers import layers
from snnrun.neuron.base import Kernel, Neuron, carry
from snnrun.rule.fold import fold_amplitudes


class Learning(Protocol):
    """What a rule sees of the learner."""

    net: nn.Module
    encoder: nn.Module
    readout: Callable[[Tensor], Tensor]
    criterion: Callable[..., Tensor]
    places: (
        Tensor | None
    )  # of the running batch's samples in the training data; None outside of training

    def __call__(self, x: Tensor, chunk: int = 0) -> Tensor:
        """Encode a batch and run the network, inside `carry` in chunks of some steps: `(T, B, num_classes)`."""
        ...

    def score(self, out: Tensor, y: Tensor) -> Tensor:
        """The criterion of an output sequence; training metrics are taken from it too."""
        ...

    def sync_gradients(self) -> None:
        """Average gradients that a rule wrote by hand over all processes."""
        ...

    def training_batch(self, number: int = 0) -> tuple[Tensor, Tensor]:
        """A batch of training data, not augmented, and its labels; a function of seed, epoch and number alone."""
        ...

    def training_size(self) -> int:
        """How many samples the training data have, those kept for validation too."""
        ...

    def over_ranks(self, count: Tensor, how: Literal["sum", "max"] = "sum") -> Tensor:
        """The sum or the maximum of a count over all processes."""
        ...

    def load_best(self, *, restart: bool = False) -> None:
        """Go back to the weights of the best epoch; with `restart`, choose anew among the epochs to come."""
        ...

    def reset_optimizer(self, params: Iterable[Any], lr: float) -> None:
        """Go on with a fresh optimiser of these parameters, and a fresh schedule over what is left of the run."""
        ...


class Rule(nn.Module):
    """A gradient estimator: it leaves its estimate in `p.grad`, and the configured optimiser applies it.

    A rule overrides as little as it can; every method has the meaning of backpropagation through time as its default.
    """

    traits: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    decay_weights_only = False  # weight decay spares all but the weights of synapses
    # what to try where neurons do not fire, and where those of the head do not (None: the rule sees to that)
    wakes = "a lower neuron.threshold, norm=batch, or a larger optimizer.lr"
    wakes_output: str | None = (
        "a lower neuron.threshold, larger initial weights, or readout=mean with loss=cross_entropy"
    )
    # how far a schedule has come: plain numbers and tensors, which a checkpoint holds as state["snnrun"]["rule"]
    progress: Mapping[str, Any] = {}

    def kernel(self, neuron: Neuron) -> Kernel:
        """How one layer of neurons runs over time and differentiates."""
        return type(neuron).kernel

    def adapt(self, net: nn.Module) -> nn.Module:
        """The network that is trained; called once, before the optimiser exists."""
        return net

    def begin(self, learner: Learning) -> None:
        """What is to be done once before the first batch, not when a run is resumed; the optimiser exists."""

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        """What is minimised on a batch `x` (prepared, not yet encoded) with labels `y`."""
        return learner.score(learner(x), y)

    def backward(self, learner: Learning, loss: Tensor) -> None:
        """Fill `p.grad`. A rule that writes gradients by hand ends with `learner.sync_gradients()`."""
        loss.backward()

    def constrain(self, net: nn.Module) -> None:
        """Project the weights after each optimiser step."""

    def epoch_end(self, learner: Learning, metrics: dict[str, float]) -> None:
        """Advance a schedule after an epoch; what is added to `metrics` stands in the epoch's row."""

    def prepare_load(self, net: nn.Module, state: dict[str, Any]) -> None:
        """Bring the network to the stage at which `state` was saved, before its weights are loaded."""

    def deploy(self, net: nn.Module, calibration: Iterable[Tensor]) -> nn.Module:
        """The network that is tested: the same, the amplitudes of its spikes made part of the weights."""
        return fold_amplitudes(net)

    def ann(self, net: nn.Module, calibration: Iterable[Tensor]) -> nn.Module | None:
        """The network of continuous units beside a trained one, scored as `test/acc_ann`; None where there is none.

        `calibration` are encoded batches of training data.
        """
        return None

    def param_groups(self, net: nn.Module) -> Iterable[Any]:
        """What the optimiser gets: all parameters, those that must not decay in a group without weight decay."""
        free = {
            id(getattr(neuron, name))
            for neuron in net.modules()
            if isinstance(neuron, Neuron)
            for name in neuron.undecayed
        }
        if self.decay_weights_only:
            free |= {id(p) for p in net.parameters()} - {id(w) for w in weights(net)}
        parameters = list(net.parameters())
        spared = [p for p in parameters if id(p) in free]
        if not spared:
            return parameters
        decaying = [p for p in parameters if id(p) not in free]
        return [{"params": decaying}, {"params": spared, "weight_decay": 0.0}]


def weights(net: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of all synapses, recurrent ones too, without biases."""
    for _, layer in layers(net):
        for synapse in (layer.synapse, layer.recurrent):
            for name, p in synapse.named_parameters() if synapse is not None else ():
                if (
                    name.removesuffix(".original").rpartition(".")[2] == "weight"
                ):  # bounded ones, too
                    yield p


class BPTT(Rule):
    r"""Backpropagation through time with surrogate gradients.

    $$\frac{\partial L}{\partial W} = \sum_t \frac{\partial L}{\partial h_t} \frac{\partial h_t}{\partial W}, \qquad
      \frac{\partial s_t}{\partial h_t} := \sigma'(h_t - \theta)$$

    **Arguments:**

    - `truncate`: let gradients flow back over at most one chunk of this many steps; 0 for the whole sequence. The
      forward pass is the same, but for `norm=batch`, which takes its statistics over a chunk.

    Neftci, Mostafa & Zenke, *Surrogate gradient learning in spiking neural networks*, 2019; truncation: Williams &
    Peng 1990.
    """

    needs = frozenset({"stepped"})

    def __init__(self, truncate: int = 0):
        super().__init__()
        if truncate < 0:
            raise ValueError(
                f"rule.truncate must be 0 (whole sequence) or a number of steps, got {truncate}."
            )
        self.truncate = truncate

    def loss(self, learner: Learning, x: Tensor, y: Tensor) -> Tensor:
        """The criterion of the whole sequence."""
        if not self.truncate:
            return super().loss(learner, x, y)
        with carry(learner.net, detach=True):
            return learner.score(learner(x, self.truncate), y)
