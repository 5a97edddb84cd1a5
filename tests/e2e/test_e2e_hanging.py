"""Test that a model that hangs, and a worker that is stopped, do not stop a system."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import running, until

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

CATALOGUE = """
[hanging]
description = "Hangs if the input says so."
implementation = "tests.e2e.crasher"
media_types = ["text/plain"]
max_run_seconds = 2
"""


def test_hanging_job_fails_and_overview_says_why(tmp_path: Path) -> None:
    with running(tmp_path / "data", CATALOGUE) as system:
        problem = system.submit("hanging", b"hang", "text/plain").json()
        assert problem["job"]["error"]["code"] == "run-too-long", problem
        assert system.submit("hanging", b"hello", "text/plain").json()["status"] == "succeeded"

        def find_verdict() -> list[dict[str, Any]]:
            verdicts = system.http.get("/v1/ops/overview").json()["verdicts"]
            return [each for each in verdicts if each["code"] == "worker-restarted"]

        (verdict,) = until(find_verdict, 30, "the overview says that a worker was replaced")
        assert "the model hanging ran longer than max_run_seconds (2 s)" in verdict["text"]


def test_stopped_worker_is_replaced_within_30_s(tmp_path: Path) -> None:
    environment = {"WORKER_MODELS": "noop"}
    with running(tmp_path / "data", environment=environment) as system:
        first, began = system.pid("worker"), time.monotonic()
        os.kill(first, signal.SIGSTOP)
        until(lambda: system.pid("worker") not in {first, 0}, 40, "another worker runs")
        assert time.monotonic() - began < 30
        assert system.submit("noop", b"x", "text/plain").json()["status"] == "succeeded"
