"""Linear layers that read only the inputs that fire, beside the matrix product: forward and backward, one thread.

    python scripts/compare_events.py [--rows 8000] [--inputs 512] [--outputs 512] [--repeats 7]

Both alternate in one process, on the same inputs; process time, medians.
`first layer`: no gradient of the input is wanted.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnrun.model.events import linear_of_events


def seconds(run: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> float:
    """Process time of one forward and backward pass."""
    x.grad = None
    begun = time.process_time()
    run(x).backward(grad)
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in (("rows", 8000), ("inputs", 512), ("outputs", 512), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    told = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layer, grad = nn.Linear(told.inputs, told.outputs), torch.randn(told.rows, told.outputs)
    print("share  layer        product    events  ratio")
    for share in (0.01, 0.03, 0.05, 0.1, 0.15):
        x = (torch.rand(told.rows, told.inputs) < share).float()
        for name, wanted in (("inner", True), ("first layer", False)):
            x.requires_grad_(wanted)
            runs = layer, lambda x: linear_of_events(layer, x)
            pairs = [[seconds(run, x, grad) for run in runs] for _ in range(told.repeats + 1)][1:]
            dense, events = (statistics.median(column) for column in zip(*pairs, strict=True))
            told_apart = f"{1e3 * dense:7.1f} ms {1e3 * events:6.1f} ms  {dense / events:.2f}"
            print(f"{share:<6.2f} {name:<12} {told_apart}")


if __name__ == "__main__":
    main()
