"""What callers hear of the queue, over in-memory queues."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contract.catalogue import Priority
from contract.messages import InlineJson, JobReply, Timing
from tests.unit.gateway.conftest import World, gateway, reply_body

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


def heard(world: World, seconds: float) -> None:
    """A reply came to a job that took this long on its own."""
    started_at = datetime(2026, 3, 1, tzinfo=UTC)
    reply = JobReply(
        job_id="",
        outcome=InlineJson(1),
        started_at=started_at,
        finished_at=started_at + timedelta(seconds=seconds),
        timing=Timing(inference_ms=1000 * seconds),
        attempt=1,
    )
    world.services.estimates.record_reply("noop", Priority.NORMAL, reply)


async def test_a_queued_job_knows_its_place(world: World) -> None:
    ids = []
    for _ in range(3):
        ids.append(await world.accept())
        world.clock.now += timedelta(milliseconds=1)
    world.clock.now += timedelta(milliseconds=2000)
    jobs = [await world.job(job_id) for job_id in ids]
    assert [job["queue"]["position"] for job in jobs] == [1, 2, 3]
    assert {job["queue"]["phase"] for job in jobs} == {"queued"}
    assert {job["queue"]["eta_seconds"] for job in jobs} == {None}
    heard(world, 2.0)
    assert (await world.job(ids[2]))["queue"]["eta_seconds"] is not None


async def test_a_burst_costs_one_look(world: World) -> None:
    job_id = await world.accept()
    world.clock.now += timedelta(milliseconds=2000)
    world.queues.look_count = 0
    await asyncio.gather(*(world.job(job_id) for _ in range(50)))
    assert world.queues.look_count == 1
    world.clock.now += timedelta(milliseconds=1001)
    await world.job(job_id)
    assert world.queues.look_count == 2


async def test_without_a_sign_of_life_there_seems_to_be_no_worker(world: World) -> None:
    job_id = await world.accept()
    heard(world, 0.1)
    world.clock.now += timedelta(milliseconds=6000)
    answer = await world.http.get(f"/v1/jobs/{job_id}")
    assert answer.json()["queue"] == {
        "position": 1,
        "eta_seconds": None,
        "phase": "cold_starting",
    }
    assert answer.headers["retry-after"] == "5"
    # A worker that asks whether the reply is wanted is there.
    wanted = await world.http.get(world.queues.request().reply_url or "")
    assert wanted.status_code == 200
    assert (await world.job(job_id))["queue"]["phase"] == "queued"


async def test_unknown_counts_fail_nothing(world: World) -> None:
    job_id = await world.accept()
    world.clock.now += timedelta(milliseconds=2000)
    world.queues.is_down = True
    job = await world.job(job_id)
    assert job["queue"] == {"position": None, "eta_seconds": None, "phase": "queued"}
    model = (await world.http.get("/v1/models/noop")).json()
    assert (model["queue_length"], model["estimated_wait_seconds"]) == (None, None)
    # What failed is left alone for a while.
    looks = world.queues.look_count
    await world.job(job_id)
    assert world.queues.look_count == looks


async def test_an_ended_job_has_no_place(world: World) -> None:
    job_id = await world.accept()
    await world.reply()
    looks = world.queues.look_count
    job = await world.job(job_id)
    assert job["queue"] == {"position": None, "eta_seconds": None, "phase": None}
    assert world.queues.look_count == looks


async def test_a_model_tells_its_length_and_wait(world: World) -> None:
    world.queues.lengths["noop"] = 9
    heard(world, 2.0)
    models = (await world.http.get("/v1/models")).json()["models"]
    told = {m["name"]: (m["queue_length"], m["estimated_wait_seconds"]) for m in models}
    others = dict.fromkeys(("classifier", "voice-activity"), (0, None))
    assert told == {**others, "noop": (9, 20.0)}


async def submit(world: World, deadline_seconds: int) -> Any:
    return await world.http.post(
        "/v1/models/noop/jobs",
        params={"deadline_seconds": deadline_seconds},
        content=b"x",
        headers={"content-type": "text/plain", "prefer": "respond-async"},
    )


async def test_a_job_that_would_expire_is_refused(world: World) -> None:
    world.queues.lengths["noop"] = 100
    # Nothing is known of the speed: nobody is refused, and nobody looks.
    world.queues.look_count = 0
    assert (await submit(world, 60)).status_code == 202
    heard(world, 1.0)
    await world.http.get("/v1/models/noop")
    answer = await submit(world, 60)
    assert answer.status_code == 503
    assert answer.json()["code"] == "saturated"
    assert answer.json()["retryable"] is True
    # One of the hundred was done since the count.
    assert answer.headers["retry-after"] == "40"
    assert len(world.durable.runs) == 1
    assert (await submit(world, 3600)).status_code == 202
    world.queues.lengths["noop"] = 0
    world.clock.now += timedelta(milliseconds=1500)
    # The count is renewed behind a submit's back, which goes by the last one.
    assert (await submit(world, 60)).status_code == 503
    await asyncio.sleep(0)
    assert (await submit(world, 60)).status_code == 202


async def test_an_operator_may_accept_all_the_same() -> None:
    async with gateway(refuse_when_saturated=False) as world:
        world.queues.lengths["noop"] = 100
        heard(world, 1.0)
        await world.http.get("/v1/models/noop")
        assert (await submit(world, 60)).status_code == 202


async def test_an_old_count_refuses_nobody(world: World) -> None:
    world.queues.lengths["noop"] = 100
    heard(world, 1.0)
    await world.http.get("/v1/models/noop")
    world.clock.now += timedelta(milliseconds=6000)
    assert (await submit(world, 60)).status_code == 202


async def test_only_replies_count(world: World) -> None:
    async def estimated() -> float | None:
        model = (await world.http.get("/v1/models/noop")).json()
        wait: float | None = model["estimated_wait_seconds"]
        return wait

    cancelled = await world.accept()
    await world.http.delete(f"/v1/jobs/{cancelled}")
    assert (await world.reply()).status_code == 410
    assert await estimated() is None
    job_id = await world.accept()
    url, body = world.queues.request().reply_url or "", reply_body(job_id, result={"json": 1})
    # A queue that is none of ours, as in a message from before it was named, says nothing of any.
    assert (
        await world.http.post(url.replace("queue=noop", "queue=x"), json=body)
    ).status_code == 202
    assert await estimated() is None
    await world.accept()
    assert (await world.reply()).status_code == 202
    assert await estimated() is not None


async def test_a_looker_who_leaves_does_not_take_the_look_along(world: World) -> None:
    job_id = await world.accept()
    world.clock.now += timedelta(milliseconds=2000)
    gate = asyncio.Event()
    length = world.queues.length

    async def slow(queue: str) -> int:
        await gate.wait()
        return await length(queue)

    world.queues.length = slow  # type: ignore[method-assign]  # the port is slow for once
    leaver, stayer = (asyncio.create_task(world.job(job_id)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    gate.set()
    assert (await stayer)["queue"]["position"] == 1
