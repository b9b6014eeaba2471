"""Who may import whom (one way), what modules are called, and that no file names a machine."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "snnrun").rglob("*.py"))

# a module (the longest name that fits): the snnrun modules it may import, and the packages besides the standard library
TORCH, HYDRA, LIGHTNING = {"torch"}, {"hydra", "omegaconf"}, {"torch", "lightning"}
NETWORK = {"surrogate", "neuron", "encoder", "norm", "model"}
TABLE: dict[str, tuple[set[str], set[str]]] = {
    "surrogate": (set(), TORCH),
    "neuron": ({"surrogate"}, TORCH),
    "neuron.kernel": (set(), {*TORCH, "llvmlite"}),
    "neuron.kernel.compiled": ({"neuron.kernel"}, {"numba"}),
    "neuron.kernel.first_spike": ({"neuron.kernel"}, {"numpy"}),
    "encoder": ({"surrogate", "neuron"}, TORCH),
    "norm": ({"surrogate", "neuron"}, TORCH),
    "model": (NETWORK, TORCH),
    "model.event_kernel": ({"neuron.kernel"}, set()),
    "rule": ({"neuron", "model.layers"}, TORCH),
    "rule.desire_kernel": ({"neuron.kernel"}, {"numpy"}),
    "rule.train_loop": ({"neuron.kernel"}, {"numpy"}),
    "loss": (set(), TORCH),
    "scheduler": (set(), TORCH),
    "readout": ({"neuron", "model.layers"}, TORCH),
    "metric": ({"neuron", "encoder.profile", "model.layers", "model.receptive"}, TORCH),
    "whole": (set(), set()),
    "lock": (set(), set()),
    "checkpoint": ({"model"}, TORCH),
    "seed": (set(), {*TORCH, "numpy"}),
    "allocator": (set(), set()),
    "dataset": (set(), {*LIGHTNING, "numpy", "torchvision", "sklearn"}),
    "dataset.imagenet": ({"dataset"}, {*LIGHTNING, "numpy", "torchvision", "PIL"}),
    "dataset.events": ({"dataset"}, {*LIGHTNING, "numpy", "tonic"}),
    "dataset.ti46": ({"dataset"}, {*LIGHTNING, "numpy", "soundfile", "lyon"}),
    "dataset.cochlea": ({"dataset"}, {*LIGHTNING, "numpy", "h5py"}),
    "task": ({"metric"}, LIGHTNING),
    "logger": ({"config", "whole"}, {*LIGHTNING, "wandb"}),
    "finite": (set(), TORCH),
    "learner": ({*NETWORK, "rule", "metric", "seed", "task", "checkpoint", "finite"}, LIGHTNING),
    "callback": ({"learner", "neuron", "model.layers", "checkpoint", "whole"}, LIGHTNING),
    "snapshot": ({"neuron", "model.layers", "dataset", "learner"}, {*TORCH, "numpy"}),
    "source": (set(), set()),
    "config": ({"source"}, {*HYDRA, "yaml"}),
    "fit": ({"config", "source"}, HYDRA),
    "check": ({"config", "fit", "source", "run", "report.table"}, {*HYDRA, "torch"}),
    "catalogue": ({"check", "config", "fit", "source"}, HYDRA),
    "doctor": (
        {"allocator", "check", "config", "source", "__init__"},
        {"packaging", "rich"},
    ),
    "completion": ({"check", "config"}, {"omegaconf"}),
    "scaffold": ({"check", "config"}, set()),
    "result": ({"dataset", "learner", "run", "whole"}, LIGHTNING),
    "run": (
        {*NETWORK, "rule", "dataset", "task", "learner", "callback", "logger", "snapshot"}
        | {"checkpoint", "ranks", "config", "fit", "result", "allocator", "seed", "whole"},
        {*LIGHTNING, *HYDRA, "numpy"},
    ),
    "failure": ({"callback", "checkpoint", "config", "dataset", "finite"}, set()),
    "launch": (
        {
            "check",
            "checkpoint",
            "ranks",
            "config",
            "failure",
            "lock",
            "run",
            "result",
            "sweep",
            "whole",
        },
        {*HYDRA, "yaml"},
    ),
    "pool": ({"lock"}, set()),
    "fork": ({"pool", "loaded"}, set()),
    "loaded": ({"launch", "run"}, {"torch", "rich"}),
    "gpu": (set(), set()),
    "ranks": ({"callback", "config", "pool", "run"}, {"torch", *HYDRA}),
    "board": ({"jobs"}, {"rich"}),
    "sweep": ({"check", "config", "report.collect", "whole"}, {*HYDRA, "yaml"}),
    "slurm": ({"config", "launch", "pool"}, {"omegaconf", "submitit"}),
    "ray_cluster": ({"config", "launch", "lock", "pool"}, {"omegaconf", "ray"}),
    "jobs": (
        {"board", "check", "config", "fork", "gpu", "launch", "pool", "sweep"}
        | {"report.collect", "report.stored"},
        {*HYDRA, "yaml"},
    ),
    "search": ({"check", "config", "jobs", "sweep", "whole"}, {*HYDRA, "optuna"}),
    "cli": (
        {
            "config",
            "launch",
            "catalogue",
            "check",
            "completion",
            "doctor",
            "scaffold",
            "report",
            "__init__",
        },
        set(),
    ),
    "report": (
        {"config", "pool", "source", "whole"},
        {"matplotlib", "numpy", "yaml", "scipy", "jinja2"},
    ),
    "report.request": ({"check", "config"}, {"omegaconf"}),
    "__init__": (set(), set()),
    "__main__": ({"cli"}, set()),
}
HEAVY = {
    "torch",
    "lightning",
    "tonic",
    "torchvision",
    "sklearn",
    "wandb",
    "matplotlib",
    "llvmlite",
    "numba",
}


def dotted(path: Path) -> str:
    """`neuron.lif` for snnrun/neuron/lif.py, `neuron` for its package."""
    words = path.relative_to(ROOT / "snnrun").with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" and len(words) > 1 else words)


def owner(module: str) -> str | None:
    """The entry of the table that speaks of a module."""
    words = module.split(".")
    names = (".".join(words[:n]) for n in range(len(words), 0, -1))
    return next((name for name in names if name in TABLE), None)


def imports(path: Path, *, at_start: bool = False) -> Iterator[str]:
    """What a file imports, as full names; with `at_start` only what happens when it is imported itself."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree) if at_start else ():
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if typing_only or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped |= set(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if file_of(whole) else node.module or ""


def file_of(name: str) -> Path | None:
    """The file of a module of snnrun."""
    if name.split(".")[0] != "snnrun":
        return None
    place = ROOT.joinpath(*name.split("."))
    candidates = (place.with_suffix(".py"), place / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def inner(name: str) -> str:
    """`neuron.base` for snnrun.neuron.base, `__init__` for snnrun itself."""
    return name.partition(".")[2] or "__init__"


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_one_way(path):
    entry = owner(dotted(path))
    assert entry, f"{path.name} has no place in the table of who may import whom"
    allowed, packages = TABLE[entry]
    for name in imports(path):
        if name.split(".")[0] == "snnrun":
            words = inner(name).split(".")
            names = {".".join(words[:n]) for n in range(1, len(words) + 1)}
            own = entry.split(".")[0]
            assert names & {*allowed, own}, f"{dotted(path)} must not import {name}"
        else:
            package = name.split(".")[0]
            assert package in sys.stdlib_module_names or package in packages, (
                f"{dotted(path)} must not import {name}"
            )


def closure(path: Path) -> set[str]:
    """Everything that importing a file imports at once, as far as it is snnrun's to say."""
    seen: set[str] = set()
    files, waiting = {path}, [path]
    while waiting:
        for name in imports(waiting.pop(), at_start=True):
            seen.add(name)
            words = name.split(".")
            for n in range(1, len(words) + 1):
                found = file_of(".".join(words[:n]))
                if found and found not in files:
                    files.add(found)
                    waiting.append(found)
    return seen


@pytest.mark.parametrize(
    "module",
    [
        "cli",
        "config",
        "fit",
        "source",
        "check",
        "catalogue",
        "completion",
        "doctor",
        "scaffold",
        "launch",
        "sweep",
        "jobs",
    ],
)
def test_the_command_line_starts_without_anything_heavy(module):
    found = {name.split(".")[0] for name in closure(ROOT / "snnrun" / f"{module}.py")}
    assert not found & HEAVY


def test_report_never_reaches_torch():
    for path in (ROOT / "snnrun" / "report").rglob("*.py"):
        found = {name.split(".")[0] for name in closure(path)}
        assert not found & {"torch", "lightning", "tonic", "torchvision", "wandb"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_tonic_only_in_events(path):
    users = {"dataset.events"}
    assert ("tonic" in {n.split(".")[0] for n in imports(path)}) == (dotted(path) in users)
    assert "tonic" not in {n.split(".")[0] for n in imports(path, at_start=True)}


def tracked() -> list[Path]:
    """The files of the checkout, those not committed yet too; without git, everything in the usual folders."""
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 0 and done.stdout:
        return [path for name in done.stdout.splitlines() if (path := ROOT / name).is_file()]
    folders = (ROOT / name for name in ("snnrun", "conf", "tests", "scripts"))
    return [p for folder in folders for p in folder.rglob("*") if p.is_file()]


def test_no_module_is_called_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [p for p in tracked() if {*p.relative_to(ROOT).parts[:-1], p.stem} & vague]


def needles() -> re.Pattern[str]:
    """Absolute paths of a machine and hosts of registries, put together so that this file names none."""
    folders = "|".join(
        ["wo" + "rk", "ho" + "me", "ro" + "ot", "Us" + "ers", "t" + "mp", "m" + "nt"]
    )
    hosts = ["py" + r"pi\.org", "python" + r"hosted\.org", "ana" + r"conda\.org", "local" + "host"]
    return re.compile(rf"(?<![\w.)}}>/-])/({folders})(/|\b)|{'|'.join(hosts)}")


def test_no_file_names_a_machine_or_a_registry():
    pattern = needles()
    wrong = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if pattern.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        (["/wo", "rk/data"], True),
        (["(/ho", "me/someone)"], True),
        (["https://py", "pi.org/simple"], True),
        (["frame", "work/data"], False),
        (["~/wo", "rk"], True),
        (["conf/ho", "me"], False),
        (["sp", "ikes/root"], False),
    ],
)
def test_the_needles_are_found(pieces, found):
    assert bool(needles().search("".join(pieces))) == found
