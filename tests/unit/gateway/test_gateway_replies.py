"""Test workers' replies: authorisation, validation, and late replies."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import MAX_MESSAGE_BYTES, JobRequest
from contract.names import (
    GATHERED_REPLIES_PATH,
    MAX_GATHERED_BYTES,
    MAX_GATHERED_REPLIES,
    result_blob,
)
from gateway.errors import ExpiredToken, InvalidToken
from gateway.reply_tokens import REPLY_GRACE, ReplyTokens
from tests.unit.gateway.conftest import KEY, RunningGateway, reply_body
from tests.unit.gateway.named import PNG

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OTHER_KEY = bytes(32)


REPLY_START = (
    b'{"schema": 1, "job_id": "%s", "started_at": "2026-03-01T12:00:00Z", '
    b'"finished_at": "2026-03-01T12:00:00Z", "result": {"json": '
)


def query(url: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in url.partition("?")[2].split("&"))


async def test_wrong_token_is_refused_before_other_checks(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    url = gateway.queues.request().reply_url or ""
    for wrong in (url[:-1] + ("A" if url[-1] != "A" else "B"), url.partition("?")[0]):
        for answer in (await gateway.http.post(wrong, content=b"{"), await gateway.http.get(wrong)):
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert (await gateway.job(job_id))["status"] == "queued"


async def test_token_of_another_job_is_refused(gateway: RunningGateway) -> None:
    await gateway.accept()
    other = await gateway.accept()
    url = (gateway.queues.request(0).reply_url or "").partition("?")[2]
    answer = await gateway.http.post(f"/v1/jobs/{other}/reply?{url}", json=reply_body(other))
    assert answer.status_code == 401


async def test_token_expires_after_the_grace_period(gateway: RunningGateway) -> None:
    await gateway.accept(deadline_seconds=10)
    gateway.clock.now += timedelta(seconds=10) + REPLY_GRACE
    answer = await gateway.reply()
    assert (answer.status_code, answer.json()["code"]) == (410, "already-final")


async def test_only_the_first_reply_is_recorded(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    assert (await gateway.reply(result={"json": 1})).status_code == 202
    second = await gateway.reply(result={"json": 2})
    assert (second.status_code, second.json()["code"]) == (410, "already-final")
    assert (await gateway.job(job_id))["result"] == 1


async def test_get_of_the_url_gets_200_until_the_end(gateway: RunningGateway) -> None:
    await gateway.accept()
    url = gateway.queues.request().reply_url or ""
    assert (await gateway.http.get(url)).status_code == 200
    await gateway.reply()
    assert (await gateway.http.get(url)).status_code == 410


async def test_outcome_of_a_job_that_never_started_is_kept(gateway: RunningGateway) -> None:
    # The gateway that sent the message died before the start.
    await gateway.accept()
    gateway.durable.runs.clear()
    url = gateway.queues.request().reply_url or ""
    answer = await gateway.http.get(url)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-job")
    # The first reply may have arrived just before a start. The worker sends it again.
    assert (await gateway.reply()).status_code == 404
    assert (await gateway.http.get(url)).status_code == 410
    assert (await gateway.reply()).status_code == 410


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"job_id": "another"},
        {"result": None},
        {"result": {"json": 1}, "error": {"code": "x"}},
        {"started_at": "yesterday"},
        {"result": {"media_type": "image/png", "base64": "*"}},
        {"result": {"media_type": "image/png\r\nx: y", "base64": "eA=="}},
        {"attempt": 0},
    ],
)
async def test_malformed_reply_is_refused(gateway: RunningGateway, change: dict[str, Any]) -> None:
    job_id = await gateway.accept()
    url = gateway.queues.request().reply_url or ""
    body = {**reply_body(job_id, result={"json": 1}), **change}
    answer = await gateway.http.post(url, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert (await gateway.job(job_id))["status"] == "queued"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[" * 10_000,
        b"\xff",
        # Python parses the next two values, but cannot write them as JSON in UTF-8.
        REPLY_START + b"1e999}}",
        REPLY_START + b'"\\ud800"}}',
    ],
)
async def test_reply_that_is_no_object_or_no_utf8_is_refused(
    gateway: RunningGateway, body: bytes
) -> None:
    job_id = await gateway.accept()
    url = gateway.queues.request().reply_url or ""
    answer = await gateway.http.post(url, content=body.replace(b"%s", job_id.encode()))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert (await gateway.job(job_id))["status"] == "queued"


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "results/018f0000-0000-7000-8000-000000000000"},
        {"blob": "inputs/{id}"},
        {"blob": "results/{id}/../x"},
        {"blob": "results/{id}/"},
        {"blob": "results/{id}0/" + "0" * 32},
        {"blob": "results/{id}/" + "0" * 33},
        {"blob": "results/{id}/" + "0" * 32 + "\n"},
        {"size_bytes": 1 << 40},
    ],
)
async def test_invalid_reference_to_the_result_is_refused(
    gateway: RunningGateway, change: dict[str, Any]
) -> None:
    job_id = await gateway.accept()
    reference = {
        "media_type": "image/png",
        "blob": result_blob(job_id),
        "size_bytes": 10,
        "sha256": "0" * 64,
    }
    if "blob" in change:
        change = {"blob": change["blob"].replace("{id}", job_id)}
    answer = await gateway.reply(result={**reference, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert (await gateway.reply(result=reference)).status_code == 202


async def test_reply_over_the_size_limit_is_refused(gateway: RunningGateway) -> None:
    await gateway.accept()
    answer = await gateway.reply(result={"json": "x" * 192 * 1024})
    assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")


@given(job_id=st.text(max_size=50), seconds=st.integers(0, 10_000_000))
def test_token_is_for_its_job_until_its_expiry(job_id: str, seconds: int) -> None:
    deadline = NOW + timedelta(seconds=seconds)
    tokens = ReplyTokens((KEY,), "https://g.test")
    given_query = query(tokens.url("id", deadline, "noop", ""))
    expires, token = given_query["expires"], given_query["token"]
    tokens.check("id", expires, token, deadline)
    # During a rotation, tokens signed with the old key are valid until the key is removed.
    ReplyTokens((OTHER_KEY, KEY), "").check("id", expires, token, NOW)
    with pytest.raises(InvalidToken):
        ReplyTokens((OTHER_KEY,), "").check("id", expires, token, NOW)
    with pytest.raises(ExpiredToken):
        tokens.check("id", expires, token, deadline + REPLY_GRACE)
    if job_id != "id":
        with pytest.raises(InvalidToken):
            tokens.check(job_id, expires, token, NOW)


@given(job_id=st.text(), expires=st.text(), token=st.text())
def test_foreign_token_is_refused(job_id: str, expires: str, token: str) -> None:
    with pytest.raises(InvalidToken):
        ReplyTokens((KEY,), "").check(job_id, expires, token, NOW)


async def test_waiting_request_gets_the_outcome_before_the_end(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.durable.discards_events = True
    with gateway.services.waiters.waiting(job_id) as ended:
        assert (await gateway.reply()).status_code == 202
    assert ended.result().status == "succeeded"
    assert gateway.durable.runs[job_id].status == "Running"


async def send_together(
    gateway: RunningGateway, *replies: tuple[JobRequest, bytes]
) -> list[dict[str, Any]]:
    """Send the replies to these requests in one request; return the answers."""
    lines = [part for request, body in replies for part in (address(request), body)]
    answer = await gateway.http.post(GATHERED_REPLIES_PATH, content=b"\n".join(lines))
    assert answer.status_code == 200, answer.text
    answers: list[dict[str, Any]] = answer.json()
    assert len(answers) == len(replies)
    return answers


def address(request: JobRequest) -> bytes:
    return f"{request.job_id}?{(request.reply_url or '').partition('?')[2]}".encode()


def result_of(request: JobRequest, value: object = 1) -> bytes:
    return json.dumps(reply_body(request.job_id, result={"json": value})).encode()


async def test_gathered_replies_end_their_jobs(gateway: RunningGateway) -> None:
    jobs = []
    for model in ("noop", "classifier", "noop"):
        headers = {"content-type": "image/png"}
        answer = await gateway.submit(model, content=PNG, headers=headers)
        assert answer.status_code == 202, answer.text
        jobs.append(answer.json()["id"])
    requests = [gateway.queues.request(number) for number in range(3)]
    answers = await send_together(gateway, *((each, result_of(each)) for each in requests))
    assert answers == [{"status": 202}] * 3
    assert [(await gateway.job(job_id))["status"] for job_id in jobs] == ["succeeded"] * 3
    again = await send_together(gateway, *((each, result_of(each)) for each in requests))
    assert again == [{"status": 410, "code": "already-final"}] * 3


async def test_bad_gathered_reply_affects_no_other(gateway: RunningGateway) -> None:
    for _ in range(6):
        await gateway.accept()
    requests = [gateway.queues.request(number) for number in range(6)]
    good, forged, large, malformed, foreign, last = requests
    stolen = replace(forged, reply_to=good.reply_to)
    answers = await send_together(
        gateway,
        (good, result_of(good)),
        (stolen, result_of(forged)),
        (large, result_of(large, "x" * MAX_MESSAGE_BYTES)),
        (malformed, b"{"),
        (foreign, result_of(good)),
        (last, result_of(last)),
    )
    assert [each["status"] for each in answers] == [202, 401, 413, 422, 422, 202]
    assert [each.get("code") for each in answers] == [
        None,
        "unauthenticated",
        "payload-too-large",
        "invalid-input",
        "invalid-input",
        None,
    ]
    states = [(await gateway.job(each.job_id))["status"] for each in requests]
    assert states == ["succeeded", *["queued"] * 4, "succeeded"]


async def test_same_job_twice_in_one_request_has_one_outcome(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    request = gateway.queues.request()
    answers = await send_together(
        gateway, (request, result_of(request, 1)), (request, result_of(request, 2))
    )
    assert sorted(each["status"] for each in answers) == [202, 410]
    first = 1 if answers[0]["status"] == 202 else 2
    assert (await gateway.job(job_id))["result"] == first


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"a?b", 422),
        (b"\n" * (2 * MAX_GATHERED_REPLIES + 1), 422),
        (b"x" * (MAX_GATHERED_BYTES + 1), 413),
    ],
)
async def test_too_many_gathered_replies_are_refused(
    gateway: RunningGateway, body: bytes, status: int
) -> None:
    answer = await gateway.http.post(GATHERED_REPLIES_PATH, content=body)
    assert answer.status_code == status
