"""Test the admin routes for dead letters."""

import asyncio
import math
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from azure.functions.servicebus import ServiceBusMessage

from contract.brokers import BrokerMessage
from contract.deliveries import DeliveryNote, encode_note, note_blob
from contract.messages import (
    DeliveryMarks,
    InlineBytes,
    JobRequest,
    ReplyUrl,
    decode_request,
    encode_request,
)
from gateway import housekeeping
from gateway.brokers.servicebus import read_dead_letter
from gateway.dead_letters.store import LETTER_ID, letter_blob
from gateway.errors import Unavailable
from gateway.operations.housekeeping_runs import LAST_RUN_BLOB
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.dead_letters import LETTERS, dead_job, give_up, page, redrive


async def test_message_is_stored_and_its_job_fails(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    body = encode_request(gateway.queues.request())
    await give_up(gateway, body, job_id)
    job = await gateway.job(job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "dead-lettered")
    assert job["attempt"] == 3
    assert job["error"]["retryable"] is False
    assert f"dead-letters/noop/{job_id}" in gateway.payloads.blobs
    # Functions may run the trigger more than once for a message.
    await give_up(gateway, body, job_id)
    assert await gateway.job(job_id) == job


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]"])
async def test_unreadable_message_is_stored(gateway: RunningGateway, body: bytes) -> None:
    await give_up(gateway, body, "a/b ?")
    (kept,) = gateway.payloads.blobs
    assert kept.startswith("dead-letters/noop/a_b__-")


