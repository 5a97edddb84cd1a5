"""Test `./dev crash`, which kills each service of the emulator under load, with a fixed seed."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(300)


def start_crash(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m crash_tests` with pytest's search path for modules, and return its result."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "crash_tests", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def run_crash(*arguments: str) -> str:
    """Run the program of `./dev crash`, check that it exits with 0, and return its output."""
    run = start_crash(*arguments)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("service", ["servicebus", "functions", "blobs"])
def test_killed_service_loses_no_acknowledged_data(
    service: str,
) -> None:
    printed = run_crash(service, "--kills", "3", "--seed", "7")
    assert f"{service}:\n" in printed


def test_unknown_service_is_refused() -> None:
    run = start_crash("queues")
    assert run.returncode == 2
    assert "unknown service queues" in run.stderr
