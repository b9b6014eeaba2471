"""Which GPUs there are to hand out."""

import pytest

from snnrun.gpu import gpus, named

LISTING = """\
GPU 0: NVIDIA A100 (UUID: GPU-aa-1)
GPU 1: NVIDIA A100 (UUID: GPU-bb-2)
  MIG 3g.20gb Device 0: (UUID: MIG-cc-3)
  MIG 3g.20gb Device 1: (UUID: MIG-dd-4)
GPU 2: NVIDIA A100 (UUID: GPU-ee-5)
"""


def test_the_slices_of_a_divided_gpu_are_named_in_its_place():
    assert named(LISTING) == ["GPU-aa-1", "MIG-cc-3", "MIG-dd-4", "GPU-ee-5"]
    assert named("No devices found.\n") == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])],
)
def test_those_that_are_visible(monkeypatch, given, wanted):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert gpus() == wanted


def test_as_the_driver_lists_them(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []  # no driver
    tool.write_text(f"#!/bin/sh\n/bin/cat <<'end'\n{LISTING}end\n")
    tool.chmod(0o755)
    assert gpus() == named(LISTING)
    tool.write_text("#!/bin/sh\necho broken; exit 9\n")
    assert gpus() == []
