"""A message that kills its worker: dead-lettered after three deliveries, and the caller hears."""

from pathlib import Path

import pytest

from tests.e2e.system import running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CATALOGUE = """
[crasher]
task = "crash"
description = "Takes its worker with it."
implementation = "tests.e2e.crasher"
queue = "crasher"
media_types = ["text/plain"]
max_input_bytes = 1000
deadline_seconds = 120
max_deadline_seconds = 120
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
max_delivery_count = 3
"""


def test_the_caller_hears_of_a_poison_message(tmp_path: Path) -> None:
    catalogue = tmp_path / "models.toml"
    catalogue.write_text(CATALOGUE)
    with running(tmp_path / "data", catalogue) as system:
        answer = system.submit("crasher", b"die", "text/plain", prefer="wait=100")
        assert answer.status_code == 500, answer.text
        problem = answer.json()
        assert problem["code"] == "dead-lettered"
        assert problem["job"]["status"] == "failed"
        assert system.job(problem["job"]["id"])["error"]["code"] == "dead-lettered"
        assert system.output().count("worker") >= 3
        served = system.submit("crasher", b"live", "text/plain")
        assert served.json()["result"] == {"echo": "live"}
