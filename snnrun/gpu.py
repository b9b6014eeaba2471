"""Which GPUs this process may use, found without torch: asking that would keep the processes to come from them."""

import os
import re
import subprocess


def gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES may name them; empty if there are none."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in names if name and name != "-1"]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return named(listed.stdout) if listed.returncode == 0 else []


def named(listing: str) -> list[str]:
    """The names in a listing of `nvidia-smi -L`: of the slices of a GPU that is divided, else of the GPU itself."""
    names: list[str] = []
    for kind, name in re.findall(r"^\s*(GPU|MIG)\b.*\(UUID: ([\w-]+)\)", listing, re.MULTILINE):
        if kind == "MIG" and names and names[-1].startswith("GPU-"):
            names.pop()  # divided
        names.append(name)
    return names
