from snnrun.dataset import Digits


def test_the_embedded_digits():
    data = Digits("nowhere", steps=4, batch_size=64)
    data.prepare_data()
    data.setup()
    assert [len(data.indices[name]) for name in ("train", "val", "test")] == [1293, 144, 360]
    every = [data.samples[name][range(n)][0] for name, n in (("train", 1437), ("test", 360))]
    assert all(x.shape[1:] == data.shape for x in every)
    digits = {tuple(x.flatten().tolist()) for part in every for x in part}
    assert len(digits) == 1797  # no digit twice, none in both parts
    x = data.transform(every[0], True)
    assert x.min() == 0 and x.max() == 1
    assert data.samples["test"].targets.bincount().min() > 20
