"""`snnrun doctor` says what there is and what to do; what it looks for of data is what a run needs."""

import re
import shutil
from pathlib import Path

import pytest

from snnrun import doctor
from snnrun.config import BadRequest, Choices, instantiate
from snnrun.doctor import Finding

CHOICES = Choices()
OPTIONS = CHOICES.options("dataset")


def said(capsys, *words: str) -> str:
    assert doctor.main([*words]) == 0
    return capsys.readouterr().out


def found(findings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_it_prints_everything_and_returns_zero(capsys, tmp_path):
    out = said(capsys, f"paths.data={tmp_path / 'nowhere'}")
    for word in (
        "python",
        "torch",
        "processor",
        "GPU",
        "kernel, CPU",
        "allocator",
        "wandb",
        "outputs",
    ):
        assert re.search(rf"^{word}", out, re.M), word
    assert f"data sets in {tmp_path / 'nowhere'}" in out and "set paths.data=DIR" in out
    with pytest.raises(BadRequest):
        doctor.main(["path.data=x"])


@pytest.mark.parametrize("option", OPTIONS)
def test_what_it_looks_for_is_what_a_run_needs(option, tmp_path):
    def finding() -> Finding:
        return found(doctor.datasets(CHOICES, str(tmp_path)))[option]

    data = instantiate(CHOICES.compose([f"dataset={option}", f"paths.data={tmp_path}"]).dataset)
    assert (finding().well is True) == (data.missing() == "")
    for place in type(data).places:
        pattern = place if isinstance(place, str) else place[0]
        for name in ("0", "1"):  # of each class: one to train, one to test
            path = tmp_path / pattern.rstrip("*").replace("*", name)
            path = path / name if pattern.endswith("/*") else path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert data.missing() == "" and finding().well is True
    for place in type(data).places:
        pattern = place if isinstance(place, str) else place[0]
        shutil.rmtree(tmp_path / Path(pattern).parts[0], ignore_errors=True)
    assert (finding().well is True) == (data.missing() == "")


def test_packages_that_lack_or_are_too_old(monkeypatch):
    wanted = ["nothing-of-the-kind>=2", "numpy>=999", "pytest", 'nothing-else; extra == "dev"']
    monkeypatch.setattr(doctor, "needed", lambda: wanted)
    bad = {f.subject: f for f in doctor.versions() if f.well is False}
    assert set(bad) == {"nothing-of-the-kind", "numpy"}
    assert bad["nothing-of-the-kind"].advice == 'pip install "nothing-of-the-kind>=2"'
    assert bad["numpy"].found.endswith("but >=999 is needed")


@pytest.mark.parametrize(
    ("built", "driver", "well", "advice"),
    [
        (None, (13, 0), False, "torch is built without CUDA"),
        ("13.0", (12, 4), False, "the driver knows CUDA up to 12.4, torch was built for 13.0"),
        ("12.8", (12, 4), True, ""),
    ],
)
def test_a_gpu_and_what_keeps_torch_from_it(built, driver, well, advice, monkeypatch):
    monkeypatch.setattr(doctor, "gpus", lambda: (["A card, 80 GiB"], driver))
    monkeypatch.setattr(doctor, "torch_says", lambda name: built if name == "cuda" else None)
    gpu = found(doctor.devices())["GPU 0"]
    assert gpu.well is well and gpu.advice.startswith(advice) and "A card" in gpu.found


def test_wandb_with_and_without_an_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    finding = doctor.wandb()
    assert finding.found == "not logged in to api.wandb.ai" and "offline=true" in finding.advice
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert doctor.wandb().found == "logged in to api.wandb.ai"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.here:8080/x")
    assert doctor.wandb().found == "not logged in to wandb.here"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert doctor.wandb().found == "WANDB_MODE=offline"


def test_torch_says_what_it_was_built_for():
    import torch

    assert doctor.torch_says("cuda") == torch.version.cuda  # pyright: ignore[reportAttributeAccessIssue]
    assert doctor.torch_says("nothing") is None


def test_the_gpus_are_those_that_torch_sees():
    import torch

    names, _ = doctor.gpus()
    assert len(names) >= torch.cuda.device_count()
    assert all(
        torch.cuda.get_device_name(n) in name
        for n, name in enumerate(names[: torch.cuda.device_count()])
    )
