"""Test that `loosely up --traces` records traces, and that `loosely trace` draws a job's trace."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loosely.local.trace_files import Span, read_trace
from tests.e2e.system import ROOT, System, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def names_of(spans: list[Span]) -> set[str]:
    return {name for span in spans for name in ({span.name} | names_of(span.children))}


def services_of(spans: list[Span]) -> set[str]:
    return {name for span in spans for name in ({span.service} | services_of(span.children))}


def test_the_trace_command_draws_the_spans_of_the_gateway_and_of_the_worker(tmp_path: Path) -> None:
    system = System(tmp_path / "data", options=("--traces",))
    try:
        system.start()
        job = system.submit("noop", b"input").json()
        folder = system.data / "traces"

        def is_recorded() -> bool:
            return services_of(read_trace(folder, job["trace_id"])) == {
                "loosely-gateway",
                "loosely-worker",
            }

        until(is_recorded, 30, "both programs have written their spans")
        (root,) = read_trace(folder, job["trace_id"])
        assert root.service == "loosely-gateway"
        assert {"prepare", "run"} & names_of([root]), names_of([root])
        for identifier in (job["id"], job["trace_id"]):
            drawn = subprocess.run(
                [
                    *(sys.executable, "-m", "loosely", "trace", identifier),
                    *("--data", str(system.data), "--url", system.url),
                ],
                cwd=ROOT,
                env={**os.environ, "COLUMNS": "140"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert drawn.returncode == 0, drawn.stderr
            assert root.name in drawn.stdout
            assert "loosely-worker" in drawn.stdout
    finally:
        system.stop()
