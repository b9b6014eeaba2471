"""The network that a run trained against the one that its rule deploys, on the whole test split.

    python scripts/compare_deployed.py RUN [key=value ...]

Prints how far their outputs are apart, for how many samples by more than 1e-5, and how many predictions differ. Where a
deployed network equals the trained one but for rounding, a potential next to its threshold may still end on its other
side: for a few samples in float32, hardly ever in float64.
"""

import sys

import torch

from snnrun.allocator import keep_freed_memory
from snnrun.launch import stored
from snnrun.run import build, load, quiet


def main(words: list[str]) -> None:
    """Load, deploy, compare."""
    quiet()
    keep_freed_memory()
    run, _ = stored(words, "eval")
    data, learner = build(run.cfg)
    best = run.checkpoints / "best.ckpt"
    load(learner, best if best.exists() else run.checkpoints / "last.ckpt")
    learner.eval()
    data.prepare_data()
    data.setup()
    print(
        "dtype     greatest difference  above 1e-5  other predictions  accuracy, trained and deployed"
    )
    for dtype in (torch.float32, torch.float64):
        net = learner.net.to(dtype)
        calibration = (
            learner.prepare(x, train=False).to(dtype) for x, _, _ in data.loader("train")
        )
        nets = net, learner.rule.deploy(net, calibration).eval()
        greatest, apart, other, right, total = 0.0, 0, 0, [0, 0], 0
        for x, y, _ in data.test_dataloader():
            with torch.no_grad():
                encoded = learner.encoder(learner.prepare(x, train=False).to(dtype))
                outs = [learner.readout(net(encoded)) for net in nets]
            difference = (outs[0] - outs[1]).abs().amax(1)
            classes = [out.argmax(1) for out in outs]
            greatest = max(greatest, float(difference.max()))
            apart += int((difference > 1e-5).sum())
            other += int((classes[0] != classes[1]).sum())
            right = [r + int((c == y).sum()) for r, c in zip(right, classes, strict=True)]
            total += len(y)
        scores = "  ".join(f"{100 * r / total:.2f} %" for r in right)
        name = str(dtype).removeprefix("torch.")
        print(f"{name:<9} {greatest:<20.3g} {apart:<11} {other:<18} {scores}   of {total:,}")


if __name__ == "__main__":
    main(sys.argv[1:])
