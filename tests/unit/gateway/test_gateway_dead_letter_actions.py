"""Test requests that count, redrive or purge all dead letters that match a filter."""

import logging
import math
from datetime import timedelta
from typing import Any

import httpx
import pytest

from contract.catalogue import Catalogue
from contract.messages import encode_request
from gateway.dead_letters import bulk
from gateway.dead_letters.bulk import LetterFilter, find_letters
from gateway.dead_letters.store import letter_blob
from tests.unit.gateway.api_keys import KEYS, bearer
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.dead_letters import (
    LETTERS,
    dead_job,
    give_up,
    page,
    redrive,
)

REASON = "MaxDeliveryCountExceeded"


async def dead_for(gateway: RunningGateway, reason: str) -> str:
    job_id = await gateway.accept()
    await give_up(gateway, encode_request(gateway.queues.request()), job_id, reason=reason)
    return job_id


async def count(gateway: RunningGateway, **query: Any) -> Any:
    return await gateway.get(f"{LETTERS}/count", **query)


async def act(gateway: RunningGateway, action: str, number: int, **wanted: Any) -> httpx.Response:
    cursor = wanted.pop("cursor", None)
    body = {"action": action, "count": number, "filter": wanted, "cursor": cursor}
    return await gateway.http.post(f"{LETTERS}/actions", json=body)


async def test_redrive_of_all_matches_ends_all_jobs(gateway: RunningGateway) -> None:
    wanted = [await dead_job(gateway) for _ in range(12)]
    kept = await dead_for(gateway, "unsupported-media-type")
    counted = await count(gateway, reason=REASON)
    expected = {"count": 12, "not_redriven": 12, "examined": 13, "next_cursor": None}
    assert counted == expected
    answer = await act(gateway, "redrive", 12, reason=REASON)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert (result["action"], result["refused"], result["next_cursor"]) == ("redrive", [], None)
    assert [letter["id"] for letter in result["done"]] == sorted(wanted)
    jobs = [letter["job_id"] for letter in result["done"]]
    assert len({*jobs, *wanted}) == 24
    for number in range(13, 25):
        await gateway.reply(gateway.queues.request(number))
    for job_id in jobs:
        assert (await gateway.job(job_id))["status"] == "succeeded"
    # The letters stay, with the ids of the new jobs, and are not redriven again.
    assert await count(gateway, reason=REASON) == {**expected, "not_redriven": 0}
    again = await act(gateway, "redrive", 0, reason=REASON)
    assert (again.status_code, again.json()["done"]) == (200, [])
    assert len(gateway.queues.sent) == 25
    letter = (await gateway.http.get(f"{LETTERS}/noop/{kept}")).json()
    assert letter["redriven_as"] is None


async def test_outdated_count_is_refused(gateway: RunningGateway) -> None:
    for _ in range(3):
        await dead_job(gateway)
    counted = await count(gateway)
    await dead_job(gateway)
    before = dict(gateway.payloads.blobs)
    for action in ("redrive", "purge"):
        answer = await act(gateway, action, counted["count"])
        problem = answer.json()
        assert (answer.status_code, problem["code"], problem["count"]) == (409, "count-changed", 4)
    assert gateway.payloads.blobs == before
    assert len(gateway.queues.sent) == 4
    assert (await act(gateway, "purge", 4)).status_code == 200
    assert (await page(gateway))["dead_letters"] == []


async def test_purge_deletes_only_matches(gateway: RunningGateway) -> None:
    ids = []
    for reason in (REASON, "unsupported-media-type", REASON, REASON):
        ids.append(await dead_for(gateway, reason))
        gateway.clock.now += timedelta(minutes=1)
    span = {
        "model": "noop",
        "reason": REASON,
        "dead_lettered_after": "2026-03-01T12:00:00Z",
        "dead_lettered_before": "2026-03-01T12:03:00Z",
    }
    assert (await count(gateway, **span))["count"] == 2
    assert (await count(gateway, **{**span, "model": "classifier"}))["count"] == 0
    shown = await page(gateway, **span)
    assert [letter["id"] for letter in shown["dead_letters"]] == sorted([ids[0], ids[2]])
    result = (await act(gateway, "purge", 2, **span)).json()
    assert sorted(letter["id"] for letter in result["done"]) == sorted([ids[0], ids[2]])
    assert all(letter["job_id"] is None for letter in result["done"])
    left = [letter["id"] for letter in (await page(gateway))["dead_letters"]]
    assert left == sorted([ids[1], ids[3]])


async def test_unreadable_letter_is_refused_alone(gateway: RunningGateway) -> None:
    good = await dead_job(gateway)
    await give_up(gateway, b"no request", "000-unreadable")
    other = await dead_job(gateway)
    result = (await act(gateway, "redrive", 3)).json()
    assert [letter["id"] for letter in result["done"]] == sorted([good, other])
    assert result["refused"] == [
        {
            "model": "noop",
            "id": "000-unreadable",
            "detail": "the dead letter does not contain a readable request",
        }
    ]


