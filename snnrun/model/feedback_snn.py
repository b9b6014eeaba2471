"""A chain of populations with feedback from the last to the first."""

import math
import re
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnrun.encoder.profile import flat
from snnrun.model.layers import Dropout, HeadFactory, Layer, NeuronFactory, NormFactory
from snnrun.neuron.base import recall, remember, stepping

_WORD = re.compile(
    r"(?P<channels>[1-9]\d*)C(?P<kernel>[1-9]\d*)((?P<stride>s[1-9]\d*)|(?P<padding>p\d+))*"
    r"|P(?P<pool>[1-9]\d*)|(?P<dense>[1-9]\d*)|(?P<drop>D)"
)
Init = Literal["torch", "unit", "kaiming"]


class FeedbackSNN(nn.Module):
    r"""A chain of spiking populations: the input drives the first, each drives the next, the last drives the first.

    $$I_0[t] = F(x[t]) + W_{L-1} s_{L-1}[t-1], \qquad I_i[t] = W_{i-1} s_{i-1}[t]$$

    Within a step spikes run through the whole chain; the feedback comes one step late. With one population it is
    recurrent weights. Written as papers write it, `64C5s2-64C5s2-64C5`: the first word is F, a word a population. Words
    are convolutions (`15C5`, `15C5s2p1`: stride 2, padding 1), average pools whose output fires (`P2`), dense layers
    (`300`) and places of dropout (`D`).

    **Arguments:**

    - `neuron`, `norm`, `head`: factories; the runner passes them.
    - `in_shape`, `num_classes`: shape of one step of one sample, and number of classes; the runner passes them.
    - `spec`: the populations.
    - `feedback`: side of the kernel of the feedback convolution, which is a transposed one where the last population is
      smaller than the first; any number but 0 for dense populations; 0 for no feedback.
    - `dropout`: probability of dropping a spike, the same at every step: in every population but pools, or at each `D`
      if the spec has any.
    - `bias`: give all maps but the feedback a bias.
    - `init`: `kaiming`: normal, by fan-in; `unit`: rows uniform in (-1, 1) and of norm 1; both without biases; or
      `torch`'s own, under which small networks stay silent.
    - `feedback_scale`: factor on the initial feedback weights.

    Xiao et al., *Training feedback spiking neural networks by implicit differentiation on the equilibrium state*,
    NeurIPS 2021.
    """

    traits = frozenset({"feedback"})
    traits_if = {("feedback", 0): {"feedforward"}}

    def __init__(
        self,
        neuron: NeuronFactory,
        norm: NormFactory,
        head: HeadFactory,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        spec: str | int = "16C3s2-32C3-32C3",
        feedback: int = 3,
        dropout: float = 0.0,
        bias: bool = True,
        init: Init = "kaiming",
        feedback_scale: float = 1.0,
    ):
        super().__init__()
        if init not in ("torch", "unit", "kaiming"):
            raise ValueError(f"model.init must be torch, unit or kaiming, got {init!r}.")
        if feedback < 0 or (feedback and feedback % 2 == 0):
            raise ValueError(f"model.feedback must be 0 or an odd number, got {feedback}.")
        shape, first = in_shape, None
        source: Layer | None = None
        body: list[nn.Module] = []
        words = str(spec).split("-")
        for word in words:
            found = _WORD.fullmatch(word)
            if not found or (first is None and (found["pool"] or found["drop"])):
                raise ValueError(
                    f"model.spec: cannot read {word!r} in {spec!r}. Words are convolutions (15C5, 15C5s2p1),"
                    " average pools (P2), dense layers (300) and dropout (D); the first is no pool and no dropout."
                )
            if found["drop"]:
                body.append(Dropout(dropout))
                continue
            if found["dense"] and len(shape) == 3 and source:
                body.append(nn.Flatten(2))
            synapse, shape = made(found, shape, bias)
            if min(shape) < 1:
                raise ValueError(
                    f"model.spec: nothing is left of the image {in_shape} after {word!r} in {spec!r}."
                )
            normed = None if found["pool"] else norm(shape[0])
            if source is None:
                source, first = Layer(synapse, normed, None), shape
                synapse, normed = nn.Identity(), None
            body.append(Layer(synapse, normed, neuron(shape[0])))
            if dropout and not found["pool"] and "D" not in words:
                body.append(Dropout(dropout))
        assert source is not None and first is not None
        self.input, self.body = source, nn.Sequential(*body)
        back = returning(shape, first, feedback) if feedback else None
        self.feedback = None if back is None else Layer(back, None, None)
        self.head = head(math.prod(shape), num_classes)
        if init != "torch":
            for layer in (self.input, *self.body, self.feedback):
                if isinstance(layer, Layer):
                    draw(layer.synapse, init)
        if back is not None and feedback_scale != 1:
            with torch.no_grad():
                back.weight.mul_(feedback_scale)

    def forward(self, x: Tensor) -> Tensor:
        """`(T, B, ...)` to `(T, B, num_classes)`."""
        current = self.input(flat(x) if isinstance(self.input.synapse, nn.Linear) else x)
        spikes = self.body(current) if self.feedback is None else self._loop(current, self.feedback)
        return self.head(spikes.flatten(2))

    def _loop(self, current: Tensor, feedback: Layer) -> Tensor:
        carried = recall(self)
        last = carried[0] if carried else None
        out = []
        with stepping(), parametrize.cached():
            for current_t in current.split(1):
                last = self.body(current_t if last is None else current_t + feedback(last))
                out.append(last)
        if last is not None:
            remember(self, (last,))
        return torch.cat(out)


