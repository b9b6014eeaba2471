"""`snnrun report`: the same groups as Markdown, CSV, JSON and a page that fetches nothing."""

import csv
import io
import json
import re
from pathlib import Path

import pytest

from snnrun.config import BadRequest
from snnrun.report import report


@pytest.fixture(scope="module")
def sweep(put, tmp_path_factory) -> Path:
    """Two settings of two values and three seeds each, a failed run, and learning curves."""
    place = tmp_path_factory.mktemp("sweep")
    losses = {(2.0, 0.1): 0.3, (2.0, 0.2): 0.4, (3.0, 0.1): 0.5, (3.0, 0.2): 0.6}
    for (tau, lr), loss in losses.items():
        for seed in (1, 2, 3):
            name = f"{tau},{lr},{seed}"
            acc = 100 - 10 * loss + [0, 0.5, -0.4][seed - 1] * (1 + tau + lr)
            run = put(
                place / name,
                seed,
                loss=loss + seed / 100,
                acc=acc,
                neuron__tau=tau,
                optimizer__lr=lr,
            )
            (run / "metrics.csv").write_text(
                f"step,epoch,val/loss,test/acc\n1,0,{loss},{acc}\n2,1,0.1,95\n"
            )
    put(
        place / "z",
        1,
        status="failed",
        error="<b>no</b> memory",
        neuron__tau=4.0,
        optimizer__lr=0.1,
    )
    return place


def said(capsys, *words: str) -> str:
    assert report.main([*words]) == 0
    return capsys.readouterr().out


def rows(markdown: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in line] for line in lines if line[0] != "---"]


def test_markdown(sweep, capsys):
    text = said(capsys, str(sweep))
    head, *body = rows(text)
    assert head[:8] == [
        "#",
        "neuron.tau",
        "optimizer.lr",
        "runs",
        "val/loss",
        "test/acc",
        "difference",
        "p",
    ]
    assert [line[1:4] for line in body] == [
        ["2", "0.1", "3"],
        ["2", "0.2", "3"],
        ["3", "0.1", "3"],
        ["3", "0.2", "3"],
    ]
    assert body[0][4] == "0.3200 ± 0.0100 [0.2952, 0.3448]"
    assert body[0][6] == "baseline" and body[1][6] == "-1.00"
    assert f"\n{' ' * 4}snnrun -m neuron.tau=2.0 optimizer.lr=0.1 seed=1,2,3\n" in text
    assert text.endswith(
        "## Failures (1)\n\n- "
        + f"{sweep}/z (failed; neuron.tau=4 optimizer.lr=0.1): <b>no</b> memory\n"
    )
    assert "12 runs completed, 1 failed; 4 settings" in text
    assert "Sorted by val/loss, by which checkpoints were chosen" in text


def test_csv_and_json_say_the_same(sweep, tmp_path, capsys):
    names = [tmp_path / "new" / f"report.{suffix}" for suffix in ("csv", "json", "md")]
    out = said(capsys, str(sweep), f"out={','.join(map(str, names))}")
    assert out.split() == [str(name) for name in names]
    lines = list(csv.DictReader(io.StringIO(names[0].read_text())))
    content = json.loads(names[1].read_text())
    assert names[2].read_text() == said(capsys, str(sweep), "format=markdown")
    assert len(lines) == len(content["rows"]) == 4
    for line, entry in zip(lines, content["rows"], strict=True):
        assert float(line["neuron.tau"]) == entry["settings"]["neuron.tau"]
        for metric in ("val/loss", "test/acc"):
            for part in ("mean", "std", "low", "high"):
                assert float(line[f"{metric}_{part}"]) == entry["metrics"][metric][part]
        assert line["seeds"] == "1 2 3" and entry["n"] == 3 and len(entry["runs"]) == 3
        assert line["command"] == entry["command"]
    assert content["best"]["command"] == lines[0]["command"]
    assert content["sorted_by"] == {"metric": "val/loss", "mode": "min"}
    (failure,) = content["failures"]
    assert (failure["status"], failure["error"]) == ("failed", "<b>no</b> memory")
    assert [entry["test"] for entry in content["rows"]] == [None, *["paired t"] * 3]


