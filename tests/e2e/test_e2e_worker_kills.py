"""A few kills of the worker at random moments; `./dev conformance worker` does many."""

from pathlib import Path

import pytest

from tests.e2e.worker_kills import kill_at_random

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def test_no_job_is_lost_or_answered_twice_when_workers_die(tmp_path: Path) -> None:
    figures = kill_at_random(tmp_path, kills=2, seed=1, say=print)
    assert figures.jobs > 20
