"""`snnrun report DIR...`: many runs as one table, grouped over seeds; as Markdown, CSV, JSON or a page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from snnrun.config import BadRequest, cannot_write, closest
from snnrun.report import text
from snnrun.report.gather import gather
from snnrun.report.group import Study, study
from snnrun.report.ranking import Ranking, rank
from snnrun.whole import whole

USAGE = """\
Usage: snnrun report DIR ... [out=FILE,...] [format=markdown|csv|json|html] [baseline=...] [score=METRIC] [sort=METRIC]

  DIR        a folder with runs in it, at any depth
  out        files to write, by suffix .md, .csv, .json or .html; without it the table is printed
  baseline   what every row is compared with: best (the first row), none, the number of a row, a folder,
             or settings such as baseline=neuron=lif,neuron.tau=2
  score      what is compared and drawn (test/acc)
  sort       what rows are sorted by (the score that checkpoints were chosen by)
"""
FORMATS = ("markdown", "csv", "json", "html")
SUFFIXES = {".md": "markdown", ".csv": "csv", ".json": "json", ".html": "html", ".htm": "html"}


@dataclass
class Request:
    """What was typed behind `report`."""

    folders: list[str] = field(default_factory=list)
    format: str | None = None
    out: list[Path] = field(default_factory=list)
    baseline: str = "best"
    score: str | None = None
    sort: str | None = None


def main(words: list[str]) -> int:
    """The verb. Returns 0. Raises `BadRequest`."""
    asked = understood(words)
    records = gather(asked.folders)
    if not records:
        raise BadRequest(f"There are no runs in {', '.join(asked.folders)}.")
    found = study(records)
    ranking = rank(found, asked.sort, asked.score, asked.baseline)
    if not asked.out:
        print(render(asked.format or "markdown", found, ranking, asked.folders), end="")
        return 0
    for path in asked.out:
        content = render(asked.format or SUFFIXES[path.suffix], found, ranking, asked.folders)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as file:
                file.write(content)
        except OSError as error:
            raise BadRequest(cannot_write(path, error)) from error
        print(path)
    return 0


def understood(words: Sequence[str]) -> Request:
    """Split what was typed into folders and settings. Raises `BadRequest`."""
    asked = Request()
    keys = ("format", "out", "baseline", "score", "sort")
    for word in words:
        key, equals, value = word.partition("=")
        if os.path.isdir(word):  # the directory of a run may be called seed=1
            asked.folders.append(word)
        elif equals and key in keys:
            if key == "out":
                asked.out = [Path(name) for name in value.strip("[]").split(",") if name]
            else:
                setattr(asked, key, value)
        elif equals and "/" not in key:
            raise BadRequest(
                f"report has no setting {key!r}.{closest(key, keys)}\n\n{USAGE}".rstrip()
            )
        elif word.startswith("-"):
            raise BadRequest(USAGE.rstrip())
        else:
            raise BadRequest(f"There is no folder {word}.")
    if not asked.folders:
        raise BadRequest(USAGE.rstrip())
    if asked.format == "md":
        asked.format = "markdown"
    if asked.format is not None and asked.format not in FORMATS:
        near = closest(asked.format, FORMATS)
        raise BadRequest(f"format must be {', '.join(FORMATS)}; got {asked.format}.{near}")
    for path in asked.out:
        if asked.format is None and path.suffix not in SUFFIXES:
            raise BadRequest(f"out={path}: end it with {', '.join(SUFFIXES)}, or say format=...")
    return asked


def render(name: str, found: Study, ranking: Ranking, folders: Sequence[str]) -> str:
    """The report in a format."""
    if name == "html":
        from snnrun.report import page  # draws

        return page.html(found, ranking, folders)
    makers = {"markdown": text.markdown, "csv": text.table, "json": text.document}
    return makers[name](found, ranking, folders)