async def test_trigger_fails_while_the_storage_is_down(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.payloads.is_down = True
    with pytest.raises(Unavailable):
        await give_up(gateway, encode_request(gateway.queues.request()), job_id)


async def test_job_ends_while_durable_functions_is_down(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.durable.is_down = True
    await give_up(gateway, encode_request(gateway.queues.request()), job_id)
    gateway.durable.is_down = False
    assert (await gateway.job(job_id))["error"]["code"] == "dead-lettered"


async def test_message_without_an_id_is_stored_by_its_number(gateway: RunningGateway) -> None:
    message = ServiceBusMessage(
        body=b"{",
        message_id=None,  # type: ignore[arg-type]  # as the binding of a message without an id
        sequence_number=7,
        application_properties={},
        user_properties={},
        delivery_count=3,
        enqueued_time_utc=datetime(2026, 3, 1, 12, 0),  # noqa: DTZ001 - as Functions hands it over
    )
    await gateway.services.dead_letters.run(read_dead_letter(message), "noop", gateway.durable)
    letter = (await gateway.http.get(f"{LETTERS}/noop/sequence-number-7")).json()
    assert letter["enqueued_at"] == "2026-03-01T12:00:00.000Z"


async def test_failure_of_an_unstarted_job_is_recorded(gateway: RunningGateway) -> None:
    gateway.durable.is_down = True
    assert (await gateway.http.post("/v1/models/noop/jobs", content=b"x")).status_code == 503
    gateway.durable.is_down = False
    request = gateway.queues.request()
    await give_up(gateway, encode_request(request), request.job_id)
    found = await gateway.services.outcomes.find(request.job_id)
    assert found is not None
    assert found.status == "failed"


async def test_waiting_caller_is_woken(gateway: RunningGateway) -> None:
    waiting, request = await gateway.begin()
    await give_up(gateway, encode_request(request), request.job_id)
    answer = await waiting
    assert (answer.status_code, answer.json()["code"]) == (500, "dead-lettered")


async def test_expired_message_is_not_stored(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(b"secret")
    body = encode_request(gateway.queues.request())
    await give_up(gateway, body, job_id, reason="TTLExpiredException")
    assert (await gateway.job(job_id))["status"] == "queued"
    assert (await page(gateway))["dead_letters"] == []


async def test_last_step_and_death_are_described(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(b"secret")
    request = gateway.queues.request()
    marks = DeliveryMarks(gateway.clock(), worker="w-7", fetched_ms=1.0, batched_ms=2.0)
    for attempt in (2, 3):
        blob = note_blob(job_id, request.reply_url or "", attempt)
        assert blob is not None
        await gateway.blobs.create(blob, encode_note(DeliveryNote(attempt, marks)))
    death = "the worker process w-7 was killed by SIGSEGV"
    await give_up(gateway, encode_request(request), job_id, worker_death=death)
    letter = (await gateway.http.get(f"{LETTERS}/noop/{job_id}")).json()
    assert letter["description"] == f"{death}; the last step of delivery 3 in w-7: the model ran"
    error = (await gateway.job(job_id))["error"]
    assert error["code"] == "dead-lettered"
    assert error["message"].endswith(f"failed as often as allowed: {death}")


async def test_producers_deliveries_are_not_described(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(b"secret")
    request = gateway.queues.request()
    blob = note_blob(job_id, request.reply_url or "", 1)
    assert blob is not None
    await gateway.blobs.create(blob, encode_note(DeliveryNote(1, DeliveryMarks(gateway.clock()))))
    forged = replace(request, reply_to=ReplyUrl("http://elsewhere.test/"))
    await give_up(gateway, encode_request(forged), "other")
    (letter,) = (await page(gateway))["dead_letters"]
    assert letter["description"] is None


async def test_resource_shows_no_payload_or_token(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway)
    token = (gateway.queues.request().reply_url or "").partition("token=")[2]
    answer = await gateway.http.get(f"{LETTERS}/noop/{job_id}")
    letter = answer.json()
    assert letter["reason"] == "MaxDeliveryCountExceeded"
    assert letter["delivery_count"] == 3
    assert letter["input"] == {
        "kind": "inline",
        "media_type": "application/octet-stream",
        "size_bytes": 6,
    }
    assert letter["redriven_as"] is None
    for hidden in (token, "secret", "c2VjcmV0", "reply"):
        assert hidden not in answer.text
    assert answer.headers["cache-control"] == "no-store"


async def test_repeated_redrives_create_one_job(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway)
    answer = await redrive(gateway, job_id)
    assert answer.status_code == 202, answer.text
    sent = answer.json()
    assert sent["job_id"] != job_id
    assert (sent["is_new_job"], sent["is_repeat"]) == (True, False)
    assert gateway.queues.request().job_id == sent["job_id"]
    assert gateway.queues.request().input == InlineBytes("application/octet-stream", b"secret")
    again = await redrive(gateway, job_id)
    assert again.status_code == 200
    assert again.json() == {**sent, "is_repeat": True}
    assert len(gateway.queues.sent) == 2
    await gateway.reply()
    assert (await gateway.job(sent["job_id"]))["status"] == "succeeded"
    assert (await gateway.job(job_id))["status"] == "failed"
    letter = (await gateway.http.get(f"{LETTERS}/noop/{job_id}")).json()
    assert letter["redriven_as"] == sent["job_id"]


async def test_one_of_simultaneous_redrives_sends(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway)
    read, all_have_read = gateway.blobs.read, asyncio.Barrier(8)

    async def read_together(blob: str) -> Any:
        found = await read(blob)
        await all_have_read.wait()
        return found

    gateway.blobs.read = read_together  # type: ignore[method-assign]  # all reads happen before the first write
    answers = await asyncio.gather(*(redrive(gateway, job_id) for _ in range(8)))
    gateway.blobs.read = read  # type: ignore[method-assign]
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 7]
    (sent,) = (answer.json() for answer in answers if answer.status_code == 202)
    assert set(gateway.durable.runs) == {job_id, sent["job_id"]}
    assert len(gateway.queues.sent) == 2
    repeats = await asyncio.gather(*(redrive(gateway, job_id) for _ in range(8)))
    assert {answer.json()["job_id"] for answer in repeats} == {sent["job_id"]}
    assert len(gateway.queues.sent) == 2


async def test_redriven_job_lives_as_long_as_the_first(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(deadline_seconds=100)
    await give_up(gateway, encode_request(gateway.queues.request()), job_id)
    gateway.clock.now += timedelta(hours=2)
    new = await gateway.job((await redrive(gateway, job_id)).json()["job_id"])
    assert new["created_at"] == "2026-03-01T14:00:00.000Z"
    assert new["deadline"] == "2026-03-01T14:01:40.000Z"


async def test_redrive_of_a_killed_gateway_is_completed(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await dead_job(gateway)

    async def die(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patches:
        patches.setattr(gateway.durable, "start", die)
        with pytest.raises(RuntimeError):
            await redrive(gateway, job_id)
    early = await redrive(gateway, job_id)
    assert (early.status_code, early.json()["code"]) == (409, "not-redrivable")
    gateway.clock.now += timedelta(seconds=21)
    answer = await redrive(gateway, job_id)
    assert answer.status_code == 202
    marked = (await gateway.http.get(f"{LETTERS}/noop/{job_id}")).json()["redriven_as"]
    assert answer.json()["job_id"] == marked
    assert (await gateway.job(marked))["status"] == "queued"


async def test_failed_redrive_can_be_repeated_at_once(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway)
    gateway.durable.starts_left = 0
    failed = await redrive(gateway, job_id)
    assert (failed.status_code, failed.json()["code"]) == (503, "unavailable")
    marked = (await gateway.http.get(f"{LETTERS}/noop/{job_id}")).json()["redriven_as"]
    gateway.durable.starts_left = math.inf
    answer = await redrive(gateway, job_id)
    assert (answer.status_code, answer.json()["job_id"]) == (202, marked)
    assert (await redrive(gateway, job_id)).json()["is_repeat"] is True


def producers_request(gateway: RunningGateway) -> JobRequest:
    now = gateway.clock()
    return JobRequest(
        job_id="order-7",
        model="noop",
        input=InlineBytes("text/plain", b"hello"),
        created_at=now,
        deadline=now + timedelta(seconds=60),
    )


async def test_producers_message_without_confirmation_is_sent_with_the_same_id(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give_up(gateway, encode_request(producers_request(gateway)), "order-7")
    send = gateway.queues.send

    async def lose_confirmation(queue: str, message: BrokerMessage) -> None:
        await send(queue, message)
        raise Unavailable("queue", "no confirmation")

    with monkeypatch.context() as patches:
        patches.setattr(gateway.queues, "send", lose_confirmation)
        failed = await redrive(gateway, "order-7")
    assert (failed.status_code, failed.json()["code"]) == (503, "unavailable")
    gateway.clock.now += timedelta(seconds=2)
    assert (await redrive(gateway, "order-7")).status_code == 202
    first, second = (message.message_id for _, message in gateway.queues.sent)
    assert first == second


async def test_producers_message_keeps_its_job_id(gateway: RunningGateway) -> None:
    request = producers_request(gateway)
    await give_up(gateway, encode_request(request), "order-7")
    gateway.clock.now += timedelta(minutes=5)
    answer = await redrive(gateway, "order-7")
    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "job_id": "order-7",
        "is_new_job": False,
        "is_repeat": False,
        "links": {},
    }
    queue, message = gateway.queues.sent[-1]
    assert queue == "noop"
    assert message.correlation_id == "order-7"
    assert message.message_id != "order-7"
    sent = decode_request(message.body)
    assert sent.input == request.input
    assert sent.deadline == gateway.clock() + timedelta(seconds=60)
    assert (await redrive(gateway, "order-7")).json()["is_repeat"] is True
    assert len(gateway.queues.sent) == 1


async def low_job(gateway: RunningGateway) -> str:
    """Submit a job of low priority, dead-letter its message, and return the job's id."""
    job_id = await gateway.accept(priority="low")
    await give_up(gateway, encode_request(gateway.queues.request()), job_id, queue="noop-low")
    return job_id


async def test_low_priority_job_goes_to_its_queue(gateway: RunningGateway) -> None:
    job_id = await low_job(gateway)
    assert (await gateway.job(job_id))["error"]["code"] == "dead-lettered"
    letter = (await gateway.http.get(f"{LETTERS}/noop/{job_id}~low")).json()
    assert (letter["id"], letter["queue"]) == (f"{job_id}~low", "noop-low")
    assert (await gateway.http.get(f"{LETTERS}/noop/{job_id}")).status_code == 404
    sent = await gateway.http.post(letter["links"]["redrive"])
    assert sent.status_code == 202, sent.text
    assert gateway.queues.sent[-1][0] == "noop-low"
    assert (await redrive(gateway, f"{job_id}~low")).json()["is_repeat"] is True
    assert len(gateway.queues.sent) == 2
    marked = (await gateway.http.get(letter["links"]["self"])).json()
    assert marked["redriven_as"] == sent.json()["job_id"]


async def test_producers_low_message_goes_to_its_queue(gateway: RunningGateway) -> None:
    now = gateway.clock()
    source = InlineBytes("text/plain", b"hello")
    request = JobRequest("order-7", "noop", source, now, now + timedelta(seconds=60))
    for queue in ("noop", "noop-low"):
        # The same message id in both queues leads to two dead letters.
        await give_up(gateway, encode_request(request), "order-7", queue=queue)
    assert (await redrive(gateway, "order-7~low")).status_code == 202
    assert [queue for queue, _ in gateway.queues.sent] == ["noop-low"]
    shown = {
        letter["id"]: letter["redriven_as"] for letter in (await page(gateway))["dead_letters"]
    }
    assert shown == {"order-7": None, "order-7~low": "order-7"}
    assert (await gateway.http.delete(f"{LETTERS}/noop/order-7~low")).status_code == 204
    assert [letter["id"] for letter in (await page(gateway))["dead_letters"]] == ["order-7"]


async def test_both_priorities_are_listed_and_purged(gateway: RunningGateway) -> None:
    low = [f"{await low_job(gateway)}~low" for _ in range(3)]
    normal = [await dead_job(gateway) for _ in range(3)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        part = await page(gateway, limit=2, **cursor)
        found += [letter["id"] for letter in part["dead_letters"]]
        if part["next_cursor"] is None:
            break
        cursor = {"cursor": part["next_cursor"]}
    assert found == [*sorted(normal), *sorted(low)]
    purged = await gateway.http.delete(LETTERS, params={"model": "noop"})
    assert purged.json() == {"deleted": 6, "is_complete": True}


async def test_letter_without_request_input_or_job_is_kept(gateway: RunningGateway) -> None:
    await give_up(gateway, b"no request", "garbage")
    refused = await redrive(gateway, "garbage")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-redrivable")
    job_id = await dead_job(gateway, b"x" * 100_000)
    del gateway.payloads.blobs[f"inputs/{job_id}"]
    assert "input" in (await redrive(gateway, job_id)).json()["detail"]
    gone = await dead_job(gateway)
    del gateway.durable.runs[gone]
    assert "no longer exists" in (await redrive(gateway, gone)).json()["detail"]
    # No request has written a redrive mark.
    assert all(letter["redriven_as"] is None for letter in (await page(gateway))["dead_letters"])


async def test_purged_letters_are_gone(gateway: RunningGateway) -> None:
    ids = [await dead_job(gateway) for _ in range(3)]
    for _ in range(2):
        answer = await gateway.http.delete(f"{LETTERS}/noop/{ids[0]}")
        assert answer.status_code == 204
    answer = await gateway.http.get(f"{LETTERS}/noop/{ids[0]}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-dead-letter")
    assert (await redrive(gateway, ids[0])).status_code == 404
    assert (await gateway.http.delete(LETTERS)).status_code == 400
    purged = await gateway.http.delete(LETTERS, params={"model": "noop"})
    assert purged.json() == {"deleted": 2, "is_complete": True}
    assert (await page(gateway))["dead_letters"] == []


async def test_repeated_trigger_keeps_the_redrive_mark(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway)
    body = encode_request(gateway.queues.request())
    await redrive(gateway, job_id)
    await give_up(gateway, body, job_id)
    assert (await redrive(gateway, job_id)).json()["is_repeat"] is True
    # Another message with the same id replaces the dead letter.
    await give_up(gateway, body, job_id, minute=7)
    assert (await page(gateway))["dead_letters"][0]["redriven_as"] is None


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("kind", ["garbage", "forged token", "empty token", "no reply URL"])
async def test_producer_cannot_change_a_gateways_job(
    gateway: RunningGateway, kind: str, is_first: bool
) -> None:
    job_id = await gateway.accept(b"of the caller")
    request = gateway.queues.request()
    token = "forged" if kind == "forged token" else ""
    url = f"http://gateway.test/v1/jobs/{job_id}/reply?expires=9999999999&token={token}"
    forged = replace(
        request,
        input=InlineBytes("text/plain", b"of the producer"),
        reply_to=None if kind == "no reply URL" else ReplyUrl(url),
    )
    body = b"garbage" if kind == "garbage" else encode_request(forged)
    if is_first:
        await give_up(gateway, body, job_id, minute=1)
        assert (await gateway.job(job_id))["status"] == "queued"
        await give_up(gateway, encode_request(request), job_id)
    else:
        await give_up(gateway, encode_request(request), job_id)
        await give_up(gateway, body, job_id, minute=1)
        # The trigger may run again for the same message.
        await give_up(gateway, body, job_id, minute=1)
    letters = {letter["id"]: letter for letter in (await page(gateway))["dead_letters"]}
    assert len(letters) == (1 if is_first else 2)
    assert letters.pop(job_id)["enqueued_at"] == "2026-03-01T12:00:00.000Z"
    before = await gateway.job(job_id)
    assert before["error"]["code"] == "dead-lettered"

    for letter_id in letters:
        answer = await redrive(gateway, letter_id)
        if kind == "no reply URL":
            # The producer's own message is sent again, and no job of the gateway is started.
            assert (answer.status_code, answer.json()["is_new_job"]) == (202, False)
            assert gateway.queues.request().input == forged.input
            assert gateway.queues.request().reply_to is None
        else:
            assert (answer.status_code, answer.json()["code"]) == (409, "not-redrivable")
    assert set(gateway.durable.runs) == {job_id}
    assert await gateway.job(job_id) == before
    own = await redrive(gateway, job_id)
    assert (own.status_code, own.json()["is_new_job"]) == (202, True)
    assert gateway.queues.request().input == request.input


async def test_any_message_id_gives_a_blob_name() -> None:
    assert re.fullmatch(LETTER_ID, letter_blob("q", "/" * 200).removeprefix("dead-letters/q/"))
    assert letter_blob("q", "a.b-c_1") == "dead-letters/q/a.b-c_1"
    assert letter_blob("q", "a/b ?").startswith("dead-letters/q/a_b__-")
    assert letter_blob("q", "..").startswith("dead-letters/q/..-")
    assert letter_blob("q", "?") != letter_blob("q", "#")


async def test_unreadable_letter_can_be_deleted(gateway: RunningGateway) -> None:
    gateway.blobs.put(letter_blob("noop", "odd"), b"[1")
    (letter,) = (await page(gateway))["dead_letters"]
    assert (letter["id"], letter["message_id"]) == ("odd", None)
    assert (await gateway.http.delete(f"{LETTERS}/noop/odd")).status_code == 204


async def test_housekeeping_deletes_expired_blobs(gateway: RunningGateway) -> None:
    job_id = await dead_job(gateway, b"x" * 100_000)
    kept = {f"inputs/{job_id}", f"outcomes/{job_id}"}
    assert {*kept, letter_blob("noop", job_id)} <= set(gateway.payloads.blobs)
    for name in list(gateway.payloads.blobs):
        gateway.blobs.put(name, gateway.payloads.blobs[name][1])
    gateway.clock.now += timedelta(hours=72, seconds=1)
    # The dead letter, and the log of ends.
    assert sum((await housekeeping.run(gateway.durable, gateway.services)).values()) == 2
    assert set(gateway.payloads.blobs) == {*kept, LAST_RUN_BLOB}
    gateway.clock.now += timedelta(hours=2)
    assert sum((await housekeeping.run(gateway.durable, gateway.services)).values()) == 3
    assert set(gateway.payloads.blobs) == {LAST_RUN_BLOB}
    assert sum((await housekeeping.run(gateway.durable, gateway.services)).values()) == 0


async def test_one_housekeeping_deletes_a_bounded_number(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "MAX_DELETED", 2)
    for number in range(5):
        gateway.blobs.put(f"results/{number}", b"")
    gateway.clock.now += timedelta(hours=100)
    counts = [await housekeeping.run(gateway.durable, gateway.services) for _ in range(4)]
    assert [each["results/"] for each in counts] == [2, 2, 1, 0]
