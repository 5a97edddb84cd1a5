"""Test jobs of low priority: their queue, and their estimated position and wait."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.catalogue import Priority
from contract.messages import InlineBytes, JobRequest
from gateway.jobs.model import initial_record, read_ticket, write_ticket
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.uploaded import sent
from tests.unit.gateway.workers import heard

RAW: dict[str, Any] = {"content": b"x", "headers": {"content-type": "text/plain"}}
FORM = {"files": {"file": ("f", b"x", "text/plain")}}
ENVELOPE = {"input": {"text": "x"}}


@pytest.mark.parametrize(
    ("request_parts", "queue"),
    [
        (RAW, "noop"),
        ({**RAW, "params": {"priority": "normal"}}, "noop"),
        ({**RAW, "params": {"priority": "low"}}, "noop-low"),
        ({**FORM, "data": {"priority": "low"}}, "noop-low"),
        ({**FORM, "params": {"priority": "low"}}, "noop-low"),
        ({"json": {**ENVELOPE, "priority": "low"}}, "noop-low"),
        ({"json": {**ENVELOPE, "priority": "normal"}}, "noop"),
        ({"json": {**ENVELOPE, "priority": None}}, "noop"),
    ],
)
async def test_priority_determines_the_queue(
    gateway: RunningGateway, request_parts: dict[str, Any], queue: str
) -> None:
    answer = await gateway.submit(**request_parts)
    assert answer.status_code == 202, answer.text
    assert gateway.queues.sent[-1][0] == queue


async def test_upload_is_sent_to_the_low_priority_queue(gateway: RunningGateway) -> None:
    name = await sent(gateway, b"hello", "text/plain")
    by_query = await gateway.submit(params={"upload": name, "priority": "low"})
    assert by_query.status_code == 202, by_query.text
    in_json = await gateway.submit(json={"input": {"upload": name}, "priority": "low"})
    assert in_json.status_code == 202, in_json.text
    assert [queue for queue, _ in gateway.queues.sent] == ["noop-low", "noop-low"]


@pytest.mark.parametrize(
    "request_parts",
    [
        {**RAW, "params": {"priority": "high"}},
        {**RAW, "params": {"priority": ""}},
        {**RAW, "params": {"priority": "LOW"}},
        {"json": {**ENVELOPE, "priority": 1}},
        {"json": {**ENVELOPE, "priority": ["low"]}},
        {"json": {**ENVELOPE, "priority": {}}},
        {"json": {**ENVELOPE, "priority": ""}},
    ],
)
async def test_unknown_priority_is_refused(
    gateway: RunningGateway, request_parts: dict[str, Any]
) -> None:
    answer = await gateway.submit(**request_parts)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert "priority" in answer.json()["detail"]
    assert gateway.durable.runs == {}


@pytest.mark.parametrize(
    ("name", "default", "value"),
    [("priority", Priority.NORMAL, Priority.LOW), ("label", None, "order 4711")],
)
def test_ticket_has_the_option_only_if_it_is_set(name: str, default: Any, value: Any) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    request = JobRequest("1", "noop", InlineBytes("text/plain", b"x"), now, now)
    plain = write_ticket(request, None)
    assert name not in plain.text
    assert name not in initial_record(plain)
    assert getattr(read_ticket(plain.text), name) == default
    changed = write_ticket(request, None, sent_at=now, **{name: value})
    assert read_ticket(changed.text) == changed
    assert initial_record(changed).get(name) == value


def test_ticket_with_an_unknown_priority_is_refused() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    ticket = write_ticket(JobRequest("1", "noop", InlineBytes("text/plain", b"x"), now, now), None)
    with pytest.raises(ValueError, match="urgent"):
        read_ticket(json.dumps({**json.loads(ticket.text), "priority": "urgent"}))


async def test_normal_jobs_come_before_low_jobs(gateway: RunningGateway) -> None:
    heard(gateway, 2.0)
    low = [await gateway.accept(priority="low") for _ in range(2)]
    gateway.clock.now += timedelta(milliseconds=1)
    normal = [await gateway.accept() for _ in range(3)]
    gateway.clock.now += timedelta(seconds=6)
    queues = [(await gateway.job(ids[-1]))["queue"] for ids in (normal, low)]
    assert [queue["position"] for queue in queues] == [3, 5]
    assert [queue["eta_seconds"] for queue in queues] == [6.0, 10.0]


async def test_normal_position_ignores_the_low_queue(gateway: RunningGateway) -> None:
    job_id, low = await gateway.accept(), await gateway.accept(priority="low")
    for looked_at, count in ((job_id, 1), (low, 2)):
        gateway.clock.now += timedelta(seconds=6)
        gateway.queues.look_count = 0
        await gateway.job(looked_at)
        assert gateway.queues.look_count == count


async def test_queue_length_includes_both_priorities(gateway: RunningGateway) -> None:
    gateway.queues.lengths |= {"noop": 3, "noop-low": 40}
    heard(gateway, 2.0)
    model = (await gateway.http.get("/v1/models/noop")).json()
    assert (model["queue_length"], model["estimated_wait_seconds"]) == (43, 8.0)


async def test_only_low_jobs_are_refused_if_that_queue_is_full(gateway: RunningGateway) -> None:
    gateway.queues.lengths |= {"noop": 10, "noop-low": 100}
    heard(gateway, 1.0)
    await gateway.http.get("/v1/models/noop")
    options = {"deadline_seconds": 60}
    assert (await gateway.submit(**RAW, params=options)).status_code == 202
    refused = await gateway.submit(**RAW, params={**options, "priority": "low"})
    assert (refused.status_code, refused.json()["code"]) == (503, "saturated")
    assert int(refused.headers["retry-after"]) == 10 + 100 + 1 - 60


async def test_reply_reduces_the_queue_length(gateway: RunningGateway) -> None:
    low, normal = await gateway.accept(priority="low"), await gateway.accept()
    gateway.clock.now += timedelta(seconds=6)
    await gateway.job(low)
    await gateway.reply(gateway.queues.request(0))
    assert (await gateway.job(low))["status"] == "succeeded"
    model = (await gateway.http.get("/v1/models/noop")).json()
    assert model["queue_length"] == 1
    assert (await gateway.job(normal))["queue"]["position"] == 1
