"""What answers without a run: quick, and without torch or lightning."""

import os
import re
import resource
import subprocess
import sys

import pytest

QUICK = (
    ("--help",),
    ("--version",),
    ("list",),
    ("list", "neuron"),
    ("list", "neuron", "--fits", "encoder=latency"),
    ("show", "neuron=lif"),
    ("paper", "list"),
    ("paper", "list", "tssl"),
    ("doctor",),
    ("show", "experiment=demo/mnist_convnet"),
)
WITNESS = """\
import sys
from snnrun.cli import main
try:
    main(sys.argv[1:])
finally:
    heavy = sorted({"torch", "lightning", "pytorch_lightning", "torchvision", "tonic", "wandb"} & set(sys.modules))
    print("heavy imports:", heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_answers_within_two_seconds_and_imports_nothing_heavy(words, tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", WITNESS, *words],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == "heavy imports: []\n"
    # of the processor: whoever else keeps the machine busy does not count
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert not list(tmp_path.iterdir())


def test_help_names_every_verb_and_fits_a_terminal(snnrun):
    done = snnrun("--help")
    assert done.stdout == snnrun("-h").stdout == snnrun("help").stdout
    from snnrun.cli import VERBS

    for verb in VERBS:
        assert f"  snnrun {verb} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


def test_version(snnrun):
    from snnrun import __version__

    assert snnrun("--version").stdout == f"snnrun {__version__}\n"


def test_list_shows_groups_and_sentences(snnrun):
    lines = snnrun("list").stdout.splitlines()
    assert (
        "encoder     [direct], events, integrate, latency, poisson, psc, spike_time, zero_expand"
        in lines
    )
    assert lines[-1] == (
        "[...] is the default. snnrun list GROUP says more; snnrun show GROUP=OPTION says all."
    )
    done = snnrun("list", "neuron")
    assert re.search(r"\nlif +Leaky integrate-and-fire neuron\.\n", done.stdout)


def test_list_fits_keeps_what_fits(snnrun):
    done = snnrun("list", "encoder", "--fits", "dataset=shd")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["direct", "events", "psc"]
    done = snnrun("list", "model", "--fits", "dataset=shd")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "feedback_snn",
        "mlp",
        "recurrent",
    ]


def test_show_a_part_and_the_whole_configuration(snnrun):
    part = snnrun("show", "neuron=lif").stdout
    head, *rest = part.splitlines()
    assert head.startswith("neuron=lif   ") and head.endswith("neuron/lif.yaml")
    assert "    is leaky: the potential decays" in rest
    assert "    threshold: 1.0" in rest
    whole = snnrun("show", "neuron.tau=3").stdout
    assert "  tau: 3\n" in whole and "\nhydra:" not in whole
    assert whole == snnrun("neuron.tau=3", "--cfg", "job").stdout


@pytest.mark.parametrize(
    "words",
    [
        ("neuron=plif", "--cfg", "job", "--package", "neuron"),
        ("--cfg", "job", "--package", "neuron", "neuron=plif"),
        ("--cfg", "job", "neuron=plif", "--package", "neuron"),
        ("-c", "job", "neuron=plif", "-p", "neuron"),
    ],
)
def test_flags_of_hydra_work_anywhere(words, snnrun, tmp_path):
    done = snnrun(*words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# @package neuron\n_target_: snnrun.neuron.PLIF\n")
    assert not list(tmp_path.iterdir())


def test_info_names_the_folder_of_the_configurations(snnrun, tmp_path):
    (tmp_path / "mine").mkdir()
    done = snnrun("--info", "searchpath", "--config-dir", "mine")
    assert done.returncode == 0, done.stderr
    assert f"file://{tmp_path}/mine" in done.stdout
    assert "| main " in done.stdout and "/conf" in done.stdout
