"""`snnrun doctor`: what this machine has for snnrun, and what to do about what it lacks. Imports no torch."""

import ctypes
import importlib.util
import netrc
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Any

from snnrun.allocator import keep_freed_memory
from snnrun.check import request
from snnrun.config import BadRequest, Choices
from snnrun.source import definition

SHOWN = ("torch", "lightning", "hydra-core", "numba", "tonic", "wandb", "scikit-learn")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    **Arguments:**

    - `subject`: what it is.
    - `found`: what there is.
    - `well`: whether that is all that is needed; None if it is a matter of choice.
    - `advice`: what to do.
    """

    subject: str
    found: str
    well: bool | None = True
    advice: str = ""


def main(words: list[str]) -> int:
    """The verb: look at everything and print it. Returns 0. Raises `BadRequest`."""
    choices, overrides = request(words)
    try:
        paths = choices.compose(overrides).paths
        data, outputs = str(paths.data), Path(paths.outputs)
    except AttributeError as error:
        raise BadRequest("Usage: snnrun doctor [paths.data=DIR] [--config-dir DIR]") from error
    sections = {
        "versions": versions(),
        "devices": devices(),
        "kernels and memory": running(),
        f"data sets in {os.path.abspath(os.path.expanduser(data))}": datasets(choices, data),
        "files and loggers": around(outputs),
    }
    show({title: [*found] for title, found in sections.items()})
    return 0


def show(sections: dict[str, list[Finding]]) -> None:
    """Print a table for each section."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    marks = {True: ("ok", "green"), False: ("missing", "red"), None: ("-", "dim")}
    for title, findings in sections.items():
        look: Any = {"title_justify": "left", "title_style": "bold", "padding": (0, 2, 0, 0)}
        table = Table(title=title, box=None, show_header=False, pad_edge=False, **look)
        table.add_column(width=14, overflow="fold")
        table.add_column(width=7)
        table.add_column(overflow="fold")
        for finding in findings:
            mark, style = marks[finding.well]
            words = Text(finding.found)
            if finding.advice:
                words.append(
                    f"\n{finding.advice}", style="italic" if finding.well is not False else "yellow"
                )
            table.add_row(finding.subject, Text(mark, style=style), words)
        console.print(table)
        console.print()
    lacking = sum(f.well is False for findings in sections.values() for f in findings)
    console.print(
        f"Missing, see above: {lacking}." if lacking else "Nothing that is needed is missing."
    )


# --- versions


def versions() -> Iterator[Finding]:
    """Python, snnrun and the packages that it needs."""
    from packaging.requirements import Requirement

    from snnrun import __version__

    yield Finding("python", f"{platform.python_version()}, {sys.executable}")
    yield Finding("snnrun", f"{__version__}, {Path(__file__).parent}")
    for name in SHOWN:
        with suppress(PackageNotFoundError):
            yield Finding(name, version(name) + (f", {build()}" if name == "torch" else ""))
    for text in needed():
        needs = Requirement(text)
        if needs.marker and not needs.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(needs.name)
        except PackageNotFoundError:
            yield Finding(
                needs.name, "not installed", False, f'pip install "{needs.name}{needs.specifier}"'
            )
            continue
        if found not in needs.specifier and not needs.specifier.contains(found, prereleases=True):
            advice = f'pip install "{needs.name}{needs.specifier}"'
            yield Finding(needs.name, f"{found}, but {needs.specifier} is needed", False, advice)


def needed() -> list[str]:
    """What snnrun depends on."""
    try:
        return requires("snnrun") or []
    except PackageNotFoundError:  # run from a checkout that was not installed
        return []


def build() -> str:
    """What torch was built for, as its own file says."""
    cuda = torch_says("cuda")
    if cuda:
        return f"built for CUDA {cuda}"
    hip = torch_says("hip")
    return (
        f"built for ROCm {hip}"
        if hip
        else "built for CPUs" + (" and Apple's GPU" if sys.platform == "darwin" else "")
    )


def torch_says(name: str) -> str | None:
    """A value in torch's version.py, which is read and not run."""
    try:
        path = distribution("torch").locate_file("torch/version.py")
        found = re.search(rf"^{name}\b[^=]*= *'([^']+)'", Path(str(path)).read_text(), re.M)
    except (PackageNotFoundError, OSError):
        return None
    return found[1] if found else None


# --- devices


