"""Test that a message that kills the worker at each delivery is dead-lettered after the third."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.catalogues import ENTRY
from tests.e2e.system import System, run_loosely, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MORE = "deadline_seconds = 120\nlock_seconds = 5"
CATALOGUE = ENTRY.format(name="crasher", implementation="tests.e2e.crasher", more=MORE)


def test_job_that_kills_workers_is_dead_lettered(tmp_path: Path) -> None:
    with running(tmp_path / "data", CATALOGUE) as system:
        answer = system.submit("crasher", b"exit 9", "text/plain", prefer="wait=100")
        assert answer.status_code == 500, answer.text
        problem = answer.json()
        assert problem["code"] == "dead-lettered"
        assert problem["job"]["status"] == "failed"
        assert system.job(problem["job"]["id"])["error"]["code"] == "dead-lettered"
        assert system.output().count("worker") >= 3
        _check_redrive(system, problem["job"]["id"])
        served = system.submit("crasher", b"live", "text/plain")
        assert served.json()["result"] == {"echo": "live"}


def loosely(system: System, *arguments: str) -> Any:
    done = run_loosely("dead-letters", *arguments, "--json", "--url", system.url)
    return json.loads(done.stdout)


def _check_redrive(system: System, job_id: str) -> None:
    letter = loosely(system, "list", "--model", "crasher")
    assert letter["job_id"] == job_id
    assert letter["reason"] == "MaxDeliveryCountExceeded"
    assert re.search(
        "^3 deliveries .* failed.*; max_delivery_count is 3; "
        "the worker process .* exited with code 9 .*; "
        "the last step of delivery 3 in .*: the model ran$",
        letter["description"],
    ), letter["description"]
    shown = loosely(system, "show", "crasher", letter["id"])
    assert shown["input"] == {"kind": "inline", "media_type": "text/plain", "size_bytes": 6}
    # The new job would kill the worker three times, so it is cancelled before the worker runs it.
    with system.paused("worker"):
        sent = loosely(system, "redrive", "crasher", letter["id"])
        assert sent["is_new_job"] is True
        assert sent["is_repeat"] is False
        assert loosely(system, "redrive", "crasher", letter["id"]) == {**sent, "is_repeat": True}
        assert system.http.delete(f"/v1/jobs/{sent['job_id']}").status_code == 202
    assert system.final(sent["job_id"])["status"] == "cancelled"
    assert loosely(system, "purge", "crasher", "--all") == {"deleted": 1}
    assert system.http.get("/v1/admin/dead-letters").json()["dead_letters"] == []
