"""Test that the worker of a second `loosely up` runs jobs of the first `loosely up`."""

from pathlib import Path

import pytest

from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]


def test_worker_of_a_second_up_runs_a_job(tmp_path: Path) -> None:
    with running(tmp_path / "first", without=("worker",)) as first:
        job_id = first.accept("noop", b"input")
        others = ("servicebus", "blobs", "functions")
        noop = {"WORKER_MODELS": "noop"}
        second = System(tmp_path / "second", without=others, port=first.port, environment=noop)
        try:
            second.start()
            assert first.final(job_id)["status"] == "succeeded"
        finally:
            second.stop()
