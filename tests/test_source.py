"""What is read from source text: signatures, literals, annotations; nothing is imported."""

import sys
import textwrap
from pathlib import Path

import pytest

from snnrun.source import Argument, Definition, conforms, definition, expected, module_of

PARTS = '''
"""Parts of my own."""
from typing import Literal, Optional, Union
from collections.abc import Sequence
from mylab.base import Base, Mode
raise RuntimeError("imported")

class Plain(Base):
    """Inherits all."""

class Own(Base):
    """Has arguments of its own.

    More words.
    """
    traits = frozenset({"spikes", "mine"})
    needs_if = {("mode", "b"): {"recurrent"}}

    def __init__(self, first, size: int = 3, *, mode: Mode = "a", rate: float | None = None, **kwargs):
        super().__init__()

class HandsOn(Base):
    def __init__(self, extra: bool = False, beta: float = 0.9, **more):
        super().__init__(**more)

class Grandchild(HandsOn):
    traits: frozenset[str] = frozenset()

class Foreign(dict):
    def __init__(self, a: int = 1, **more):
        super().__init__(**more)

def function(x: int, /, y: "str" = "b"):
    """A function."""

value = 3
'''
BASE = '''
from typing import Literal
Mode = Literal["a", "b"]

class Base:
    """The base."""
    traits = frozenset({"spikes"})
    needs = {"leaky"}
    traits_if = {("mode", "a"): {"hard_reset"}, ("mode", "b"): {"soft_reset"}}
    other = ["not", "read"]

    def __init__(self, alpha: float, beta: float = 0.5, mode: Mode = "a"):
        pass
'''


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """A package on the path that cannot be imported."""
    folder = tmp_path / "mylab"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .parts import Own as Renamed\n")
    (folder / "parts.py").write_text(PARTS)
    (folder / "base.py").write_text(BASE)
    (tmp_path / "single.py").write_text("class Alone:\n    def __init__(self, a: int): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    definition.cache_clear()
    module_of.cache_clear()
    yield tmp_path
    definition.cache_clear()
    module_of.cache_clear()
    assert "mylab.parts" not in sys.modules


def known(target: str) -> Definition:
    found = definition(target)
    assert found
    return found


def defaults(target: str) -> dict[str, str | None]:
    return {name: argument.default for name, argument in known(target).arguments.items()}


def test_a_class_without_a_constructor_has_its_parents(lab):
    assert defaults("mylab.parts.Plain") == {"alpha": None, "beta": "0.5", "mode": "'a'"}
    assert known("mylab.parts.Plain").doc == "Inherits all."


def test_a_constructor_replaces_the_parents(lab):
    own = known("mylab.parts.Own")
    assert defaults(own.target) == {"first": None, "size": "3", "mode": "'a'", "rate": "None"}
    assert own.keywords and own.doc == "Has arguments of its own.\n\nMore words."


def test_keywords_that_are_handed_on_are_the_parents_arguments(lab):
    expected = {"alpha": None, "beta": "0.9", "mode": "'a'", "extra": "False"}
    for name in ("HandsOn", "Grandchild"):
        assert defaults(f"mylab.parts.{name}") == expected
        assert not known(f"mylab.parts.{name}").keywords


def test_keywords_for_a_parent_that_cannot_be_read_may_be_anything(lab):
    assert known("mylab.parts.Foreign").keywords


def test_literals_are_inherited_one_by_one(lab):
    plain, own = known("mylab.parts.Plain"), known("mylab.parts.Own")
    assert plain.words("traits", {}) == {"spikes"}
    assert own.words("traits", {}) == {"spikes", "mine"}
    assert plain.words("needs", {}) == own.words("needs", {}) == {"leaky"}
    assert known("mylab.parts.Grandchild").words("traits", {}) == frozenset()
    assert "other" not in plain.literals


def test_words_that_depend_on_a_setting(lab):
    own = known("mylab.parts.Own")
    assert own.words("traits", {"mode": "a"}) == {"spikes", "mine", "hard_reset"}
    assert own.words("traits", {"mode": "b"}) == {"spikes", "mine", "soft_reset"}
    assert own.words("needs", {"mode": "b"}) == {"leaky", "recurrent"}
    assert own.words("needs", {"mode": "c"}) == {"leaky"}


def test_a_name_is_followed_to_where_it_is_defined(lab):
    assert defaults("mylab.Renamed") == defaults("mylab.parts.Own")


def test_functions_and_single_files(lab):
    assert defaults("mylab.parts.function") == {"x": None, "y": "'b'"}
    assert defaults("single.Alone") == {"a": None}


@pytest.mark.parametrize(
    "target",
    ["mylab.parts.value", "mylab.parts.Nobody", "mylab.nowhere.Own", "nolab.Own", "Own", "os", ""],
)
def test_what_is_no_part(lab, target):
    assert definition(target) is None


def test_a_syntax_error_names_file_and_line(lab):
    (lab / "mylab" / "broken.py").write_text("x = 1\nclass Neuron(:\n")
    with pytest.raises(SyntaxError) as error:
        definition("mylab.broken.Neuron")
    assert Path(error.value.filename or "").name == "broken.py" and error.value.lineno == 2


def test_third_party_classes_are_read_too():
    assert {"lr", "weight_decay"} <= set(known("torch.optim.AdamW").arguments)
    assert "max_epochs" in known("lightning.pytorch.Trainer").arguments


ANNOTATIONS = [
    # annotation, words, values that fit, values that do not
    ("bool", "true or false", [True, False], [0, 1, "true", None]),
    ("int", "a whole number", [0, -3], [True, 1.0, "1", None]),
    ("float", "a number", [0.5, 2, float("inf")], [True, "0.5", None, [1.0]]),
    ("str", "text", ["", "a"], [1, None, ["a"]]),
    ("None", "null", [None], [0, False, ""]),
    ("int | None", "a whole number or null", [1, None], [1.5, "x"]),
    ("Optional[float]", "a number or null", [1, 1.5, None], ["x"]),
    ("Union[int, str]", "a whole number or text", [1, "x"], [1.5, None]),
    ('Literal["hard", "soft", "none"]', "hard, soft or none", ["hard", "none"], ["Hard", None, 1]),
    ('Literal["only"]', "only", ["only"], ["other"]),
    ("Literal[1, 2]", "1 or 2", [1, 2], [True, 1.0, 3, "1"]),
    ("Literal[True]", "True", [True], [1, False]),
    ("list[int]", "a list of whole numbers", [[], [1, 2]], [[1.5], [True], 1, "ab", None]),
    ("Sequence[float] | None", "a list of numbers or null", [[1, 0.5], None], [["x"], 1.0]),
    ("list[Literal['a']]", "a list of Literal['a']", [["a", "a"]], [["b"]]),
    ("Mode", "a or b", ["a", "b"], ["c", None]),
    ("Mode | None", "a or b or null", ["a", None], ["c"]),
    ("Callable[[int], Neuron]", "Callable[[int], Neuron]", [None, 1, "x"], []),
]


@pytest.mark.parametrize(
    ("text", "words", "good", "bad"), ANNOTATIONS, ids=[a[0] for a in ANNOTATIONS]
)
def test_annotations(lab, text, words, good, bad):
    (lab / "mylab" / "typed.py").write_text(
        f"from mylab.base import Mode\nclass Typed:\n    def __init__(self, x: {text}): ...\n"
    )
    found = known("mylab.typed.Typed")
    argument = found.arguments["x"]
    assert expected(argument, found.module) == words
    assert [v for v in good if not conforms(v, argument, found.module)] == []
    assert [v for v in bad if conforms(v, argument, found.module)] == []


def test_an_argument_without_annotation_takes_anything():
    free = Argument(None, None)
    assert expected(free, None) == "anything"
    assert all(conforms(value, free, None) for value in (1, "x", None, []))


def test_traits_that_are_no_literals_are_refused(lab):
    (lab / "mylab" / "computed.py").write_text(
        textwrap.dedent("""\
            class Sly:
                traits = frozenset(open("x").read())
        """)
    )
    with pytest.raises(ValueError, match="malformed"):
        definition("mylab.computed.Sly")
