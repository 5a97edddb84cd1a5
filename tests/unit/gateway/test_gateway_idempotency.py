"""Test that all requests with the same Idempotency-Key get the same job."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import housekeeping
from gateway.http.requests import parse_key
from gateway.submission import idempotency as claims
from gateway.submission.idempotency import IdempotencyClaim, claim_blob, decode_claim, fingerprint
from tests.unit.gateway.conftest import RunningGateway

LARGE = b"x" * 70_000


@pytest.fixture
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "WATCH_SECONDS", 0.05)


async def submit(
    gateway: RunningGateway,
    data: bytes = b"x",
    key: str = "k",
    prefer: str = "respond-async",
    **query: Any,
) -> httpx.Response:
    octets = {"content-type": "application/octet-stream"}
    headers = {**octets, "prefer": prefer, "idempotency-key": key}
    return await gateway.submit(content=data, params=query, headers=headers)


@pytest.mark.parametrize("data", [b"x", LARGE])
async def test_repeat_gets_the_same_job(gateway: RunningGateway, data: bytes) -> None:
    first = await submit(gateway, data)
    again = await submit(gateway, data, '"k"', priority="normal")
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert len(gateway.queues.sent) == len(gateway.durable.runs) == 1


async def test_repeat_waits_for_the_result_if_preferred(gateway: RunningGateway) -> None:
    await submit(gateway)
    waiting = asyncio.create_task(submit(gateway, prefer="wait=100"))
    for _ in range(100):  # until the request waits
        await asyncio.sleep(0)
    await gateway.reply()
    answer = await waiting
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=100"


@pytest.mark.parametrize(
    "other",
    [
        {"data": b"y"},
        {"deadline_seconds": "30"},
        {"parameters": '{"a":1}'},
        {"label": "b"},
        {"priority": "low"},
    ],
)
async def test_different_request_is_refused(gateway: RunningGateway, other: dict[str, Any]) -> None:
    await submit(gateway)
    answer = await submit(gateway, **other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")
    assert len(gateway.durable.runs) == 1


@pytest.mark.parametrize(("change", "status"), [({"key": "a b"}, 400), ({"data": b""}, 422)])
async def test_refused_request_stores_no_claim(
    gateway: RunningGateway, change: dict[str, Any], status: int
) -> None:
    assert (await submit(gateway, **change)).status_code == status
    assert not gateway.payloads.blobs
    assert (await submit(gateway)).status_code == 202


@pytest.mark.parametrize("data", [b"x", LARGE])
async def test_simultaneous_requests_create_one_job(gateway: RunningGateway, data: bytes) -> None:
    answers = await asyncio.gather(*(submit(gateway, data) for _ in range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert len(gateway.durable.runs) == len(gateway.queues.sent) == 1
    inputs = [name for name in gateway.payloads.blobs if name.startswith("inputs/")]
    assert len(inputs) == (1 if data is LARGE else 0)


@pytest.mark.usefixtures("short_watch")
async def test_one_repeat_creates_the_job_of_a_failed_request(gateway: RunningGateway) -> None:
    gateway.durable.starts_left = 0
    assert (await submit(gateway)).status_code == 503
    gateway.durable.starts_left = math.inf
    (claim,) = (blob for name, blob in gateway.payloads.blobs.items() if name.startswith("claims/"))
    answers = await asyncio.gather(*(submit(gateway) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert job_id.encode() in claim[1]
    assert gateway.durable.started == [job_id]


@pytest.mark.usefixtures("short_watch")
async def test_slow_claim_starts_no_job(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(claims, "FRESH_SECONDS", -1.0)
        answer = await submit(gateway)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert gateway.durable.started == []
    assert (await submit(gateway)).status_code == 202
    assert len(gateway.durable.started) == 1


async def test_key_is_free_again_after_one_day(gateway: RunningGateway) -> None:
    first = await submit(gateway)
    await gateway.reply()
    await gateway.durable.advance(24 * 3600 - 1)
    again = await submit(gateway)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    await gateway.durable.advance(1)
    later = await submit(gateway, b"another request")
    assert later.status_code == 202
    assert later.json()["id"] != first.json()["id"]


async def test_housekeeping_deletes_old_claims(gateway: RunningGateway) -> None:
    await submit(gateway, key="old")
    await gateway.durable.advance(24 * 3600)
    await submit(gateway, key="new")
    await gateway.durable.advance(1)
    await housekeeping.run(gateway.durable, gateway.services)
    assert len([name for name in gateway.payloads.blobs if name.startswith("claims/")]) == 1


async def test_unreadable_claim_is_replaced(gateway: RunningGateway) -> None:
    await submit(gateway)
    (name,) = (name for name in gateway.payloads.blobs if name.startswith("claims/"))
    gateway.blobs.put(name, b"{")
    assert (await submit(gateway)).status_code == 202


async def test_requests_are_refused_while_blobs_are_down(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    assert (await submit(gateway)).status_code == 503
    assert not gateway.durable.runs


def test_lifetime_of_a_claim_is_24_hours(gateway: RunningGateway) -> None:
    assert gateway.services.claim_lifetime == timedelta(hours=24)


KEYS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255)
BARE_KEYS = KEYS.filter(lambda key: not set(key) & set(' ",'))


def quoted(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(KEYS)
def test_quoted_key_is_parsed_without_the_quotes(key: str) -> None:
    assert parse_key([quoted(key)]) == key


@given(BARE_KEYS)
def test_unquoted_key_equals_the_quoted_key(key: str) -> None:
    assert parse_key([f" {key}\t"]) == parse_key([quoted(key)]) == key


@given(st.lists(st.text(max_size=300), max_size=3))
def test_any_header_gives_a_key_or_value_error(values: list[str]) -> None:
    try:
        key = parse_key(values)
    except ValueError:
        return
    assert (key is None) == (not values)
    assert key is None or (1 <= len(key) <= 255 and key.isascii() and key.isprintable())


@pytest.mark.parametrize(
    "text",
    [
        *("", '""', '"', '"a', 'a"', 'a"b', '"a"b', '"a" "b"', "a b", "a,b", '"\\n"', '"ä"', "ä"),
        *("a" * 256, f'"{"a" * 256}"', '"a"; x=1', "\x7f", '"\t"'),
    ],
)
def test_malformed_key_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_key([text])


def test_two_keys_raise_value_error() -> None:
    with pytest.raises(ValueError, match="more than once"):
        parse_key(["a", "a"])


@given(st.text(max_size=20), KEYS, st.text(max_size=20), KEYS)
def test_tenants_and_keys_have_blobs_of_their_own(a: str, key: str, b: str, other: str) -> None:
    assert (claim_blob(a, key) == claim_blob(b, other)) == ((a, key) == (b, other))


@given(st.text(min_size=1).filter(str.isascii), st.datetimes(timezones=st.just(UTC)))
def test_encoded_claim_is_decoded_unchanged(job_id: str, created_at: datetime) -> None:
    claim = IdempotencyClaim(job_id, "f" * 64, created_at)
    assert decode_claim(claim.encode()) == claim


@given(st.binary(max_size=100))
def test_malformed_bytes_are_no_claim(data: bytes) -> None:
    assert decode_claim(data) is None


def test_different_requests_have_different_fingerprints() -> None:
    base = ("noop", "00", {"deadline_seconds": 60, "parameters": {"a": 1, "b": 2}})
    same = ("noop", "00", {"parameters": {"b": 2, "a": 1}, "deadline_seconds": 60})
    others = [
        ("classifier", *base[1:]),
        ("noop", "01", base[2]),
        (*base[:2], {**base[2], "deadline_seconds": 61}),
        (*base[:2], {**base[2], "media_type": "text/plain"}),
    ]
    assert fingerprint(*base) == fingerprint(*same)
    assert len({fingerprint(*request) for request in [base, *others]}) == 1 + len(others)
