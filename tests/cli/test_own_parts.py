"""Parts of a user's own: written by `new`, or installed as a package; seen by every verb."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=2")
OURS = ("--config-dir", "conf")
PARTS = {"neuron": "my_lif", "rule": "my_rule", "model": "my_net"}
# what a shell does at <tab>, with the function that `-sc install=bash` defines
COMPLETE = """\
eval "$(snnrun -sc install=bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$(($(wc -w <<< "$1") - 1))
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""
PLUGIN = """\
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class MyLab(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("mylab", "pkg://mylab.conf")
"""


@pytest.fixture(scope="module")
def lab(warm, tmp_path_factory) -> Path:
    """A folder with a neuron, a rule and a model of its own."""
    folder = tmp_path_factory.mktemp("lab")
    for kind, name in PARTS.items():
        done = warm("new", kind, name, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == f"now: snnrun --config-dir conf {kind}={name}"
    return folder


@pytest.fixture(scope="module")
def mine(lab, warm) -> Path:
    """A run with that neuron, as `new` says."""
    done = warm(*OURS, "neuron=my_lif", *SHORT, "hydra.run.dir=mine", cwd=lab)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "  neuron=my_lif  " in done.stdout.splitlines()[0]
    return lab / "mine"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of installed packages, one with a neuron and its configuration."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "mylab" / "conf" / "neuron").mkdir(parents=True)
    (folder / "mylab" / "__init__.py").touch()
    (folder / "mylab" / "conf" / "__init__.py").touch()
    (folder / "mylab" / "neurons.py").write_text(
        "from snnrun.neuron import LIF\n\n\nclass Lab(LIF):\n    '''A neuron of the lab.'''\n"
    )
    (folder / "mylab" / "conf" / "neuron" / "lab.yaml").write_text(
        "_target_: mylab.neurons.Lab\nsurrogate: ${surrogate}\n"
    )
    return folder


def test_it_trains(mine):
    result = json.loads((mine / "result.json").read_text())
    assert (result["status"], result["parts"]["neuron"]) == ("completed", "my_lif")
    assert 0 < result["spikes"]["rate"] < 1


def test_eval_and_rerun_trust_it_only_with_its_folder(mine, lab, warm):
    for verb in ("eval", "rerun"):
        done = warm(verb, "mine", cwd=lab)
        assert done.stderr == (
            f"{mine} wants to build my_lif.MyLif, which is neither snnrun's own nor on your search path."
            " If you trust it, add the folder whose YAML names it: --config-dir DIR.\n"
        )
        assert done.returncode == 2
    done = warm("eval", "mine", *OURS, cwd=lab)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((mine / "result.json").read_text())
    assert json.loads(done.stdout)["metrics"]["test/acc"] == result["metrics"]["test/acc"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(*part, marks=[] if part[0] == "neuron" else pytest.mark.slow)
        for part in PARTS.items()
    ],
)
def test_list_and_show(kind, name, lab, warm):
    for flags in (OURS, ("--config-dir=conf",), ("hydra.searchpath=[file://conf]",)):
        done = warm("list", kind, *flags, cwd=lab)
        assert f"\n{name} " in f"\n{done.stdout}", done.stderr
    done = warm("list", kind, cwd=lab)
    assert name not in done.stdout and done.returncode == 0
    done = warm("list", kind, "--fits", "dataset=nmnist", *OURS, cwd=lab)
    assert f"\n{name} " in f"\n{done.stdout}", done.stderr
    done = warm("show", f"{kind}={name}", *OURS, cwd=lab)
    assert done.stdout.startswith(f"{kind}={name}   {lab}/conf/{kind}/{name}.yaml\n")


def test_the_message_on_a_misfit_names_it(lab, warm):
    words = ("neuron=li", "readout=spike_rate", "readout.neuron=${neuron}")
    done = warm(*OURS, *words, cwd=lab)
    first, second = done.stderr.splitlines()
    assert first == "readout=spike_rate needs spikes, which none of the chosen parts has."
    group, _, options = second.strip().removesuffix("   (now li)").partition(": ")
    assert group == "neuron" and "my_lif" in options.split(", ")
    done = warm(*OURS, "neuron=my_lfi", cwd=lab)
    assert done.stderr.startswith("neuron=my_lfi: there is no such neuron. Did you mean my_lif")


def test_rule_and_model_check_together(lab, warm):
    words = [f"{kind}={name}" for kind, name in PARTS.items()]
    done = warm("check", *OURS, *words, cwd=lab)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok: 9,866 parameters, 4 steps of 1x8x8 to 10 classes\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("snnrun --config-dir conf neuron=my", "neuron=my_lif"),
        ("snnrun --config-dir=conf model=my", "model=my_net"),
        ("snnrun --config-dir conf seed=3 neuron=my_lif neuron.th", "neuron.threshold="),
        ("snnrun neuron=al", "neuron=alif"),
        ("snnrun neuron=my", ""),
        ("snnrun --config-dir nowhere neuron=al", "neuron=alif"),
    ],
)
def test_completion_in_bash(line, reply, lab, tmp_path):
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    (tmp_path / "snnrun").write_text(f"#!{sys.executable}\nfrom snnrun.cli import main\n\nmain()\n")
    (tmp_path / "snnrun").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", line],
        cwd=lab,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == (f"{reply}\n", "")


def test_the_tests_that_come_with_them_pass(lab):
    """By plain `pytest`, which does not put the working directory on the path."""
    done = subprocess.run(
        [Path(sys.executable).with_name("pytest"), "-q", "-p", "no:cacheprovider"],
        cwd=lab,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("4 passed")


def test_an_installed_package(site, warm, snnrun):
    place = "hydra.searchpath=[pkg://mylab.conf]"
    done = snnrun("list", "neuron", place, PYTHONPATH=str(site))
    assert re.search(r"\nlab +A neuron of the lab\.\n", done.stdout), done.stderr
    done = warm("check", place, "neuron=lab", cwd=site)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("ok: ")


def test_an_installed_package_that_registers_its_configuration(site, tmp_path, snnrun):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "mylab.py").write_text(PLUGIN)
    path = os.pathsep.join([str(site), str(tmp_path)])
    done = snnrun("list", "neuron", PYTHONPATH=path)
    assert re.search(r"\nlab +A neuron of the lab\.\n", done.stdout), done.stderr
    done = snnrun("neuron=lba", PYTHONPATH=path)
    assert done.stderr.startswith("neuron=lba: there is no such neuron. Did you mean lab")
