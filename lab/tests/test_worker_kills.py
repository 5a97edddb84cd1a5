"""Test that each job ends once although the worker is killed twice at random moments.

`./dev conformance worker` kills the worker many times.
"""

from pathlib import Path

import pytest

from lab.storm.worker_kills import kill_at_random

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]


def test_each_job_has_one_final_result(tmp_path: Path) -> None:
    figures = kill_at_random(tmp_path, kills=2, seed=1, say=print)
    assert figures.jobs > 20
