"""Jobs of low priority: the queue they go to, and what is told of it."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from contract.catalogue import Priority
from contract.messages import InlineBytes, JobRequest
from gateway.jobs.model import initial_record, read_ticket, write_ticket
from tests.unit.gateway.conftest import World
from tests.unit.gateway.test_gateway_queueing import heard
from tests.unit.gateway.test_gateway_uploads import sent

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

JOBS = "/v1/models/noop/jobs"
ASYNC = {"prefer": "respond-async"}


async def submitted(world: World, **request: Any) -> httpx.Response:
    headers = {**ASYNC, **request.pop("headers", {})}
    return await world.http.post(JOBS, headers=headers, **request)


RAW = {"content": b"x", "headers": {"content-type": "text/plain"}}
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
async def test_a_priority_chooses_the_queue(
    world: World, request_parts: dict[str, Any], queue: str
) -> None:
    answer = await submitted(world, **request_parts)
    assert answer.status_code == 202, answer.text
    assert world.queues.sent[-1][0] == queue


async def test_an_upload_may_wait_as_well(world: World) -> None:
    name = await sent(world, b"hello", "text/plain")
    by_query = await submitted(world, params={"upload": name, "priority": "low"})
    assert by_query.status_code == 202, by_query.text
    in_json = await submitted(world, json={"input": {"upload": name}, "priority": "low"})
    assert in_json.status_code == 202, in_json.text
    assert [queue for queue, _ in world.queues.sent] == ["noop-low", "noop-low"]


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
async def test_another_priority_is_refused(world: World, request_parts: dict[str, Any]) -> None:
    answer = await submitted(world, **request_parts)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
    assert "priority" in answer.json()["detail"]
    assert world.durable.runs == {}


async def test_a_normal_job_stands_before_every_low_one(world: World) -> None:
    heard(world, 2.0)
    low = [await world.accept(priority="low") for _ in range(2)]
    world.clock.now += timedelta(milliseconds=1)
    normal = [await world.accept() for _ in range(3)]
    world.clock.now += timedelta(milliseconds=2000)
    queues = [(await world.job(ids[-1]))["queue"] for ids in (normal, low)]
    assert [queue["position"] for queue in queues] == [3, 5]
    assert [queue["eta_seconds"] for queue in queues] == [6.0, 10.0]


async def test_who_looks_at_a_normal_job_counts_one_queue(world: World) -> None:
    job_id, low = await world.accept(), await world.accept(priority="low")
    for looked_at, count in ((job_id, 1), (low, 2)):
        world.clock.now += timedelta(milliseconds=2000)
        world.queues.look_count = 0
        await world.job(looked_at)
        assert world.queues.look_count == count


async def test_a_model_tells_of_both_queues(world: World) -> None:
    world.queues.lengths |= {"noop": 3, "noop-low": 40}
    heard(world, 2.0)
    model = (await world.http.get("/v1/models/noop")).json()
    assert (model["queue_length"], model["estimated_wait_seconds"]) == (43, 8.0)


async def test_only_a_low_job_is_refused_for_the_low_queue(world: World) -> None:
    world.queues.lengths |= {"noop": 10, "noop-low": 100}
    heard(world, 1.0)
    await world.http.get("/v1/models/noop")
    options = {"deadline_seconds": 60}
    assert (await submitted(world, **RAW, params=options)).status_code == 202
    refused = await submitted(world, **RAW, params={**options, "priority": "low"})
    assert (refused.status_code, refused.json()["code"]) == (503, "saturated")
    assert int(refused.headers["retry-after"]) == 10 + 100 + 1 - 60


async def test_a_reply_is_taken_off_the_queue_that_its_job_was_in(world: World) -> None:
    low, normal = await world.accept(priority="low"), await world.accept()
    world.clock.now += timedelta(milliseconds=2000)
    await world.job(low)
    await world.reply(world.queues.request(0))
    assert (await world.job(low))["status"] == "succeeded"
    model = (await world.http.get("/v1/models/noop")).json()
    assert model["queue_length"] == 1
    assert (await world.job(normal))["queue"]["position"] == 1


async def test_another_priority_is_another_request(world: World) -> None:
    answers = [
        await submitted(
            world,
            content=b"x",
            params=query,
            headers={"content-type": "text/plain", "idempotency-key": "one"},
        )
        for query in ({}, {"priority": "normal"}, {"priority": "low"})
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 422]
    assert answers[2].json()["code"] == "idempotency-mismatch"


def test_a_ticket_without_a_priority_is_normal() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    request = JobRequest("1", "noop", InlineBytes("text/plain", b"x"), now, now)
    plain = write_ticket(request, None)
    assert "priority" not in plain.text
    assert "priority" not in initial_record(plain)
    assert read_ticket(plain.text).priority is Priority.NORMAL
    low = write_ticket(request, None, priority=Priority.LOW)
    assert read_ticket(low.text) == low
    assert initial_record(low)["priority"] == "low"
    with pytest.raises(ValueError, match="urgent"):
        read_ticket(json.dumps({**json.loads(plain.text), "priority": "urgent"}))
