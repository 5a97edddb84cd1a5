import subprocess
import sys
from pathlib import Path

import pytest

from lab.benchmarks.emulators import BrokerFigure, main

ROOT = Path(__file__).parents[2]


def test_row_shows_rate_latency_and_processor() -> None:
    seconds = [0.001] * 94 + [0.011] * 6
    figure = BrokerFigure("send", 100_000, 1, seconds, 0.5, 0.04)
    assert figure.cells() == ["send", "100,000", "1", "200", "1.00", "11.00", "0.40"]


def test_unknown_processor_time_is_empty() -> None:
    assert BrokerFigure("receive", 0, 1, [0.001] * 10, 0.5, None).cells()[-1] == ""


@pytest.mark.parametrize("count", ["-1", "0", "15", "99"])
def test_fewer_than_100_messages_are_refused(
    count: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--messages", count])
    assert ended.value.code == 2
    assert f"expected at least 100 messages, found {count}" in capsys.readouterr().err


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