def made(
    word: re.Match[str], shape: tuple[int, ...], bias: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """The map that a word of the spec stands for, and the shape of what it drives."""
    if word["dense"]:
        size = int(word["dense"])
        return nn.Linear(math.prod(shape), size, bias=bias), (size,)
    if len(shape) != 3:
        raise ValueError(
            f"model.spec: {word[0]!r} needs an image (C, H, W), but what it reads has the shape {shape}."
        )
    if word["pool"]:
        size = int(word["pool"])
        return nn.AvgPool2d(size), (shape[0], *(side // size for side in shape[1:]))
    channels, kernel = int(word["channels"]), int(word["kernel"])
    stride = int((word["stride"] or "s1")[1:])
    padding = int(word["padding"][1:]) if word["padding"] else kernel // 2
    sides = ((side + 2 * padding - kernel) // stride + 1 for side in shape[1:])
    return nn.Conv2d(shape[0], channels, kernel, stride, padding, bias=bias), (channels, *sides)


def returning(
    last: tuple[int, ...], first: tuple[int, ...], kernel: int
) -> nn.Linear | nn.Conv2d | nn.ConvTranspose2d:
    """The feedback map between two shapes, without bias. Raises `ValueError` where there is none."""
    if len(last) == len(first) == 1:
        return nn.Linear(last[0], first[0], bias=False)
    pad = kernel // 2
    if len(last) == len(first):
        stride = -(-first[1] // last[1])
        missing = [
            big - (small - 1) * stride - 1 for big, small in zip(first[1:], last[1:], strict=True)
        ]
        if stride == 1 and not any(missing):
            return nn.Conv2d(last[0], first[0], kernel, padding=pad, bias=False)
        if all(0 <= side < stride for side in missing):
            options = {"stride": stride, "padding": pad, "output_padding": tuple(missing)}
            return nn.ConvTranspose2d(last[0], first[0], kernel, **options, bias=False)
    raise ValueError(
        f"model.feedback: there is no feedback from a population of the shape {last} to one of {first}."
        " Set model.feedback=0, or end the spec with a convolution."
    )


@torch.no_grad()
def draw(synapse: nn.Module, init: Init) -> None:
    """Draw the weights of a map, filter by filter, and set its bias to 0."""
    if not isinstance(synapse, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return
    if synapse.bias is not None:
        synapse.bias.zero_()
    weight = synapse.weight
    if isinstance(synapse, nn.ConvTranspose2d):  # (in, out, ...)
        weight = weight.transpose(0, 1)
    if init == "kaiming":
        weight.normal_(0, math.sqrt(2 / weight[0].numel()))
        return
    weight.uniform_(-1, 1)
    weight.div_(weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1)))
