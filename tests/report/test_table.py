"""Published tables: those that come with snnrun hold what their sources say, and a wrong one is told of."""

import pytest

from snnrun.check import composed
from snnrun.config import CONF, BadRequest, Choices
from snnrun.report.table import Row, keys, load

CHOICES = Choices()
ROWS = [(key, row) for key in keys(CHOICES) for row in load(CHOICES, key).rows.values()]


def test_the_tables_that_come_with_snnrun():
    assert {"reset_bptt", "sew_resnet", "tssl"} <= set(keys(CHOICES))
    assert keys(CHOICES) == sorted(path.stem for path in (CONF / "paper").iterdir())


@pytest.mark.parametrize(("key", "row"), ROWS, ids=lambda value: getattr(value, "name", value))
def test_a_row_is_sound(key, row):
    assert row.status in ("log", "readme", "paper", "second-hand", "recalled", None)
    assert bool(row.status) == bool(row.reported)
    assert row.dataset and row.network and row.cost
    assert row.steps or key == "stdbp"  # which computes with spike times
    if row.compare == "best_test":
        assert {"dataset.val_size=0", "test_every_epoch=true"} <= set(row.overrides)
    if row.band and row.known:
        target = row.known[row.against]
        assert row.reached(target) and not row.reached(target - 10)


EXPERIMENTS = CHOICES.options("experiment")


@pytest.mark.parametrize("key", keys(CHOICES))
def test_the_experiments_of_a_table(key):
    for row in load(CHOICES, key).rows.values():
        if not any(name.startswith(f"{key}/") for name in EXPERIMENTS):
            pytest.skip(f"there are no experiments {key}/...")
        assert row.experiment in EXPERIMENTS, row.name
        assert CHOICES.load("experiment", row.experiment)["dataset"].get("steps") == row.steps


@pytest.mark.parametrize("key", keys(CHOICES))
def test_a_row_composes(key):
    """One of each way to change an experiment; `check --all` composes every row."""
    rows = {tuple(r.overrides): r for r in load(CHOICES, key).rows.values()}
    for row in rows.values():
        if row.experiment in EXPERIMENTS:
            cfg = composed(CHOICES, row.words, warn=False)
            on_all = row.compare != "best_val"
            assert (cfg.dataset.val_size == 0) == on_all
            # of a rule that tests another network than it trains, only the last epoch is tested
            assert bool(cfg.test_every_epoch) == (on_all and row.compare != "last")


def test_reported_numbers_of_tssl():
    rows = load(CHOICES, "tssl").rows
    told = {
        name: tuple(row.reported.get(k) for k in ("mean", "std", "best"))
        for name, row in rows.items()
    }
    assert told["mnist_cnn"] == (99.50, 0.02, 99.53)
    assert told["nmnist_t100"] == (99.35, 0.03, 99.40)
    assert told["nmnist_t30"] == (99.23, 0.05, 99.28)
    assert told["fashion_mnist_mlp"] == told["fashion_mnist_mlp_2020"] == (89.75, 0.03, 89.80)
    assert told["fashion_mnist_cnn"] == (92.69, 0.09, 92.83)
    assert told["cifar10_cnn1"] == (88.98, 0.27, 89.22)
    assert told["cifar10_cnn2"] == (None, None, 91.41)


def test_recalled_numbers_are_not_known():
    row = Row("r", "e", reported={"best": 95.49}, status="recalled", band={"at_least": 1})
    assert row.known == {} and row.against is None and row.reached(99) is None


@pytest.mark.parametrize(
    ("row", "value", "reached"),
    [
        (Row("r", "e", band={"at_least": 89.3}), 89.296, True),  # as it is printed
        (Row("r", "e", band={"at_least": 89.3}), 89.29, False),
        (Row("r", "e", reported={"mean": 90, "best": 91}, band={"within": 0.3}), 90.3, True),
        (Row("r", "e", reported={"mean": 90, "best": 91}, band={"within": 0.3}), 90.31, False),
        (Row("r", "e", reported={"mean": 90, "best": 91}, band={"within": 0.3}), 89.69, False),
        (Row("r", "e", reported={"best": 91}), 91, None),
    ],
)
def test_what_counts_as_reproduced(row, value, reached):
    assert row.reached(value) is reached


@pytest.mark.parametrize(
    ("compare", "reported", "against"),
    [
        ("best_test", {"mean": 1, "best": 2, "last": 3}, "mean"),
        ("best_test", {"best": 2, "last": 3}, "best"),
        ("last", {"best": 2, "last": 3}, "last"),
        ("last", {"mean": 1}, "mean"),
        ("best_test", {"last": 3}, None),
        ("best_test", {}, None),
    ],
)
def test_like_is_compared_with_like(compare, reported, against):
    assert Row("r", "e", reported=reported, compare=compare, status="log").against == against


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {}}", "rows.a: it must name its experiment"),
        ("rows: {}", "it has no rows"),
        ("rows: {a: {experiment: e, seed: [1]}}", "there is no key 'seed'. Did you mean seeds?"),
        ("titel: x\nrows: {a: {experiment: e}}", "there is no key 'titel'. Did you mean title?"),
        ("rows: {a: {experiment: e, reported: {mean: x}}}", "reported must hold numbers"),
        ("rows: {a: {experiment: e, reported: {mena: 1}}}", "no key 'mena'. Did you mean mean?"),
        ("rows: {a: {experiment: e, reported: {mean: 1}}}", "rows.a: status must be log, readme"),
        ("rows: {a: {experiment: e, compare: best}}", "compare must be best_test, last, best_val"),
        ("rows: {a: {experiment: e, band: {within: 1}}}", "within: x of what was reported"),
        ("rows: {a: {experiment: e, seeds: []}}", "seeds must be a list of numbers"),
        ("rows: {a: {experiment: e, overrides: x=1}}", "overrides must be a list"),
        ("rows: {a/b: {experiment: e}}", "made of letters, digits and underscores"),
        ("rows: {a: {experiment: e: f}}", "cannot be read: while parsing a flow mapping"),
    ],
)
def test_a_wrong_table_is_told_of(text, message, tmp_path):
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "wrong.yaml").write_text(text)
    with pytest.raises(BadRequest) as error:
        load(Choices([str(tmp_path)]), "wrong")
    assert message in str(error.value) and "wrong.yaml" in str(error.value)
