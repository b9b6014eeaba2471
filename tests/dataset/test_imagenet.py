"""A made folder of pictures in ImageNet's layout."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from snnrun.dataset import CorruptData, ImageNet, MissingData

OPTIONS: dict[str, Any] = {"steps": 4, "batch_size": 4, "size": 24, "resize": 28, "classes": 3}
CLASSES = ("n02", "n01", "n10")


@pytest.fixture
def root(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for split, n in (("train", 6), ("val", 2)):
        for number, name in enumerate(CLASSES):
            folder = tmp_path / "ImageNet" / split / name
            folder.mkdir(parents=True)
            for k in range(n):
                shape = (30 + 7 * k, 50 - 3 * k, *([3] if k else []))  # the first one is grey
                pixels = random.integers(0, 256, shape, np.uint8) // (number + 1)
                Image.fromarray(pixels).save(folder / f"{name}_{k}.JPEG", quality=95)
    return tmp_path


def made(root: Path, **options: Any) -> ImageNet:
    module = ImageNet(str(root), **{**OPTIONS, **options})
    module.setup()
    return module


def test_splits_and_labels(root):
    module = made(root, val_size=4)
    assert [len(module.indices[name]) for name in ("train", "val", "test")] == [14, 4, 6]
    assert module.samples["test"].targets.tolist() == [0, 0, 1, 1, 2, 2]
    first = module.samples["test"].files[0][0]
    assert Path(first).parts[-3:] == ("val", "n01", "n01_0.JPEG")
    assert module.shape == (3, 24, 24) and module.num_classes == 3
    assert ImageNet("nowhere", steps=4, batch_size=4).shape == (3, 224, 224)


def test_test_images_are_resized_and_cut_out_of_the_middle(root):
    module = made(root)
    x, y = module.samples["test"][[0, 3]]
    assert x.shape == (2, 3, 24, 24) and x.dtype == torch.uint8 and y.tolist() == [0, 1]
    with Image.open(module.samples["test"].files[3][0]) as image:  # 37 high, 47 wide
        assert image.size == (47, 37)
        small = image.convert("RGB").resize((35, 28), Image.Resampling.BILINEAR)
    expected = np.asarray(small)[2:26, 6:30].transpose(2, 0, 1).astype(int)
    assert np.abs(x[1].numpy().astype(int) - expected).max() <= 1
    assert torch.equal(x, module.samples["test"][[0, 3]][0])
    z = module.transform(x, False)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z[0, 1, 0, 0].item(), (x[0, 1, 0, 0].item() / 255 - 0.456) / 0.224)


def test_training_images_are_drawn_by_seed_and_batch_alone(root):
    module = made(root, val_size=4)
    train, held = module.samples["train"], module.samples["val"]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    x, _ = train[[0, 1, 2]]
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(train[[0, 1, 2]][0], x)
    assert not torch.equal(train[[1, 0, 2]][0][[1, 0, 2]], x), "another batch, other draws"
    other = ImageNet(str(root), val_size=4, **OPTIONS)
    other.seed = 1
    other.setup()
    assert not torch.equal(other.samples["train"][[0, 1, 2]][0], x)
    assert not torch.equal(held[[0, 1, 2]][0], x)
    assert torch.equal(held[[1, 0]][0][[1, 0]], held[[0, 1]][0]), "validation images are not drawn"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_processes_give_the_same_batches(root, num_workers):
    module, alone = made(root, num_workers=num_workers, val_size=0), made(root, val_size=0)
    batches = list(zip(module.train_dataloader(), alone.train_dataloader(), strict=True))
    assert len(batches) == 5
    for one, two in batches:
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_missing_images(tmp_path):
    module = ImageNet(str(tmp_path), download=True, **OPTIONS)
    module.prepare_data()
    with pytest.raises(MissingData) as error:
        module.setup()
    lines = str(error.value).splitlines()
    assert lines[0] == f"dataset=imagenet: images are missing in {tmp_path / 'ImageNet'}:"
    assert re.fullmatch(
        r"  train/<class>/\*\.JPEG  1,281,167 images, .* MD5 [0-9a-f]{32}", lines[1]
    )
    assert re.fullmatch(r"  val/<class>/\*\.JPEG    50,000 images, .* MD5 [0-9a-f]{32}", lines[2])
    assert "registration" in lines[3] and len(lines) == 4


def test_damaged_and_wrong_folders(root):
    place = root / "ImageNet" / "val"
    with pytest.raises(CorruptData) as error:
        made(root, classes=1000)
    assert str(error.value) == (
        f"{root / 'ImageNet/train'} holds 3 folders of classes, not 1000; for a subset set"
        " dataset.classes."
    )
    path = place / "n01" / "n01_1.JPEG"
    path.write_bytes(path.read_bytes()[:100])
    before = path.read_bytes()
    with pytest.raises(CorruptData, match=rf"^{re.escape(str(path))} is truncated or damaged \("):
        made(root).samples["test"][[0, 1]]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5}, "dataset.folds must be 0 with dataset=imagenet"),
        ({"size": 32}, "dataset.size must be at least 1 and at most dataset.resize, got 32 and 28"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ImageNet("data", **{**OPTIONS, **options})
