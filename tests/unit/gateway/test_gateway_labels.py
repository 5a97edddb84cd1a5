"""Test labels: short texts that callers give to jobs, to find the jobs again."""

import json
from typing import Any

import pytest

from contract.messages import encode_request
from gateway.submission.idempotency import IdempotencyClaim, claim_blob, fingerprint
from tests.unit.gateway.conftest import RunningGateway, open_gateway
from tests.unit.gateway.dead_letters import give_up, redrive
from tests.unit.gateway.webhook_delivery import HOOKS, URL, deliver, receiver

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
    claim = IdempotencyClaim(job_id, fingerprint("POST", "noop", b"x", options), gateway.clock())
    gateway.blobs.put(claim_blob("", "one"), claim.encode())
    headers = {"content-type": "application/octet-stream", "idempotency-key": "one"}
    repeated = await gateway.submit(content=b"x", headers=headers)
    assert (repeated.status_code, repeated.json().get("id")) == (202, job_id), repeated.text
    labelled = await gateway.submit(content=b"x", headers=headers, params={"label": "a"})
    assert labelled.status_code == 422
