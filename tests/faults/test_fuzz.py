"""Words and files that nobody meant: the answer is a message and exit code 2 (or 0), never a traceback."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from snnrun.check import request
from snnrun.cli import main
from snnrun.config import CONF, BadRequest, Choices, parse

CHOICES = Choices()
SOUND = (
    *("neuron=lif", "surrogate=triangle", "rule=tssl", "model=convnet", "dataset=nmnist"),
    *("scheduler=constant", "optimizer=sgd", "logger=[csv,tensorboard]", "logger=[]", "seed=3"),
    *("model.spec='15C5-P2-40C5-P2-300'", "model.spec=64-R64", "neuron.tau=1.5,2,4", "ema=0.9"),
    *("neuron.tau=${seed}", "+extra.key=1", "++neuron.tau=2", "~logger", "~model"),
    *("trainer.max_epochs=range(1,4)", "optimizer.lr=interval(1e-4,1e-1)", "seed=choice(1,2)"),
    *("neuron=glob(*lif,exclude=p*)", "optimizer.lr=tag(a,b,interval(0,1))", "seed=sort(3,1,2)"),
    *("trainer={max_epochs:2,devices:[0,1]}", "experiment=tssl/mnist_mlp", "hydra.run.dir='a b'"),
    *("hydra.searchpath=[pkg://mine.conf]", "paths.data=${oc.env:HOME}", "dataset@model=digits"),
    *("trainer.precision=bf16-mixed", "dataset.val_size=1e9", "seed=int('3')", "test=null"),
    *("neuron._target_=os.system", "hydra.launcher.jobs=2", "hydra/launcher=process", "start=x"),
)
PIECES = (
    *"=,[]{}()'\"\\$:.~+@*#%-_/ \t\n!?&|;<>^`0123456789",
    *("${", "}}", "[[", "range(", "choice(", "glob(", "sort(", "interval(", "tag(", "extend_list("),
    *("null", "true", "nan", "inf", "-inf", "1e999", "0x1f", "9" * 40, "é", "漢", "🦖", "\udcff"),
    *("..", "=.", ".=", "hydra", "hydra.", "_target_", "${now:%Y}", "${seed}", "${oc.env:NONE}"),
    *(
        "--config-dir",
        "-cd",
        "-m",
        "--cfg",
        "job",
        "--",
        "-",
        "--multirun",
        "--help",
        "=null",
        "[" * 40,
    ),
)


@st.composite
def mutated(draw) -> str:
    """A sound word with a few mistakes."""
    word = draw(st.sampled_from(SOUND))
    for _ in range(draw(st.integers(0, 4))):
        i, j = sorted((draw(st.integers(0, len(word))), draw(st.integers(0, len(word)))))
        piece = draw(st.sampled_from((*PIECES, *SOUND)))
        change = draw(st.sampled_from(("insert", "replace", "delete", "double")))
        match change:
            case "insert":
                word = word[:i] + piece + word[i:]
            case "replace":
                word = word[:i] + piece + word[j:]
            case "delete":
                word = word[:i] + word[j:]
            case "double":
                word = word[:j] + word[i:]
    return word.replace("\0", "")  # no process can be given one


anything = st.text(st.characters(exclude_characters="\0"), max_size=30)
words = st.lists(st.one_of(mutated(), mutated(), anything), min_size=1, max_size=4)
UNHURRIED = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
}


def looked_at(typed: list[str]) -> None:
    """What is done to words before anything is composed."""
    try:
        _, overrides = request(typed)
        for override in parse(overrides, CHOICES):
            CHOICES.is_group(override)
            CHOICES._check_group(override)
    except BadRequest as error:
        assert str(error).strip()


@settings(max_examples=150, **UNHURRIED)
@given(words)
@example(["hydra.searchpath=[pkg:://mine.conf]"])
@example(["optimizer=interval(1e-4,1e-1)"])
def test_words_are_read_or_refused(typed):
    looked_at(typed)


@pytest.mark.slow
@settings(max_examples=100_000, **UNHURRIED)
@given(words)
def test_a_hundred_thousand_words_are_read_or_refused(typed):
    looked_at(typed)


# --- the whole program, in this process; what would train or test returns at once

CALLS = (
    *((), (), (), ("-m",), ("check",), ("list",), ("show",), ("eval", "run"), ("resume", "run")),
    *(
        ("rerun", "run"),
        ("plot", "run"),
        ("report", "run"),
        ("paper", "list"),
        ("paper", "compare"),
    ),
    *(("eval",), ("resume",), ("new", "neuron"), ("--config-dir", "conf", "neuron=mine")),
)


@contextlib.contextmanager
def harmless(place: Path) -> Iterator[None]:
    """In a folder of its own, with nothing that starts."""
    before, path, argv = Path.cwd(), list(sys.path), sys.argv
    os.chdir(place)
    try:
        with (
            mock.patch("snnrun.launch.guarded", lambda *args, **kwargs: 0),
            mock.patch("snnrun.sweep.through_hydra", lambda *args: None),
            mock.patch("snnrun.run.evaluate", lambda *args, **kwargs: {}),
            mock.patch("snnrun.run.quiet"),
        ):
            yield
    finally:
        os.chdir(before)
        sys.path[:], sys.argv = path, argv


def answer(argv: list[str], place: Path) -> tuple[int, str]:
    """Exit code and output of a command line."""
    from hydra.core.global_hydra import GlobalHydra

    out = io.StringIO()
    with harmless(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(argv)
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
        finally:
            GlobalHydra.instance().clear()
    raise AssertionError("it did not exit")


def sound(argv: list[str], place: Path) -> None:
    """Assert that a command line is answered as it should be."""
    code, text = answer(argv, place)
    assert code in (0, 2) or (code == 1 and "cannot be read" in text), text
    assert "Traceback" not in text, text
    assert code == 0 or text.strip()


lines = st.tuples(st.sampled_from(CALLS), words).map(lambda both: [*both[0], *both[1]])


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory) -> Path:
    """A folder with a run and an option of the user's."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(trained, folder / "run")
    (folder / "conf" / "neuron").mkdir(parents=True)
    shutil.copy(CONF / "neuron" / "lif.yaml", folder / "conf" / "neuron" / "mine.yaml")
    return folder


