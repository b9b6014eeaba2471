"""Fuzz what is done to a command line before anything is composed, led by the branches it takes (pip install atheris).

    python scripts/fuzz_words.py CORPUS -runs=100000

Words are lines of the input. Each must be taken, or refused by `BadRequest` with a message; anything else is a crash,
which atheris prints and writes to a file. CORPUS is a folder: what led to new branches is kept there.
"""

import sys
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports]

with atheris.instrument_imports(include=["snnrun", "hydra", "omegaconf"]):  # pyright: ignore[reportAttributeAccessIssue]
    from snnrun.check import request
    from snnrun.config import BadRequest, Choices, parse

SOUND = (
    "neuron=lif\nneuron.tau=1.5,2,4",
    "model.spec='15C5-P2-40C5-P2-300'\n++neuron.tau=2\n~logger",
    "trainer={max_epochs:2,devices:[0,1]}\nhydra.run.dir='a b'",
    "optimizer.lr=tag(a,b,interval(0,1))\nseed=sort(3,1,2)\n-m",
    "--config-dir\nconf\nhydra.searchpath=[pkg://mine.conf]\ndataset@model=digits",
    "paths.data=${oc.env:HOME}\nneuron=glob(*lif,exclude=p*)\nhydra/launcher=process",
)
CHOICES = Choices()


def one(data: bytes) -> None:
    """Look at the words in some bytes."""
    text = data.decode("utf-8", "surrogateescape").replace("\0", "")
    try:
        _, overrides = request(text.split("\n")[:6])
        for override in parse(overrides, CHOICES):
            CHOICES.is_group(override)
            CHOICES._check_group(override)
    except BadRequest as error:
        assert str(error).strip()


def main() -> None:
    """Put the sound lines into the corpus, and fuzz."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(SOUND):
        (folder / f"sound{number}").write_text(text)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
