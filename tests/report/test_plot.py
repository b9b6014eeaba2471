"""`snnrun plot` on real runs: finished, failed, damaged, and folders that are none."""

import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from snnrun.report import plot, report

NAMES = ("curves", "spikes", "rates", "membrane", "confusion", "input", "steps", "overview")
WITHOUT_METRICS, WITHOUT_SNAPSHOT = (
    "curves, overview",
    "spikes, rates, membrane, confusion, input, steps",
)


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def said(capsys, *words: str) -> tuple[int, list[str], list[str]]:
    code = plot.main(list(words))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_every_picture_as_png_and_svg(run, warm):
    done = warm("plot", "run", cwd=run.parent)
    files = [f"plots/{name}.{suffix}" for name in NAMES for suffix in ("png", "svg")]
    assert done.stdout.splitlines() == files
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (run / "plots").iterdir()} == {Path(f).name for f in files}
    for name in NAMES:
        png = (run / "plots" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG\r\n") and png.endswith(b"IEND\xaeB`\x82")
        svg = ElementTree.parse(run / "plots" / f"{name}.svg").getroot()
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"


def test_drawn_again_the_bytes_are_the_same(run, capsys):
    drawn = []
    for _ in range(2):
        assert said(capsys, str(run))[0] == 0
        drawn.append({path.name: path.read_bytes() for path in (run / "plots").iterdir()})
        shutil.rmtree(run / "plots")
    assert drawn[0] == drawn[1]


def test_a_folder_that_is_no_run(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "nowhere"):
        assert said(capsys, str(tmp_path / name)) == (
            2,
            [],
            [
                f"{tmp_path}/{name} is not the directory of a run: there is no .hydra/config.yaml in it."
            ],
        )
        assert not (tmp_path / name / "plots").exists()


@pytest.mark.parametrize("words", [[], ["a", "b"], ["--all"], ["a", "neurons=all"], ["neurons=3"]])
def test_wrong_words(words, capsys):
    assert said(capsys, *words) == (2, [], [plot.USAGE])


def test_a_run_without_snapshot_has_curves(run, capsys):
    (run / "snapshot.npz").unlink()
    code, out, err = said(capsys, str(run))
    assert (code, out) == (0, ["plots/curves.png", "plots/curves.svg"])
    assert err == [
        f"Left out: {WITHOUT_SNAPSHOT}, overview. {run}/snapshot.npz does not exist:"
        " the test at the end of a run writes it."
    ]


def test_a_damaged_snapshot_is_named_and_the_rest_is_drawn(run, capsys):
    path = run / "snapshot.npz"
    path.write_bytes(path.read_bytes()[:500])
    code, out, err = said(capsys, str(run))
    assert (code, out) == (1, ["plots/curves.png", "plots/curves.svg"])
    assert len(err) == 1 and f"{path} cannot be read: " in err[0]
    assert path.stat().st_size == 500


def test_a_damaged_result_is_named_and_everything_is_drawn(run, capsys):
    (run / "result.json").write_text('{"status": ')
    code, out, err = said(capsys, str(run))
    assert (code, len(out)) == (1, 2 * len(NAMES))
    assert len(err) == 1 and err[0].startswith(f"{run}/result.json cannot be read: ")


def test_a_run_that_failed_before_its_first_epoch_says_what_is_missing(run, capsys):
    (run / "metrics.csv").unlink()
    (run / "snapshot.npz").unlink()
    result = json.loads((run / "result.json").read_text())
    failed = {"status": "failed", "error": "The loss is nan", "parts": result["parts"]}
    (run / "result.json").write_text(json.dumps(failed))
    assert said(capsys, str(run)) == (
        1,
        [],
        [
            f"Left out: {WITHOUT_METRICS}. {run}/metrics.csv does not exist.",
            f"Left out: {WITHOUT_SNAPSHOT}. {run}/snapshot.npz does not exist:"
            " the test at the end of a run writes it.",
        ],
    )
    assert not (run / "plots").exists()


def test_a_stopped_run_is_drawn_as_far_as_it_came(run, capsys):
    (run / "result.json").unlink()
    (run / "snapshot.npz").unlink()
    path = run / "metrics.csv"
    header, first, _ = path.read_text().splitlines(keepends=True)
    path.write_text(header + first + "21,1,0.5")
    code, out, _ = said(capsys, str(run))
    assert (code, out) == (0, ["plots/curves.png", "plots/curves.svg"])
    assert "(unfinished)" in (run / "plots" / "curves.svg").read_text()


def test_a_report_reads_it_too(trained, capsys):
    assert report.main([str(trained), "format=json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["command"] == "snnrun trainer.max_epochs=2 seed=0"
    assert {"val/loss", "test/acc"} <= set(row["metrics"]) and set(row["layers"]) == {"body.0"}
    assert {"rate", "ac", "mac", "energy_nj", "parameters", "fit_seconds"} <= set(row["costs"])


def test_neurons_of_ones_own_choice(run, capsys):
    code, out, _ = said(capsys, str(run), "neurons=0,255")
    assert code == 0 and "plots/membrane.svg" in out
    code, out, err = said(capsys, str(run), "neurons=1")
    assert code == 0 and "plots/membrane.svg" not in out
    assert err == [
        "Left out: membrane. of neurons 1 no potential was stored, but of body.0: 0, 2, 5, 7, 10, 12,"
        " 15, 18, 20, 23, ..., 255."
    ]


def test_a_run_from_before_potentials_were_stored(run, capsys):
    path = run / "snapshot.npz"
    with np.load(path) as file:
        old = {
            k: file[k] for k in file.files if not k.startswith(("potential/", "neurons/", "sample"))
        }
    np.savez(path, **old)  # pyright: ignore[reportArgumentType]
    code, out, err = said(capsys, str(run))
    assert (code, len(out)) == (0, 2 * len(NAMES) - 2)
    assert err == [
        "Left out: membrane. no potentials: the run is older than they are, or its neurons have none."
    ]