@settings(max_examples=10, **UNHURRIED)
@given(line=lines)
@example(line=["check", "~model"])
def test_a_line_is_answered(line, place):
    sound(line, place)


@pytest.mark.slow
@settings(max_examples=500, **UNHURRIED)
@given(line=lines)
def test_five_hundred_lines_are_answered(line, place):
    sound(line, place)


# --- YAML of the user's, and of a run that somebody else has touched

MARKS = (
    *":-#&*!|>'\"%@`{}[],?\n\t ",
    *(
        "\n  ",
        "- ",
        "!!python/object:os.system",
        "!!binary",
        "&a",
        "*a",
        "<<: ",
        "null",
        "1e999",
        ".nan",
    ),
    *(
        "${seed}",
        "${nope}",
        "${oc.env:X}",
        "_target_: ",
        "defaults: ",
        "# @package _global_\n",
        "é",
        "\x07",
    ),
    *(
        "\ufeff",
        "? ",
        "--- ",
        "...",
        "yes",
        "2001-01-01",
        "[[[[[[",
        "{a: {b: {c: ",
        "override /neuron: lif\n",
    ),
)
OPTIONS = [
    path.relative_to(CONF)
    for group in (
        "neuron",
        "rule",
        "model",
        "dataset",
        "readout",
        "loss",
        "logger",
        "experiment/tssl",
    )
    for path in sorted((CONF / group).glob("*.yaml"))
]
LOOKS = (("check",), (), ("list",), ("show",))
FILES = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "metrics.csv")
USES = ("eval", "resume", "rerun", "plot", "report")


@st.composite
def scribbled(draw, text: str) -> str:
    """A text with a few mistakes."""
    for _ in range(draw(st.integers(1, 4))):
        i = draw(st.integers(0, len(text)))
        j = i + draw(st.integers(0, 12))
        text = text[:i] + draw(st.sampled_from(MARKS)) + text[draw(st.sampled_from((i, j))) :]
    return text


def check_an_option(data: st.DataObject, place: Path) -> None:
    path = data.draw(st.sampled_from(OPTIONS))
    group, (verb, *_) = path.parts[0], (*data.draw(st.sampled_from(LOOKS)), None)
    folder = place / "options"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / group).mkdir(parents=True)
    text = data.draw(scribbled((CONF / path).read_text()))
    (folder / group / "mine.yaml").write_text(text)
    word = group if verb == "list" else f"{group}=mine"
    sound([*([verb] if verb else []), "--config-dir", "options", word], place)


def check_a_run(data: st.DataObject, place: Path) -> None:
    folder = place / "touched"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / "run", folder)
    path = folder / data.draw(st.sampled_from(FILES))
    path.write_text(data.draw(scribbled(path.read_text())))
    sound([data.draw(st.sampled_from(USES)), "touched"], place)


@settings(max_examples=5, **UNHURRIED)
@given(data=st.data())
def test_files_are_read_or_refused(data, place):
    check_an_option(data, place)


@pytest.mark.slow
@settings(max_examples=250, **UNHURRIED)
@given(data=st.data())
@pytest.mark.parametrize("check", [check_an_option, check_a_run])
def test_many_files_are_read_or_refused(check, data, place):
    check(data, place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "neuron/mine.yaml cannot be read: while parsing a flow sequence"),
        ("- 1", "neuron/mine.yaml holds a list, not keys and values."),
        ("tau: 2.0", "neuron has no _target_, which says what it is."),
        (
            "_target_: snnrun.neuron.LIF\nsurrogate: atan",
            "neuron.surrogate must be a Surrogate, which",
        ),
        ("a: 1\na: 2", "neuron/mine.yaml cannot be read: while constructing a mapping"),
        ("# @package a b\na: 1", "neuron/mine.yaml cannot be read: Too many components"),
    ],
)
def test_what_is_wrong_with_a_file(text, message, place):
    (place / "wrong" / "neuron").mkdir(parents=True, exist_ok=True)
    (place / "wrong" / "neuron" / "mine.yaml").write_text(text)
    code, told = answer(["check", "--config-dir", "wrong", "neuron=mine"], place)
    assert code == 2 and message in told
