"""Test labels, by which callers find their jobs again, and jobs of low priority."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.catalogue import Priority
from contract.messages import InlineBytes, JobRequest, encode_request
from gateway.jobs.model import initial_record, read_ticket, write_ticket
from gateway.submission.idempotency import IdempotencyClaim, claim_blob, fingerprint
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.dead_letters import give_up, redrive
from tests.unit.gateway.uploaded import sent
from tests.unit.gateway.webhook_delivery import HOOKS, URL, deliver, receiver
from tests.unit.gateway.workers import heard

LABEL = "order 4711, Zürich"
RAW: dict[str, Any] = {"content": b"x", "headers": {"content-type": "text/plain"}}
FORM: dict[str, Any] = {"files": {"file": ("f", b"x", "text/plain")}}
ENVELOPE = {"input": {"text": "x"}}


@pytest.mark.parametrize(
    ("parts", "label"),
    [
        (RAW, None),
        ({**RAW, "params": {"label": LABEL}}, LABEL),
        ({**RAW, "headers": {**RAW["headers"], "loosely-label": "order 4711"}}, "order 4711"),
        ({**FORM, "data": {"label": LABEL}}, LABEL),
        ({**FORM, "params": {"label": LABEL}}, LABEL),
        ({"json": {**ENVELOPE, "label": LABEL}}, LABEL),
        ({"json": {**ENVELOPE, "label": None}}, None),
        ({"json": ENVELOPE, "headers": {"loosely-label": "order 4711"}}, "order 4711"),
        ({**RAW, "params": {"label": "x" * 100}}, "x" * 100),
    ],
)
async def test_job_and_list_show_the_label(
    gateway: RunningGateway, parts: dict[str, Any], label: str | None
) -> None:
    accepted = await gateway.submit(**parts)
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["id"]
    assert accepted.json()["label"] == label
    assert (await gateway.job(job_id))["label"] == label
    await gateway.reply()
    ended = await gateway.job(job_id)
    assert (ended["status"], ended["label"]) == ("succeeded", label)
    (listed,) = (await gateway.http.get("/v1/jobs")).json()["jobs"]
    assert listed == ended
    assert "label" not in gateway.queues.request().parameters


async def test_jobs_of_an_inference_have_the_label_of_the_header(gateway: RunningGateway) -> None:
    body = {
        "inputs": [
            {"name": "x", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
        ]
    }
    headers = {"loosely-label": "both", "prefer": "wait=0"}
    answer = await gateway.http.post("/v2/models/noop/infer", json=body, headers=headers)
    assert answer.status_code == 504, answer.text
    jobs = (await gateway.http.get("/v1/jobs?label=both")).json()["jobs"]
    assert [job["label"] for job in jobs] == ["both", "both"]


@pytest.mark.parametrize(
    "label",
    ["", "x" * 101, "a\nb", "a\tb", "a\x00b", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "\u2066"],
)
async def test_label_of_control_characters_or_wrong_length_is_refused(
    gateway: RunningGateway, label: str
) -> None:
    for parts in (
        {**RAW, "params": {"label": label}},
        {"json": {**ENVELOPE, "label": label}},
    ):
        answer = await gateway.submit(**parts)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request")
        assert answer.json()["detail"].startswith("label: expected a text of 1 to 100 characters")
    assert gateway.durable.runs == {}


@pytest.mark.parametrize(
    "parts",
    [
        {"json": {**ENVELOPE, "label": 7}},
        {"json": {**ENVELOPE, "label": ["a"]}},
        {"content": b'{"input": {"text": "x"}, "label": "\\ud800"}'},
        {**RAW, "params": {"label": "a"}, "headers": {**RAW["headers"], "loosely-label": "a"}},
        {**RAW, "headers": {**RAW["headers"], "loosely-label": "é".encode()}},
        {**RAW, "headers": {**RAW["headers"], "loosely-label": " "}},
    ],
)
async def test_label_that_is_no_text_or_comes_twice_is_refused(
    gateway: RunningGateway, parts: dict[str, Any]
) -> None:
    parts = {**parts, "headers": {"content-type": "application/json", **parts.get("headers", {})}}
    answer = await gateway.submit(**parts)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request"), answer.text
    assert "abel" in answer.json()["detail"]


async def test_webhook_contains_the_label() -> None:
    async with open_gateway(**HOOKS) as gateway:
        job_id = await gateway.accept(webhook_url=URL, label=LABEL)
        await gateway.reply()
        await deliver(gateway, job_id)
        ((_, _, body),) = receiver(gateway).posts
        assert json.loads(body)["label"] == LABEL


async def test_redriven_job_has_the_label(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(label=LABEL)
    await give_up(gateway, encode_request(gateway.queues.request()), job_id)
    answer = await redrive(gateway, job_id)
    assert (await gateway.job(answer.json()["job_id"]))["label"] == LABEL


async def test_claim_of_version_0_1_matches_without_a_label(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    # The options of version 0.1 before there were labels.
    options = {
        "media_type": "application/octet-stream",
        "parameters": {},
        "deadline_seconds": 60,
        "url": None,
        "upload": None,
        "webhook_url": None,
        "priority": "normal",
    }
    digest = hashlib.sha256(b"x").hexdigest()
    claim = IdempotencyClaim(job_id, fingerprint("noop", digest, options), gateway.clock())
    gateway.blobs.put(claim_blob("", "one"), claim.encode())
    headers = {"content-type": "application/octet-stream", "idempotency-key": "one"}
    repeated = await gateway.submit(content=b"x", headers=headers)
    assert (repeated.status_code, repeated.json().get("id")) == (202, job_id), repeated.text
    labelled = await gateway.submit(content=b"x", headers=headers, params={"label": "a"})
    assert labelled.status_code == 422


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
