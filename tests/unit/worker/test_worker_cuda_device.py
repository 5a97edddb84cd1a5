"""Test the limit on the GPU memory that models may use, and the description of the GPU.

These tests need no GPU. `./dev gpu` runs the tests that need one.
"""

from pathlib import Path
from typing import Any

import pytest

from worker.errors import DeviceMissing
from worker.memory.device import describe_device, driver_version, require_cuda, usable_bytes

GIB = 2**30


@pytest.mark.parametrize("all_gib", [8, 16, 24, 80])
@pytest.mark.parametrize("shares", [1, 2, 4, 10])
def test_processes_and_contexts_fit_into_memory(all_gib: int, shares: int) -> None:
    each_bytes = usable_bytes(all_gib * GIB, shares)
    assert shares * (each_bytes + GIB // 2) <= all_gib * GIB
    assert shares * each_bytes <= all_gib * GIB * 0.94


def test_94_percent_or_what_contexts_leave_is_usable() -> None:
    assert usable_bytes(80 * GIB, 1) == pytest.approx(80 * GIB * 0.94)
    assert usable_bytes(16 * GIB, 4) == 3.5 * GIB
    assert usable_bytes(GIB, 4) == 0


NVIDIA_VERSION = """\
NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.126.09  Wed Jan  7 22:39:21 UTC 2026
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
"""
NVIDIA_OPEN_VERSION = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"
)


@pytest.mark.parametrize(
    ("text", "version"),
    [(NVIDIA_VERSION, "580.126.09"), (NVIDIA_OPEN_VERSION, "580.65.06"), ("", "")],
)
def test_driver_version_is_read_from_its_file(tmp_path: Path, text: str, version: str) -> None:
    file = tmp_path / "version"
    file.write_text(text)
    assert driver_version(file) == version


def test_driver_version_is_empty_without_a_driver(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "version") == ""


def test_process_without_a_device_reports_cpu() -> None:
    assert describe_device("cpu").device == "cpu"


@pytest.mark.torch
def test_missing_gpu_names_version_and_build_of_torch() -> None:
    torch: Any = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(DeviceMissing) as raised:
        require_cuda()
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "is a build for the CPU"
    assert torch.__version__ in str(raised.value)
    assert build in str(raised.value)