def devices() -> Iterator[Finding]:
    """Processors, and GPUs as their driver names them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS")
    limit = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding("processor", f"{processor()}, {allowed} of {os.cpu_count()} cores{limit}")
    names, driver = gpus()
    cuda = torch_says("cuda")
    for n, name in enumerate(names):
        if cuda is None:
            advice = "torch is built without CUDA: install a build for it, see https://pytorch.org/get-started"
            yield Finding(f"GPU {n}", name, False, advice)
        elif driver and driver < major_minor(cuda)[:1]:
            knows = ".".join(map(str, driver))
            advice = (
                f"the driver knows CUDA up to {knows}, torch was built for {cuda}: renew the driver"
            )
            yield Finding(f"GPU {n}", name, False, advice)
        else:
            yield Finding(f"GPU {n}", f"{name}; trainer.accelerator=auto uses it")
    if not names and sys.platform == "darwin" and platform.machine() == "arm64":
        yield Finding("GPU", "Apple's; trainer.accelerator=auto uses it")
    elif not names:
        yield Finding("GPU", "none", None, "runs take the processor")


def processor() -> str:
    """The processor as the system names it."""
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def gpus() -> tuple[list[str], tuple[int, int] | None]:
    """The GPUs that NVIDIA's driver shows to this process, and the CUDA version that it knows."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1" if sys.platform != "win32" else "nvcuda.dll")
    except OSError:
        return [], None
    count, known = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return [], None
    cuda.cuDriverGetVersion(ctypes.byref(known))
    names = []
    for n in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        cuda.cuDeviceGet(ctypes.byref(device), n)
        cuda.cuDeviceGetName(name, len(name), device)
        cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        names.append(f"{name.value.decode(errors='replace')}, {size.value / 2**30:.0f} GiB")
    return names, (known.value // 1000, known.value % 1000 // 10)


def major_minor(text: str) -> tuple[int, ...]:
    """`12.4` as numbers."""
    return tuple(int(word) for word in re.findall(r"\d+", text)[:2])


# --- how networks run


def running() -> Iterator[Finding]:
    """What fuses neurons, and whether memory that is freed is kept."""
    numba, triton = (importlib.util.find_spec(name) is not None for name in ("llvmlite", "triton"))
    if numba:
        yield Finding("kernel, CPU", "numba: kernel=auto fuses neurons")
    else:
        yield Finding(
            "kernel, CPU", "none: neurons run step by step, much slower", False, "pip install numba"
        )
    if torch_says("cuda"):
        advice = "" if triton else "pip install triton"
        words = "triton: kernel=auto fuses neurons" if triton else "none: neurons run step by step"
        yield Finding("kernel, GPU", words, triton, advice)
    kept = sys.platform == "linux" and keep_freed_memory()
    words = (
        "glibc's, told to keep what a step frees (keep_memory=true)"
        if kept
        else "the system's as it is"
    )
    yield Finding("allocator", words, kept or None)


# --- data


def datasets(choices: Choices, data: str) -> Iterator[Finding]:
    """Which data sets are in place."""
    root = Path(os.path.expanduser(data))
    for option in choices.options("dataset"):
        target = choices.load("dataset", option).get("_target_")
        known = definition(target) if isinstance(target, str) else None
        if known is None or target is None:
            continue
        places = known.literals.get("places", ())
        lost = [place for place in places if not there(root, place)]
        if not places:
            yield Finding(
                option,
                "needs no files" if target.startswith("snnrun.") else "says itself what it needs",
            )
        elif not lost:
            yield Finding(option, "found")
        else:
            first = lost[0] if isinstance(lost[0], str) else lost[0][0]
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            words = "incomplete, without" if len(lost) < len(places) else "not here, for want of"
            yield Finding(option, f"{words} {first}{more}", None)
    if not root.is_dir():
        yield Finding(
            "folder",
            f"there is no {data}",
            None,
            "set paths.data=DIR, or SNNRUN_DATA in the environment",
        )
    else:
        advice = "dataset=NAME dataset.download=true fetches one; a run names what is missing with sizes and checksums"
        yield Finding("more", "", None, advice)


def there(root: Path, place: str | Sequence[str]) -> bool:
    """Whether a file is in place: relative to the data folder, or absolute."""
    for pattern in (place,) if isinstance(place, str) else place:
        base, inside = (Path("/"), pattern[1:]) if pattern.startswith("/") else (root, pattern)
        if next(base.glob(inside), None) is not None:
            return True
    return False


# --- around


def around(outputs: Path) -> Iterator[Finding]:
    """Where runs go, and whether Weights & Biases knows the user."""
    place = next(
        folder for folder in (outputs.absolute(), *outputs.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        yield Finding("outputs", f"{outputs} cannot be written to", False, "paths.outputs=DIR")
    else:
        advice = "" if free > 1 else "this is little: paths.outputs=DIR"
        words = f"{outputs.absolute()}, {free:,.0f} GiB free"
        yield Finding("outputs", words, True if free > 1 else None, advice)
    yield wandb()
    if importlib.util.find_spec("tensorboard"):
        yield Finding("tensorboard", "logger=tensorboard, then: tensorboard --logdir DIR")
    else:
        yield Finding("tensorboard", "not installed", None, "pip install tensorboard")


def wandb() -> Finding:
    """Whether runs can be sent to Weights & Biases."""
    offline = "without an account: logger=wandb logger.wandb.offline=true, later wandb sync"
    if importlib.util.find_spec("wandb") is None:
        return Finding("wandb", "not installed", None, "pip install wandb")
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Finding("wandb", f"WANDB_MODE={mode}", None, f"unset it to send runs; {offline}")
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    host = re.sub(r"^\w+://|[:/].*$", "", server)
    if os.environ.get("WANDB_API_KEY") or known_to(host):
        return Finding("wandb", f"logged in to {host}")
    return Finding("wandb", f"not logged in to {host}", None, f"wandb login; {offline}")


def known_to(host: str) -> bool:
    """Whether there is an entry for a host in the user's file of logins."""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