@pytest.mark.parametrize(
    ("word", "row"),
    [
        ("best", 1),
        ("none", None),
        ("3", 3),
        ("neuron.tau=3,optimizer.lr=2e-1", 4),
        ("neuron=lif,optimizer.lr=0.1,neuron.tau=2.0", 1),
        ("FOLDER/2.0,0.2,3", 2),
    ],
)
def test_baseline(word, row, sweep, capsys):
    word = word.replace("FOLDER", str(sweep))
    content = json.loads(said(capsys, str(sweep), f"baseline={word}", "format=json"))
    assert content["baseline"] == row
    compared = [n for n, entry in enumerate(content["rows"], 1) if entry["difference"] is not None]
    assert compared == [n for n in range(1, 5) if row not in (None, n)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Usage: snnrun report DIR"),
        (["nowhere"], "There is no folder nowhere."),
        (["DIR", "bseline=best"], "report has no setting 'bseline'. Did you mean baseline"),
        (["DIR", "format=pdf"], "format must be markdown, csv, json, html; got pdf."),
        (["DIR", "out=a.pdf"], "out=a.pdf: end it with .md"),
        (["DIR", "score=test/ac"], "No run has 'test/ac'. Did you mean test/acc"),
        (["DIR", "baseline=7"], "baseline=7: there are rows 1 to 4."),
        (["DIR", "baseline=neuron.tau=2"], "baseline=neuron.tau=2 fits 2 rows; add settings"),
        (["DIR", "baseline=neuron.tau=9"], "baseline=neuron.tau=9 fits no row."),
        (
            ["DIR", "baseline=neuron.tua=2"],
            "baseline=neuron.tua=2: no run has 'neuron.tua'. Did you mean neuron.tau",
        ),
        (["DIR", "baseline=first"], "baseline=first: say best, none"),
        (["EMPTY"], "There are no runs in "),
    ],
)
def test_what_is_wrong_is_said(words, message, sweep, tmp_path):
    (tmp_path / "empty").mkdir()
    places = {"DIR": str(sweep), "EMPTY": str(tmp_path / "empty")}
    with pytest.raises(BadRequest) as caught:
        report.main([places.get(word, word) for word in words])
    assert str(caught.value).startswith(message)


def test_sorted_by_another_score(sweep, capsys):
    content = json.loads(said(capsys, str(sweep), "sort=ac", "score=val/loss", "format=json"))
    costs = [entry["costs"]["ac"]["mean"] for entry in content["rows"]]
    assert costs == sorted(costs) and content["sorted_by"] == {"metric": "ac", "mode": "min"}
    assert content["rows"][1]["difference"] == pytest.approx(-0.1)
    text = said(capsys, str(sweep), "sort=test/acc")
    assert "Caution: test/acc is of test data" in text


def test_a_search_without_test_data_is_reported_by_validation(put, tmp_path, capsys):
    for seed in (1, 2):
        for tau in (1.0, 2.0):
            run = put(tmp_path / f"{seed},{tau}", seed, loss=tau, neuron__tau=tau)
            result = json.loads((run / "result.json").read_text())
            result["metrics"] = {"val/loss": tau + seed / 7 * tau, "val/acc": 90 - tau - seed * tau}
            (run / "result.json").write_text(json.dumps(result))
    text = said(capsys, str(tmp_path))
    assert rows(text)[0][:5] == ["#", "neuron.tau", "runs", "val/loss", "val/acc"]
    assert "Caution: val/acc is of the data that rows and checkpoints were chosen by" in text
    assert "val/acc against synaptic operations" in said(capsys, str(tmp_path), "format=html")


def test_one_seed_each_says_that_nothing_is_known(put, tmp_path, capsys):
    put(tmp_path / "a", 1, neuron__tau=1.0), put(tmp_path / "b", 1, acc=80.0, neuron__tau=2.0)
    text = said(capsys, str(tmp_path))
    head = rows(text)[0]
    assert "difference" in head and "p" not in head
    assert "Whether it is chance takes several seeds to say" in text


def test_failures_alone_are_a_report(put, tmp_path, capsys):
    put(tmp_path / "a", 1, status="failed", error="no memory")
    for name in ("markdown", "json", "html"):
        assert "no memory" in said(capsys, str(tmp_path), f"format={name}")
    assert said(capsys, str(tmp_path), "format=csv") == "rank,n\n"


def test_a_page_stands_alone(sweep, capsys):
    text = said(capsys, str(sweep), "format=html")
    assert text.startswith("<!doctype html>")
    sources = re.findall(r'(?:src|href|url\()="?([^"\s)]+)', text)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "<script" not in text and "@import" not in text
    assert "&lt;b&gt;no&lt;/b&gt; memory" in text and "<b>" not in text
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert titles == [
        "Learning curves: validation loss",
        "Learning curves: test accuracy",
        "test/acc over neuron.tau and optimizer.lr",
        "test/acc against synaptic operations",
        "Firing rates by layer",
    ]
    assert text == said(capsys, str(sweep), "format=html")


def test_more_than_two_numbers_are_parallel_coordinates(put, tmp_path, capsys):
    for n in range(4):
        put(
            tmp_path / str(n),
            1,
            acc=90 + n,
            neuron__tau=n + 2.0,
            optimizer__lr=10.0**-n,
            ema=n / 10,
        )
    text = said(capsys, str(tmp_path), "format=html")
    assert "Settings and score" in text and "over neuron.tau" not in text


@pytest.mark.slow
def test_ten_thousand_runs_within_twenty_seconds(put, tmp_path, capsys):
    import time

    for n in range(10_000):
        put(tmp_path / str(n), n % 3, acc=n % 100, optimizer__lr=(n // 3 + 1) / 1e5)
    started = time.process_time()
    assert "10000 runs completed; 3334 settings" in said(capsys, str(tmp_path))
    assert time.process_time() - started < 20
