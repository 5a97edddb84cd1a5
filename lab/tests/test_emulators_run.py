"""Test that the benchmark `./dev bench emulators` runs, with few messages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.e2e
@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_benchmark_prints_row_per_operation() -> None:
    command = [sys.executable, "-m", "lab.benchmarks", "emulators", "--messages", "100"]
    run = subprocess.run(
        [*command, "--queued", "2000"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [line.split("│")[1:4] for line in run.stdout.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        *(
            [name, queued, "1"]
            for queued in ("0", "2,000")
            for name in ("send", "receive and complete", "of which receive", "of which complete")
        ),
        ["round trip", "0", "1"],
        ["round trip", "0", "16"],
    ]
    assert "commit: " in run.stdout
    assert "other programs used " in run.stdout
