"""Test a small soak (a load test with faults) that causes two faults, and an interrupted soak."""

import json
import os
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import psutil
import pytest

from lab.storm.rig import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

COMMAND = (sys.executable, "-m", "lab.storm.soak")
SMALL = ("--models", "noop,counting,fragile", "--rate", "4", "--limit", "150")
HOSTILE = "messages-without-id,malformed-http"


def test_short_soak_writes_report(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    options = {
        "--minutes": "0.4",
        "--seed": "5",
        "--faults": "kill,stop,slow",
        "--faults-per-minute": "20",
        "--quiet-share": "0.3",
        "--hostile": HOSTILE,
        "--report": str(report),
        "--data": str(tmp_path / "data"),
    }
    run = subprocess.run(
        [*COMMAND, *SMALL, *chain.from_iterable(options.items())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(report.read_text("utf-8"))
    assert found["passed"] is True
    counts = found["counts"]
    assert [counts[name] for name in ("lost", "wrong", "doubled", "expired by a crash")] == [0] * 4
    assert counts["producers' jobs"] > 0
    assert counts["attacks"] > 0
    assert found["webhooks"]["delivered"] == found["webhooks"]["expected"] > 0
    waits = {(row["model"], row["when"]): row["longest s"] for row in found["neighbour"]}
    assert waits["noop", "calm"] > 0
    roles = {row["process"] for row in found["processes"]}
    assert {"blobs", "servicebus", "functions", "worker", "child of worker"} <= roles


def test_interrupted_soak_ends_its_processes(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--minutes", "5", "--seed", "5", "--data", str(tmp_path / "data")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "every component is ready" in line:
                break
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 5
        os.kill(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "failed: stopped by a signal" in rest
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
