"""The operations routes of a whole system: verdicts, a killed worker, and sums of two gateways."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

VERDICT_SECONDS = 15.0
WAIT_SECONDS = 60.0
"""The machine may be busy: how long a test waits for a state that needs no time by itself."""


def overview(system: System) -> dict[str, Any]:
    answer = system.http.get("/v1/ops/overview")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def noop_queue(document: dict[str, Any]) -> dict[str, Any]:
    return next(queue for queue in document["queues"] if queue["model"] == "noop")


def codes(document: dict[str, Any], model: str | None = "noop") -> list[str]:
    return [each["code"] for each in document["verdicts"] if each["model"] == model]


@pytest.fixture
def environment() -> dict[str, str]:
    return {"WORKER_MODELS": "noop"}


def test_the_verdict_says_that_no_worker_runs_and_changes_when_one_starts(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "data", without=("worker",), environment=environment) as system:
        first = overview(system)
        assert codes(first, None) == ["no-worker"]
        began = time.monotonic()
        system.accept("noop", b"x")
        shown = until(
            lambda: (
                (document := overview(system))["verdicts"][0]["severity"] == "critical" and document
            ),
            VERDICT_SECONDS,
            "the verdict is critical",
        )
        assert time.monotonic() - began < VERDICT_SECONDS
        assert shown["verdicts"][0]["text"] == "noop: 1 job waits, no worker seen."
        queue = noop_queue(shown)
        assert queue["reason"]["code"] == "no-worker"
        assert queue["waiting"]["normal"] == 1
        port = system.port
    with running(tmp_path / "data", port=port, environment=environment) as system:
        shown = until(
            lambda: (
                (document := overview(system))["workers"]
                and "no-worker" not in codes(document)
                and document
            ),
            WAIT_SECONDS,
            "the verdict has changed",
        )
        (worker,) = shown["workers"]
        assert worker["models"][0]["name"] == "noop"
        assert worker["state"] in {"starting", "ready"}


def test_a_worker_that_is_killed_is_shown_as_silent_and_then_replaced(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "data", environment=environment) as system:
        before = until(lambda: overview(system)["workers"], WAIT_SECONDS, "a worker is seen")
        (first,) = before
        assert first["id"].endswith(f"-{system.pid('worker')}")
        system.kill("worker")

        def seen() -> dict[str, str]:
            return {worker["id"]: worker["state"] for worker in overview(system)["workers"]}

        states = until(
            lambda: len(found := seen()) == 2 and found[first["id"]] == "silent" and found,
            WAIT_SECONDS,
            "the killed worker is silent and its successor is seen",
        )
        assert set(states.values()) <= {"silent", "starting", "ready"}
        texts = [each["text"] for each in overview(system)["verdicts"]]
        assert any(first["id"] in text and "no sign of life" in text for text in texts), texts


def test_a_worker_that_shuts_down_disappears_at_once(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "data", environment=environment) as system:
        until(lambda: overview(system)["workers"], WAIT_SECONDS, "a worker is seen")
        assert system.submit("noop", b"x").status_code == 200
        with system.paused("worker parent"):
            system.terminate("worker")
            until(lambda: not overview(system)["workers"], WAIT_SECONDS, "the worker has gone")
        assert "worker-silent" not in codes(overview(system), None)
