"""Test the setup of the worker process: its number of threads, and how OpenMP's threads wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.processes import setup

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("processors", "torch", "preparing"), [(1, 1, 4), (2, 1, 4), (4, 2, 4), (8, 4, 8), (64, 8, 16)]
)
def test_processors_determine_the_threads(processors: int, torch: int, preparing: int) -> None:
    assert setup.torch_threads(processors) == torch
    assert setup.preparing_threads(processors) == preparing


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"),
    reason="this system cannot limit a process to some processors",
)
def test_only_allowed_processors_count() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from worker.processes import setup; print(setup.available_processors())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert found.stdout == b"1\n"


def test_openmp_waits_passively_by_default() -> None:
    before = sys.getswitchinterval()
    try:
        said = {"OMP_WAIT_POLICY": "ACTIVE"}
        setup.prefer_device_thread(said)
        assert said == {"OMP_WAIT_POLICY": "ACTIVE"}
        silent: dict[str, str] = {}
        setup.prefer_device_thread(silent)
        assert silent == {"OMP_WAIT_POLICY": "PASSIVE"}
        assert sys.getswitchinterval() < before
    finally:
        sys.setswitchinterval(before)