async def test_one_request_examines_a_limited_number(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_EXAMINED", 5)
    ids = sorted(
        [await dead_for(gateway, REASON if number % 2 else "other") for number in range(12)]
    )
    cursor: str | None = None
    done: list[str] = []
    calls = 0
    while True:
        query = {"cursor": cursor} if cursor else {}
        counted = await count(gateway, reason=REASON, **query)
        assert counted["examined"] <= 5
        wrong = await act(gateway, "purge", counted["count"] + 1, reason=REASON, cursor=cursor)
        assert wrong.status_code == 409
        answer = await act(gateway, "purge", counted["count"], reason=REASON, cursor=cursor)
        assert answer.status_code == 200, answer.text
        done += [letter["id"] for letter in answer.json()["done"]]
        calls += 1
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            break
    assert calls == 3
    assert len(done) == 6
    left = [name.rpartition("/")[2] for name in gateway.payloads.blobs if "dead-letters" in name]
    assert sorted(done + left) == ids


async def test_purge_stops_in_time_and_continues(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted([await dead_job(gateway) for _ in range(20)])
    delete = gateway.blobs.delete

    async def slow(blob: str, etag: str | None = None) -> None:
        gateway.clock.now += timedelta(seconds=1)
        await delete(blob, etag)

    monkeypatch.setattr(gateway.blobs, "delete", slow)
    first = (await act(gateway, "purge", 20)).json()
    assert [letter["id"] for letter in first["done"]] == ids[:16]
    rest = await count(gateway, cursor=first["next_cursor"])
    second = (await act(gateway, "purge", rest["count"], cursor=first["next_cursor"])).json()
    assert [letter["id"] for letter in second["done"]] == ids[16:]
    assert second["next_cursor"] is None


async def test_redrive_continues_after_a_failure(gateway: RunningGateway) -> None:
    for _ in range(10):
        await dead_job(gateway)
    gateway.durable.starts_left = 8
    assert (await act(gateway, "redrive", 10)).status_code == 503
    gateway.durable.starts_left = math.inf
    assert (await act(gateway, "redrive", 10)).json()["count"] == 2
    gateway.clock.now += timedelta(seconds=21)
    result = (await act(gateway, "redrive", 2)).json()
    assert (len(result["done"]), result["refused"]) == (2, [])
    assert len(gateway.queues.sent) == 20
    assert len(gateway.durable.runs) == 20


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("[]", "the body"),
        ("{", "the body"),
        ('{"action": "redrive"}', "count"),
        ('{"count": 1}', "action"),
        ('{"action": "delete", "count": 1}', "action"),
        ('{"action": ["purge"], "count": 1}', "action"),
        ('{"action": "purge", "count": -1}', "count"),
        ('{"action": "purge", "count": true}', "count"),
        ('{"action": "purge", "count": "1"}', "count"),
        ('{"action": "purge", "count": 1, "filters": {}}', "the body"),
        ('{"action": "purge", "count": 1, "filter": {"job": "x"}}', "filter"),
        ('{"action": "purge", "count": 1, "filter": []}', "filter"),
        ('{"action": "purge", "count": 1, "filter": {"reason": 1}}', "reason"),
        (
            '{"action": "purge", "count": 1, "filter": {"dead_lettered_after": "now"}}',
            "dead_lettered_after",
        ),
        ('{"action": "purge", "count": 1, "cursor": "?"}', "cursor"),
        ('{"action": "purge", "count": 1, "cursor": 1}', "cursor"),
    ],
)
async def test_invalid_action_changes_nothing(
    gateway: RunningGateway, body: str, named: str
) -> None:
    await dead_job(gateway)
    answer = await gateway.http.post(f"{LETTERS}/actions", content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-request"), answer.text
    assert answer.json()["detail"].startswith(named)
    assert (await count(gateway))["count"] == 1


async def test_unknown_model_and_large_body_are_refused(gateway: RunningGateway) -> None:
    assert (await act(gateway, "purge", 0, model="noob")).status_code == 404
    answer = await gateway.http.post(f"{LETTERS}/actions", content=b" " * 20_000)
    assert answer.status_code == 413


async def test_each_change_is_logged_with_its_caller(
    closed: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    closed.http.headers.update(bearer("acme-admin"))
    alone, redriven, purged = [await dead_job(closed) for _ in range(3)]
    await redrive(closed, alone)
    await redrive(closed, alone)
    assert (await act(closed, "redrive", 2)).status_code == 200
    await closed.http.delete(f"{LETTERS}/noop/{purged}")
    assert (await act(closed, "purge", 2)).status_code == 200
    await dead_job(closed)
    await closed.http.delete(f"{LETTERS}?model=noop")
    lines = [
        record.getMessage()
        for record in caplog.records
        if record.name == "gateway.dead_letters.bulk"
    ]
    assert sum("redrove the dead letter" in line for line in lines) == 3
    assert sum("purged the dead letter" in line for line in lines) == 4
    assert all(line.startswith("caller 'acme-admin' ") for line in lines)
    for job_id in (alone, redriven, purged):
        assert any(
            f"redrove the dead letter {job_id} of the model noop as job" in line for line in lines
        )
        assert any(f"purged the dead letter {job_id} of the model noop" in line for line in lines)
    assert KEYS["acme-admin"][0] not in caplog.text


async def test_malformed_letters_match_no_filter(gateway: RunningGateway) -> None:
    timeless = b'{"reason": "MaxDeliveryCountExceeded", "dead_lettered_at": 7}'
    for number, content in enumerate(
        (b'{"reason": ["x"]}', timeless, b'{"dead_lettered_at": "x"}')
    ):
        gateway.blobs.put(letter_blob("noop", f"odd-{number}"), content)
    assert (await count(gateway, reason=REASON))["count"] == 1
    assert (await count(gateway, dead_lettered_after="2020-01-01T00:00:00Z"))["count"] == 0
    assert (await count(gateway))["count"] == 3


async def test_search_returns_at_most_the_limit(gateway: RunningGateway) -> None:
    ids = sorted([await dead_job(gateway) for _ in range(7)])
    models = (Catalogue.load(gateway.services.settings.catalogue_path).model("noop"),)
    wanted, cursor, found = LetterFilter(models, reason=REASON), "", []
    for size in (3, 3, 1):
        part = await find_letters(gateway.blobs, wanted, cursor, 3)
        assert (len(part.letters), part.examined) == (size, size)
        found += [each.id for each in part.letters]
        cursor = part.cursor or ""
    assert (found, cursor) == (ids, "")
