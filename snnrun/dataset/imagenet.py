"""ImageNet: photographs in a folder for each class, decoded when they are needed."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnrun.dataset.base import CorruptData, DataModule, Samples, Split, reading

PUBLISHED = {
    "train": "1,281,167 images, published in ILSVRC2012_img_train.tar, MD5 1d675b47d978889d74fa0da5fadfb00e",
    "val": "50,000 images, published in ILSVRC2012_img_val.tar, MD5 29b22e2961454d5413ddabcf34fc5622",
}


class Pictures:
    """Image files, decoded and cut to one size a batch at a time.

    What is drawn at random depends on the seed and the batch alone, whichever process reads it; a batch has the same
    samples in another epoch by chance only.

    **Arguments:**

    - `files`: the images and their classes.
    - `cut`: an image to a tensor of bytes.
    - `seed`: of what is drawn.
    """

    def __init__(
        self,
        files: Sequence[tuple[str, int]],
        cut: Callable[[Any], Tensor],
        seed: int,
    ):
        self.files, self.cut, self.seed = files, cut, seed
        self.targets = torch.tensor([label for _, label in files])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        from PIL import Image

        batch = np.array([self.seed, *indices], "<i8")
        images = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(batch.tobytes()))
            for i in indices:
                path = Path(self.files[i][0])
                with reading(path), Image.open(path) as image:
                    images.append(self.cut(image.convert("RGB")))
        return torch.stack(images), self.targets[torch.as_tensor(indices)]


class ImageNet(DataModule):
    """Photographs of a thousand things, 1,281,167 + 50,000, the latter published as validation data.

    Training images are cut out at random (8 to 100 % of the area) and mirrored, others resized and cut out of the
    middle. Loader processes (`num_workers`) decode them. Images lie in `ImageNet/train/<class>` and
    `ImageNet/val/<class>`; classes are numbered in the order of their folders' names.

    **Arguments:** those of `DataModule`, and

    - `size`: side of an image.
    - `resize`: shorter side before the middle is cut out in evaluation.
    - `classes`: number of classes, for a subset.

    Russakovsky et al., *ImageNet Large Scale Visual Recognition Challenge*, 2015; cutting: Szegedy et al. 2015.
    """

    traits = frozenset({"static", "spatial"})
    places = ("ImageNet/train/*/*", "ImageNet/val/*/*")
    option = "imagenet"

    def __init__(
        self,
        root: str,
        *,
        size: int = 224,
        resize: int = 256,
        classes: int = 1000,
        **common: Any,
    ):
        super().__init__(root, **common)
        if self.folds:
            raise ValueError(
                "dataset.folds must be 0 with dataset=imagenet: training images are cut otherwise than test images."
            )
        if not 0 < size <= resize:
            raise ValueError(
                f"dataset.size must be at least 1 and at most dataset.resize, got {size} and {resize}."
            )
        self.size, self.resize = size, resize
        self.shape, self.num_classes = (3, size, size), classes
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1)

    @property
    def folder(self) -> Path:
        """The folder of this data set."""
        return Path(self.root, type(self).__name__)

    def missing(self) -> str:
        """The splits without images."""
        lost = {
            f"{split}/<class>/*.JPEG": detail
            for split, detail in PUBLISHED.items()
            if not next(self.folder.glob(f"{split}/*/*"), None)
        }
        if not lost:
            return ""
        width = max(map(len, lost))
        lines = [f"dataset={self.option}: images are missing in {self.folder.absolute()}:"]
        lines += [f"  {name:{width}}  {detail}" for name, detail in lost.items()]
        return "\n".join(
            [
                *lines,
                "Get them from https://image-net.org, which asks for a registration, unpack them into a folder for each"
                " class, and set paths.data=DIR, or the environment variable SNNRUN_DATA, to the folder that holds"
                " ImageNet.",
            ]
        )

    def setup(self, stage: str | None = None) -> None:
        """List the files; validation data are a part of the training split that is cut as test data are."""
        if self.samples:
            return
        super().setup(stage)
        kept = self.samples["train"]
        assert isinstance(kept, Pictures)
        self.samples["val"] = Pictures(kept.files, self._cut(False), self.seed)

    def load(self, split: Split) -> Samples:
        """List the images of a split."""
        from torchvision.datasets import ImageFolder

        place = self.folder / ("train" if split == "train" else "val")
        with reading(place):
            found = ImageFolder(str(place))
        if len(found.classes) != self.num_classes:
            raise CorruptData(
                f"{place} holds {len(found.classes)} folders of classes, not {self.num_classes}; for a subset set"
                " dataset.classes."
            )
        return Pictures(found.samples, self._cut(split == "train"), self.seed)

    def _cut(self, train: bool) -> Callable[[Any], Tensor]:
        from torchvision.transforms import v2

        steps = (
            [v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip()]
            if train
            else [v2.Resize(self.resize, antialias=True), v2.CenterCrop(self.size)]
        )
        return v2.Compose([*steps, v2.PILToTensor()])

    def transform(self, x: Tensor, train: bool) -> Tensor:
        """Floats, with the mean and the deviation of each channel taken out."""
        return (x.float() / 255 - self.mean.to(x.device)) / self.std.to(x.device)
