"""Files are replaced whole or not at all, and what stood there before may be kept."""

import os
from pathlib import Path

import pytest

from snnrun.whole import whole


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with whole(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert content(tmp_path) == {"file": "new"}


def test_an_error_leaves_what_there_was(tmp_path):
    path, keep = tmp_path / "file", tmp_path / "kept"
    path.write_text("old")
    keep.write_text("older")
    with pytest.raises(KeyError), whole(path, keep=keep) as file:
        file.write("new")
        raise KeyError
    assert content(tmp_path) == {"file": "old", "kept": "older"}


@pytest.mark.parametrize("links", [True, False])
def test_what_there_was_is_kept(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*args):
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    path, keep = tmp_path / "file", tmp_path / "kept"
    seen = []
    for text in ("1", "2", "3"):
        with whole(path, keep=keep) as file:
            file.write(text)
        seen.append(content(tmp_path))
    assert seen == [{"file": "1"}, {"file": "2", "kept": "1"}, {"file": "3", "kept": "2"}]


def test_the_place_is_never_empty_where_there_are_links(tmp_path, monkeypatch):
    path, keep, states = tmp_path / "file", tmp_path / "kept", []
    path.write_text("1")
    move = Path.replace

    def watched(self, target):
        states.append(path.read_text())
        moved = move(self, target)
        states.append(path.read_text())
        return moved

    monkeypatch.setattr(Path, "replace", watched)
    with whole(path, keep=keep) as file:
        file.write("2")
    assert states == ["1", "1", "1", "2"]


def test_two_names_of_one_file(tmp_path):
    """Killed between keeping and replacing: the next time both names are of one file already."""
    path, keep = tmp_path / "file", tmp_path / "kept"
    path.write_text("1")
    os.link(path, keep)
    with whole(path, keep=keep) as file:
        file.write("2")
    assert content(tmp_path) == {"file": "2", "kept": "1"}
