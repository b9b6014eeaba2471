"""The README is true: its commands run, its transcripts are what is printed, its paths exist.

Every block is found by itself. A command of a kind that is not known here fails, so that nobody forgets to run it.
"""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# what makes a training short; later words win
SHORT = (
    *("trainer.max_epochs=1", "trainer.limit_train_batches=3"),
    *("trainer.limit_val_batches=2", "trainer.limit_test_batches=2"),
)
# verbs that run as they stand, and those that train, with what is said behind them
AS_IT_STANDS = {
    *("list", "show", "check", "eval", "resume", "plot", "new", "report", "doctor"),
    *("paper list", "paper compare"),
}
TRAINING = {"": SHORT, "rerun": SHORT, "paper run": ("seeds=1", "jobs=1", *SHORT)}
# what the blocks of Python of a notebook or a file begin with, where the README leaves it out
IMPORTS = """\
import torch
from torch import Tensor, nn
from snnrun.model import Layer
from snnrun.neuron import Neuron, State
from snnrun.rule import Learning, Rule
from snnrun.surrogate import Surrogate
"""


def commands(text: str) -> list[list[str]]:
    """The commands of a block, as words, without comments; `a && b` are two, a backslash joins lines."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    found: list[list[str]] = []
    for line in words:
        start = 0
        for end in [n for n, word in enumerate(line) if word == "&&"] + [len(line)]:
            found += [line[start:end]] if end > start else []
            start = end + 1
    return found


COMMANDS = [
    command
    for kind, text in BLOCKS
    if kind in ("bash", "sh", "shell")
    for command in commands(text)
]
SESSIONS = [
    text for kind, text in BLOCKS if kind not in ("bash", "python") and text.startswith("$ ")
]


@pytest.fixture(scope="module")
def place(trained, tmp_path_factory) -> Path:
    """A folder with a finished run called RUN; the commands follow each other in it, as they do in the README."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(trained, folder / "RUN")
    return folder


def short(words: list[str]) -> list[str]:
    """The words behind `snnrun`, shortened where they train. Fails for a verb that it does not know."""
    many = 2 if words[:1] == ["paper"] else 1
    verb = " ".join(words[:many]) if re.fullmatch(r"[a-z]+", words[0] if words else "") else ""
    if "-m" in words:
        search = any(word.startswith("hparams_search=") for word in words)
        more = ["hydra.sweeper.n_trials=2"] if search else ["hydra.sweep.dir=SWEEP"]
        return [*words, *SHORT, *more, "hydra.launcher.jobs=2"]
    if verb in TRAINING:
        return [*words, *TRAINING[verb]]
    if verb not in AS_IT_STANDS:
        pytest.fail(f"snnrun {verb}: this test does not know how to run that; tell it above")
    return ["my_part" if word == "NAME" else word for word in words]


def check_pip(words: list[str]) -> None:
    """`pip install` of this project, with extras that there are."""
    assert words[:2] == ["pip", "install"]
    for word in words[2:]:
        found = re.fullmatch(r"(?:\.|snnrun)(?:\[([\w,]+)\])?", word)
        assert word == "-e" or found, f"pip install {word} is none of ours"
        assert not found or not found[1] or set(found[1].split(",")) <= set(EXTRAS), word


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command(words, place, warm):
    match words:
        case ["pip", *_]:
            check_pip(list(words))
            return
        case ["pytest"]:  # these are the tests
            return
        case ["snnrun", *rest]:
            pass
        case _:
            pytest.fail(f"{shlex.join(words)}: this test does not know how to run that")
    done = warm(*short(rest), cwd=place, WANDB_API_KEY="")
    lacking = re.search(r"dataset=\w+: .+ missing in .+", done.stdout + done.stderr)
    if done.returncode and lacking:
        if "=" in "".join(rest[:1]):
            checked = warm("check", *rest, cwd=place)
            assert checked.returncode == 0, checked.stderr
        pytest.skip(f"for want of data: {lacking[0]} (set SNNRUN_DATA)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("text", SESSIONS)
def test_session(text, tmp_path, warm):
    """What follows `$ command` is what it prints; `...` stands for anything."""
    for command, _, printed in (
        part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.M)[1:]
    ):
        (words,) = commands(command)
        assert words[0] == "snnrun"
        done = warm(*words[1:], cwd=tmp_path)
        pattern = ".*".join(re.escape(piece) for piece in printed.strip().split("..."))
        assert re.fullmatch(pattern, (done.stdout + done.stderr).strip(), re.S), (
            f"snnrun {command} prints\n{done.stdout}{done.stderr}"
        )


def test_python():
    """The blocks of Python run one after the other, as in a notebook; every neuron in them can be run."""
    import torch

    from snnrun.neuron import Neuron
    from snnrun.surrogate import ATan

    names: dict = {}
    exec(IMPORTS, names)
    blocks = [text for kind, text in BLOCKS if kind == "python"]
    assert blocks
    for text in blocks:
        before = set(names)
        exec(text, names)
        for name in names.keys() - before:
            kind = names[name]
            if isinstance(kind, type) and issubclass(kind, Neuron):
                out = kind(ATan())(torch.rand(4, 2, 3))  # pyright: ignore[reportCallIssue]
                assert out.shape == (4, 2, 3)


def test_the_directory_of_a_run_is_as_drawn(trained):
    drawn = [text for _, text in BLOCKS if text.startswith("outputs/")]
    assert drawn
    for text in drawn:
        _, *lines = text.splitlines()
        names = {line.split()[0].rstrip("/") for line in lines if line.startswith("  ")}
        assert names == {path.name for path in trained.iterdir()}


def test_every_file_that_is_named_exists():
    text = BLOCK.sub("", (ROOT / "README.md").read_text())
    linked = re.findall(r"\]\(((?!http)[^)#]+)\)", text)
    named = re.findall(r"`((?:scripts|results|conf|tests|snnrun)/[\w./-]+)`", text)
    assert [name for name in (*linked, *named) if not (ROOT / name).exists()] == []
