"""Where training breaks: the first layer whose output is not finite, and the weights that are not."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

REMEDY = " Try a smaller optimizer.lr, trainer.gradient_clip_val=1, or trainer.precision=32."


class NotFinite(FloatingPointError):
    """The loss or a weight is NaN or infinite; the message names the layer where it began."""


def broken_weights(net: nn.Module) -> list[str]:
    """The parameters that hold NaN or infinity."""
    return [name for name, p in net.named_parameters() if not torch.isfinite(p).all()]


def check_weights(net: nn.Module, where: str) -> None:
    """Raise `NotFinite` if a weight is: in a hidden layer it never reaches the loss, as its neurons just do not fire.

    **Arguments:**

    - `net`: the network.
    - `where`: in training it is, in words.
    """
    if broken := broken_weights(net):
        raise NotFinite(
            f"{broken[0]} is not finite {where}, though the loss is: a step was too long.{REMEDY}"
        )


@torch.no_grad()
def traced(
    net: nn.Module, run: Callable[[], object], loss: float, where: str, *, times: bool
) -> NotFinite:
    """What is wrong with a loss: the layer where it began, found by another forward pass.

    **Arguments:**

    - `net`: the network.
    - `run`: sends the batch through it once more.
    - `loss`: NaN or infinite.
    - `where`: in training it is, in words.
    - `times`: whether layers exchange spike times, of which an infinite one is silence.
    """
    first: list[str] = []

    def check(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, out: Any) -> None:
            if not first and isinstance(out, Tensor):
                sound = ~out.isnan() if times else out.isfinite()
                if not sound.all():
                    first.append(name)

        return hook

    hooks = [m.register_forward_hook(check(name)) for name, m in net.named_modules() if name]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if not first:
        return NotFinite(
            f"The loss is {loss} {where}, though every layer's output is finite: look at the loss and the readout."
        )
    weights = broken_weights(net.get_submodule(first[0]))
    cause = (
        f"its {', '.join(weights)} is not finite: a step was too long"
        if weights
        else "its weights are finite"
    )
    return NotFinite(
        f"The loss is {loss} {where}. The first layer whose output is not finite is {first[0]}; {cause}.{REMEDY}"
    )
