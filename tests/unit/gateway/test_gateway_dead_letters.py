"""Dead letters over the admin routes, with in-memory ports."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from azure.functions.servicebus import ServiceBusMessage

from contract.messages import InlineBytes, JobRequest, decode_request, encode_request
from gateway.dead_letters.store import letter_blob
from gateway.durable import DurableClient
from gateway.errors import UnknownInstance
from gateway.storage import housekeeping
from gateway.storage.housekeeping import delete_old_blobs
from tests.unit.gateway.conftest import World

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")

LETTERS = "/v1/admin/dead-letters"


async def give_up(
    world: World,
    body: bytes,
    message_id: str,
    *,
    minute: int = 0,
    queue: str = "noop",
    reason: str = "MaxDeliveryCountExceeded",
) -> None:
    """What the trigger does with a message that nobody finished."""
    message = ServiceBusMessage(
        body=body,
        message_id=message_id,
        correlation_id=message_id,
        application_properties={"DeadLetterReason": reason},
        user_properties={},
        delivery_count=3,
        enqueued_time_utc=datetime(2026, 3, 1, 12, minute, tzinfo=UTC),
    )
    await world.services.dead_letters.run(message, queue, world.durable)


async def dead_job(world: World, data: bytes = b"secret") -> str:
    job_id = await world.accept(data)
    await give_up(world, encode_request(world.queues.request()), job_id)
    assert (await world.job(job_id))["error"]["code"] == "dead-lettered"
    return job_id


async def page(world: World, **query: Any) -> Any:
    answer = await world.http.get(LETTERS, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def redrive(world: World, letter_id: str) -> Any:
    return await world.http.post(f"{LETTERS}/noop/{letter_id}/redrive")


async def test_a_message_whose_time_ran_out_is_left_to_its_jobs_own_timer(world: World) -> None:
    job_id = await world.accept(b"secret")
    body = encode_request(world.queues.request())
    await give_up(world, body, job_id, reason="TTLExpiredException")
    assert (await world.job(job_id))["status"] == "queued"
    assert (await page(world))["dead_letters"] == []


async def test_letters_are_listed_page_by_page(world: World) -> None:
    ids = sorted([await dead_job(world) for _ in range(5)])
    first = await page(world, limit=2)
    second = await page(world, limit=2, cursor=first["next_cursor"], model="noop")
    third = await page(world, limit=2, cursor=second["next_cursor"])
    found = [letter["id"] for part in (first, second, third) for letter in part["dead_letters"]]
    assert found == ids
    assert third["next_cursor"] is None
    assert (await page(world, model="classifier"))["dead_letters"] == []


async def test_a_letter_shows_no_payload_and_no_token(world: World) -> None:
    job_id = await dead_job(world)
    token = (world.queues.request().reply_url or "").partition("token=")[2]
    answer = await world.http.get(f"{LETTERS}/noop/{job_id}")
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


async def test_a_letter_goes_on_as_a_new_job_once(world: World) -> None:
    job_id = await dead_job(world)
    answer = await redrive(world, job_id)
    assert answer.status_code == 202, answer.text
    sent = answer.json()
    assert sent["job_id"] != job_id
    assert (sent["is_new_job"], sent["is_repeat"]) == (True, False)
    assert world.queues.request().job_id == sent["job_id"]
    assert world.queues.request().input == InlineBytes("application/octet-stream", b"secret")
    again = await redrive(world, job_id)
    assert again.status_code == 200
    assert again.json() == {**sent, "is_repeat": True}
    assert len(world.queues.sent) == 2
    await world.reply()
    assert (await world.job(sent["job_id"]))["status"] == "succeeded"
    assert (await world.job(job_id))["status"] == "failed"
    letter = (await world.http.get(f"{LETTERS}/noop/{job_id}")).json()
    assert letter["redriven_as"] == sent["job_id"]


async def test_of_two_redrives_at_once_one_sends(world: World) -> None:
    job_id = await dead_job(world)
    read, all_have_read = world.blobs.read, asyncio.Barrier(8)

    async def read_together(blob: str) -> Any:
        found = await read(blob)
        await all_have_read.wait()
        return found

    world.blobs.read = read_together  # type: ignore[method-assign]  # so that none is in time
    answers = await asyncio.gather(*(redrive(world, job_id) for _ in range(8)))
    world.blobs.read = read  # type: ignore[method-assign]
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 7]
    (sent,) = (answer.json() for answer in answers if answer.status_code == 202)
    assert set(world.durable.runs) == {job_id, sent["job_id"]}
    assert len(world.queues.sent) == 2
    repeats = await asyncio.gather(*(redrive(world, job_id) for _ in range(8)))
    assert {answer.json()["job_id"] for answer in repeats} == {sent["job_id"]}
    assert len(world.queues.sent) == 2


async def test_the_new_job_has_as_much_time_as_the_old_one(world: World) -> None:
    job_id = await world.accept(deadline_seconds=100)
    await give_up(world, encode_request(world.queues.request()), job_id)
    world.clock.now += timedelta(hours=2)
    new = await world.job((await redrive(world, job_id)).json()["job_id"])
    assert new["created_at"] == "2026-03-01T14:00:00.000Z"
    assert new["deadline"] == "2026-03-01T14:01:40.000Z"


async def test_who_died_between_mark_and_start_is_finished_later(world: World) -> None:
    job_id = await dead_job(world)
    start = world.durable.start

    async def dying(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    world.durable.start = dying  # type: ignore[method-assign]  # a process that dies right there
    with pytest.raises(RuntimeError):
        await redrive(world, job_id)
    world.durable.start = start  # type: ignore[method-assign]
    early = await redrive(world, job_id)
    assert (early.status_code, early.json()["code"]) == (409, "not-redrivable")
    world.clock.now += timedelta(seconds=21)
    answer = await redrive(world, job_id)
    assert answer.status_code == 202
    marked = (await world.http.get(f"{LETTERS}/noop/{job_id}")).json()["redriven_as"]
    assert answer.json()["job_id"] == marked
    assert (await world.job(marked))["status"] == "queued"


async def test_a_producers_message_is_sent_as_it_was(world: World) -> None:
    now = world.clock()
    request = JobRequest(
        job_id="order-7",
        model="noop",
        input=InlineBytes("text/plain", b"hello"),
        created_at=now,
        deadline=now + timedelta(seconds=60),
    )
    await give_up(world, encode_request(request), "order-7")
    world.clock.now += timedelta(minutes=5)
    answer = await redrive(world, "order-7")
    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "job_id": "order-7",
        "is_new_job": False,
        "is_repeat": False,
        "links": {},
    }
    queue, message = world.queues.sent[-1]
    assert queue == "noop"
    assert message.correlation_id == "order-7"
    assert message.message_id != "order-7"
    body: Any = message.body
    sent = decode_request(b"".join(body))
    assert sent.input == request.input
    assert sent.deadline == world.clock() + timedelta(seconds=60)
    assert (await redrive(world, "order-7")).json()["is_repeat"] is True
    assert len(world.queues.sent) == 1


async def low_job(world: World) -> str:
    """The id of a job of low priority that was given up."""
    job_id = await world.accept(priority="low")
    await give_up(world, encode_request(world.queues.request()), job_id, queue="noop-low")
    return job_id


async def test_a_low_letter_goes_back_to_its_queue(world: World) -> None:
    job_id = await low_job(world)
    assert (await world.job(job_id))["error"]["code"] == "dead-lettered"
    letter = (await world.http.get(f"{LETTERS}/noop/{job_id}~low")).json()
    assert (letter["id"], letter["queue"]) == (f"{job_id}~low", "noop-low")
    assert (await world.http.get(f"{LETTERS}/noop/{job_id}")).status_code == 404
    sent = await world.http.post(letter["links"]["redrive"])
    assert sent.status_code == 202, sent.text
    assert world.queues.sent[-1][0] == "noop-low"
    assert (await redrive(world, f"{job_id}~low")).json()["is_repeat"] is True
    assert len(world.queues.sent) == 2
    marked = (await world.http.get(letter["links"]["self"])).json()
    assert marked["redriven_as"] == sent.json()["job_id"]


async def test_a_producers_low_message_goes_back_to_its_queue(world: World) -> None:
    now = world.clock()
    source = InlineBytes("text/plain", b"hello")
    request = JobRequest("order-7", "noop", source, now, now + timedelta(seconds=60))
    for queue in ("noop", "noop-low"):
        # The same message id in both is two letters.
        await give_up(world, encode_request(request), "order-7", queue=queue)
    assert (await redrive(world, "order-7~low")).status_code == 202
    assert [queue for queue, _ in world.queues.sent] == ["noop-low"]
    shown = {letter["id"]: letter["redriven_as"] for letter in (await page(world))["dead_letters"]}
    assert shown == {"order-7": None, "order-7~low": "order-7"}
    assert (await world.http.delete(f"{LETTERS}/noop/order-7~low")).status_code == 204
    assert [letter["id"] for letter in (await page(world))["dead_letters"]] == ["order-7"]


async def test_pages_and_purges_go_over_both_queues(world: World) -> None:
    low = [f"{await low_job(world)}~low" for _ in range(3)]
    normal = [await dead_job(world) for _ in range(3)]
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        part = await page(world, limit=2, **cursor)
        found += [letter["id"] for letter in part["dead_letters"]]
        if part["next_cursor"] is None:
            break
        cursor = {"cursor": part["next_cursor"]}
    assert found == [*sorted(normal), *sorted(low)]
    purged = await world.http.delete(LETTERS, params={"model": "noop"})
    assert purged.json() == {"deleted": 6, "is_complete": True}


async def test_what_cannot_be_sent_again(world: World) -> None:
    await give_up(world, b"no request", "garbage")
    refused = await redrive(world, "garbage")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-redrivable")
    job_id = await dead_job(world, b"x" * 100_000)
    del world.payloads.blobs[f"inputs/{job_id}"]
    assert "input" in (await redrive(world, job_id)).json()["detail"]
    gone = await dead_job(world)
    del world.durable.runs[gone]
    assert "no longer kept" in (await redrive(world, gone)).json()["detail"]
    # Nothing of that has left a mark.
    assert all(letter["redriven_as"] is None for letter in (await page(world))["dead_letters"])


async def test_letters_are_purged(world: World) -> None:
    ids = [await dead_job(world) for _ in range(3)]
    for _ in range(2):
        answer = await world.http.delete(f"{LETTERS}/noop/{ids[0]}")
        assert answer.status_code == 204
    answer = await world.http.get(f"{LETTERS}/noop/{ids[0]}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-dead-letter")
    assert (await redrive(world, ids[0])).status_code == 404
    assert (await world.http.delete(LETTERS)).status_code == 400
    purged = await world.http.delete(LETTERS, params={"model": "noop"})
    assert purged.json() == {"deleted": 2, "is_complete": True}
    assert (await page(world))["dead_letters"] == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"limit": "0"}, "malformed-request"),
        ({"limit": "101"}, "malformed-request"),
        ({"limit": "x"}, "malformed-request"),
        ({"cursor": "../x"}, "malformed-request"),
        ({"since": "x"}, "malformed-request"),
        ({"model": "nope"}, "unknown-model"),
    ],
)
async def test_bad_options(world: World, query: dict[str, str], code: str) -> None:
    assert (await world.http.get(LETTERS, params=query)).json()["code"] == code


async def test_a_repeat_of_the_trigger_keeps_the_mark(world: World) -> None:
    job_id = await dead_job(world)
    body = encode_request(world.queues.request())
    await redrive(world, job_id)
    await give_up(world, body, job_id)
    assert (await redrive(world, job_id)).json()["is_repeat"] is True
    # Another message under the same id is another letter.
    await give_up(world, body, job_id, minute=7)
    assert (await page(world))["dead_letters"][0]["redriven_as"] is None


async def test_names_that_a_blob_cannot_bear() -> None:
    assert letter_blob("q", "a.b-c_1") == "dead-letters/q/a.b-c_1"
    assert letter_blob("q", "a/b ?").startswith("dead-letters/q/a_b__-")
    assert letter_blob("q", "..").startswith("dead-letters/q/..-")
    assert letter_blob("q", "?") != letter_blob("q", "#")


@pytest.mark.parametrize("job_id", ["?", "#", "..", "", "a/b", "a/raiseEvent/cancel?", "a b", "é"])
async def test_a_letter_names_no_job_by_what_is_a_part_of_a_url(job_id: str) -> None:
    # There is nothing behind the port: whatever is asked of it fails.
    durable = DurableClient(cast(Any, None))
    assert await durable.status(job_id) is None
    with pytest.raises(UnknownInstance):
        await durable.raise_event(job_id, "reply", None)


async def test_a_letter_that_is_no_letter_can_be_seen_and_purged(world: World) -> None:
    world.blobs.put(letter_blob("noop", "odd"), b"[1")
    (letter,) = (await page(world))["dead_letters"]
    assert (letter["id"], letter["message_id"]) == ("odd", None)
    assert (await world.http.delete(f"{LETTERS}/noop/odd")).status_code == 204


async def test_the_sweep_takes_what_nobody_may_ask_for(world: World) -> None:
    job_id = await dead_job(world, b"x" * 100_000)
    kept = {f"inputs/{job_id}", f"outcomes/{job_id}"}
    assert {*kept, letter_blob("noop", job_id)} <= set(world.payloads.blobs)
    for name in list(world.payloads.blobs):
        world.blobs.put(name, world.payloads.blobs[name][1])
    world.clock.now += timedelta(hours=72, seconds=1)
    assert await delete_old_blobs(world.services) == 1
    assert set(world.payloads.blobs) == kept
    world.clock.now += timedelta(hours=2)
    assert await delete_old_blobs(world.services) == 2
    assert not world.payloads.blobs
    assert await delete_old_blobs(world.services) == 0


async def test_the_sweep_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MAX_DELETED", 2)
    for number in range(5):
        world.blobs.put(f"results/{number}", b"")
    world.clock.now += timedelta(hours=100)
    assert [await delete_old_blobs(world.services) for _ in range(4)] == [2, 2, 1, 0]
