"""A run directory from somebody else: what it names is not executed unless it is known."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

EVIL = {"_target_": "planted.act"}  # Hydra itself refuses the likes of os.system
PLANTED = "from pathlib import Path\n\n\ndef act():\n    Path('executed').touch()\n"


def part(cfg: dict[str, Any]) -> str:
    cfg["neuron"] = EVIL
    return "planted.act"


def nested(cfg: dict[str, Any]) -> str:
    cfg["neuron"]["surrogate"] = EVIL
    return "planted.act"


def in_a_list(cfg: dict[str, Any]) -> str:
    cfg["callbacks"] = {"mine": {"_target_": "snnrun.callback.Report", "epochs": [1, [EVIL]]}}
    return "planted.act, snnrun.callback.Report"


def logger(cfg: dict[str, Any]) -> str:
    cfg["logger"]["csv"] = {"_target_": "os.system", "command": "touch executed"}
    return "os.system"


def of_snnrun_but_no_part(cfg: dict[str, Any]) -> str:
    cfg["task"] = {"_target_": "snnrun.launch.rerun", "words": ["."]}
    return "snnrun.launch.rerun"


def named_by_interpolation(cfg: dict[str, Any]) -> str:
    cfg["neuron"] = EVIL | {"_target_": "${evil}"}
    cfg["evil"] = "planted.act"
    return "${evil}"


def put_together_by_interpolation(cfg: dict[str, Any]) -> str:
    cfg["neuron"]["_target_"] = "snnrun.${evil}"
    cfg["evil"] = "neuron.base.torch.os.abort"
    return "snnrun.${evil}"


def reached_by_interpolation(cfg: dict[str, Any]) -> str:
    cfg["neuron"]["surrogate"] = "${evil}"
    cfg["evil"] = EVIL
    return "planted.act"


def decoded_from_text(cfg: dict[str, Any]) -> str:
    text = "{_target_: planted.act}"
    cfg["callbacks"] = {"mine": f"${{oc.decode:'{text}'}}"}
    return "planted.act"


PLANTS = (
    *(part, nested, in_a_list, logger, of_snnrun_but_no_part, named_by_interpolation),
    *(put_together_by_interpolation, reached_by_interpolation, decoded_from_text),
)


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A run that was stopped, and beside it what it may want to execute."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "planted.py").write_text(PLANTED)
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("verb", "plant"),
    [
        *(("eval", plant) for plant in PLANTS),
        *((verb, plant) for verb in ("resume", "rerun") for plant in (part, decoded_from_text)),
    ],
)
def test_a_planted_target_is_named_and_not_executed(verb, plant, folder, warm, tmp_path):
    path = folder / ".hydra" / "config.yaml"
    cfg = yaml.safe_load(path.read_text())
    names = plant(cfg)
    path.write_text(yaml.safe_dump(cfg))
    before = content(tmp_path)
    done = warm(verb, "run", cwd=tmp_path)
    assert done.stderr == (
        f"{folder} wants to build {names}, which is neither snnrun's own nor on your search path."
        " If you trust it, add the folder whose YAML names it: --config-dir DIR.\n"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert content(tmp_path) == before


def test_what_is_planted_would_be_executed(folder, warm, tmp_path):
    """With the folder that names it on the search path it is built: the tests above can fail."""
    path = folder / ".hydra" / "config.yaml"
    cfg = yaml.safe_load(path.read_text())
    decoded_from_text(cfg)
    path.write_text(yaml.safe_dump(cfg))
    option = tmp_path / "conf" / "neuron" / "evil.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: planted.act\n")
    done = warm("eval", "run", "--config-dir", "conf", cwd=tmp_path)
    assert (tmp_path / "executed").exists(), done.stderr


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("verb", ["eval", "resume"])
def test_a_pickle_in_a_checkpoint_is_not_executed(verb, folder, warm, tmp_path):
    for name in ("best", "last"):
        state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)
        torch.save(state | {"extra": Evil()}, folder / "checkpoints" / f"{name}.ckpt")
    before = content(folder / "checkpoints")
    done = warm(verb, "run", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    if verb == "eval":
        assert done.stderr.startswith(f"{folder}/checkpoints/best.ckpt ")
    assert content(folder / "checkpoints") == before
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("text", ["", "a: [1", "- 1\n", "neuron: {a: b: c}"])
def test_a_configuration_that_cannot_be_read(text, folder, warm, tmp_path):
    (folder / ".hydra" / "config.yaml").write_text(text)
    done = warm("eval", "run", cwd=tmp_path)
    assert done.stderr.startswith(f"{folder}/.hydra cannot be read: ")
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")
