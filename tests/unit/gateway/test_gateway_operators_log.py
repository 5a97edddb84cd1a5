"""Test log lines for operators, and that the queries of Azure Monitor's alerts can parse them."""

import logging
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contract.queues import names
from gateway.jobs.orchestrator import log_failure
from gateway.queues.client import log_oldest
from tests.unit.gateway.conftest import RunningGateway

ALERTS = Path(__file__).parents[3] / "infra" / "modules" / "alerts.bicep"


def query(name: str) -> str:
    found = re.search(rf"name: '{name}'.*?query: '(.*?)'\n", ALERTS.read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


async def test_oldest_message_of_each_queue_is_logged(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.queues.enqueued_at["noop"] = gateway.clock() - timedelta(seconds=90)
    with caplog.at_level("INFO"):
        await log_oldest(gateway.queues, names(gateway.services.catalogue), gateway.clock)
    assert caplog.messages == ["queue noop: the oldest message is 90 s old"]
    parsed = 'parse message with "queue " queue ": the oldest message is " seconds:real " s"'
    assert parsed in query("oldest-message")


async def test_outage_is_logged_once_for_each_queue(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.queues.is_down = True
    await log_oldest(gateway.queues, names(gateway.services.catalogue), gateway.clock)
    assert len(caplog.messages) == 2 * len(gateway.services.catalogue)


@pytest.mark.parametrize(
    ("status", "told"),
    [("succeeded", False), ("cancelled", False), ("failed", True), ("expired", True)],
)
def test_only_failed_and_expired_jobs_are_logged(
    status: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log_failure("1", {"model": "noop", "status": status, "error": {"code": "boom"}})
    assert caplog.messages == ([f"job 1 of noop ended as {status}: boom"] if told else [])
    parsed = 'parse message with "job " * " of " model " ended as " status ": " code'
    assert parsed in query("failed-jobs")


async def test_accepted_and_refused_requests_are_logged(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway")
    text: dict[str, Any] = {"content": b"x", "headers": {"content-type": "text/plain"}}
    accepted = await gateway.submit(**text)
    refused = await gateway.submit(params={"a\nb": "1"}, **text)
    lines = [line for line in caplog.messages if "traceparent" in line]
    job = accepted.json()
    assert (
        f"job {job['id']} of the model noop was accepted [traceparent 00-{job['trace_id']}-"
        in lines[0]
    )
    assert "the request 'POST' '/v1/models/noop/jobs' was refused: malformed-request: " in lines[1]
    assert f"00-{refused.json()['trace_id']}-" in lines[1]
    assert all("\n" not in line for line in lines)
