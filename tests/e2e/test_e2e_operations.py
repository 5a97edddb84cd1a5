"""Test the routes for operators (`/v1/ops` and `/metrics`) of a whole system."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.system import ROOT, System, running, until
from tests.ports import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

VERDICT_SECONDS = 15.0
WAIT_SECONDS = 60.0
"""How long a test waits for a state at most. Only a busy machine needs this much time."""


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


def test_overview_warns_until_a_worker_starts(tmp_path: Path, environment: dict[str, str]) -> None:
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


def test_overview_shows_a_killed_worker_as_silent(
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
        assert any(first["id"] in text and "was killed" in text for text in texts), texts


def test_answers_come_while_service_bus_hangs(tmp_path: Path, environment: dict[str, str]) -> None:
    with running(tmp_path / "data", environment=environment) as system:
        assert system.submit("noop", b"x").status_code == 200
        with system.paused("servicebus"):
            began = time.monotonic()
            document = overview(system)
            assert document["verdicts"][0]["severity"] == "critical"
            assert document["verdicts"][0]["text"].startswith("Service Bus does not answer since ")
            assert "queue-unknown" not in codes(document)
            assert system.http.get("/metrics").status_code == 200
            job_id = system.accept("noop", b"x")
            assert system.submit("noop", b"x").status_code == 202  # although the caller would wait
            assert time.monotonic() - began < VERDICT_SECONDS
        assert system.final(job_id)["status"] == "succeeded"
        until(
            lambda: "service-unavailable" not in codes(overview(system), None),
            WAIT_SECONDS,
            "the verdict has changed",
        )


@contextmanager
def second_gateway(system: System, data: Path) -> Iterator[httpx.Client]:
    port = free_ports(1)
    environment = psutil.Process(system.pid("functions")).environ()
    environment["GATEWAY_BASE_URL"] = url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "emulator.functions", "--app", str(ROOT / "functions")]
    command += ["--port", str(port), "--data", str(data)]
    with (
        subprocess.Popen(command, cwd=ROOT, env=environment) as host,
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        try:
            until(lambda: is_ready(http), WAIT_SECONDS, "the second gateway is ready")
            yield http
        finally:
            host.terminate()


def is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def accepted(http: httpx.Client) -> int:
    series = http.get("/v1/ops/series").json()
    return sum(series["models"]["noop"]["accepted"])


def test_overview_counts_jobs_of_a_stopped_gateway(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(tmp_path / "data", without=("worker",), environment=environment) as system:
        system.accept("noop", b"x")
        with second_gateway(system, tmp_path / "second") as other:
            for _ in range(2):
                answer = other.post(
                    "/v1/models/noop/jobs",
                    content=b"x",
                    headers={"content-type": "text/plain", "prefer": "respond-async"},
                )
                assert answer.status_code == 202, answer.text
            assert accepted(other) == 2
            # A scrape writes the counters of the process that answers.
            assert system.http.get("/metrics").status_code == 200
            until(lambda: accepted(other) == 3, WAIT_SECONDS, "the second gateway sees all jobs")
        # The second gateway has written its sums when it ended, less than a minute after them.
        until(lambda: accepted(system.http) == 3, WAIT_SECONDS, "the first gateway sees all jobs")
        text = system.http.get("/metrics").text
        assert text.count('loosely_gateway_jobs_accepted_total{model="noop"') == 2
