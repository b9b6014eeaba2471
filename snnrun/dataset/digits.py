"""The embedded data set."""

import torch
from torch import Tensor

from snnrun.dataset.base import DataModule, InMemory, Samples, Split


class Digits(DataModule):
    """1,797 handwritten digits of 8x8 pixels, shipped with scikit-learn; nothing is downloaded.

    scikit-learn has no test split; 360 digits, drawn once with a fixed seed, are ours.

    **Arguments:** see `DataModule`.

    Alpaydin & Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998 (its test part).
    """

    traits = frozenset({"static", "spatial", "intensity"})
    option = "digits"
    shape = (1, 8, 8)
    num_classes = 10

    def load(self, split: Split) -> Samples:
        """Read the digits from the installed scikit-learn."""
        from sklearn.datasets import load_digits

        data, target = load_digits(return_X_y=True)
        order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1797))
        picked = order[360:] if split == "train" else order[:360]
        x = torch.from_numpy(data).to(torch.uint8).view(-1, *self.shape)
        return InMemory(x[picked], torch.from_numpy(target).long()[picked])

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Scale the sixteen grey levels to 0..1."""
        return x.float() / 16
