"""Test estimated positions and waits, the refusal of jobs, and the states of models."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.names import heartbeat_blob
from gateway.queues.client import MessageCounts
from gateway.queues.model_states import READY_FOR, ModelStates
from gateway.queues.workers import WorkerHeartbeats
from gateway.storage.blobs import ListedBlob
from tests.unit.gateway.conftest import RunningGateway, open_gateway, reply_body
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.workers import beat, heard


async def test_queued_job_shows_its_position(gateway: RunningGateway) -> None:
    ids = []
    for _ in range(3):
        ids.append(await gateway.accept())
        gateway.clock.now += timedelta(milliseconds=1)
    gateway.clock.now += timedelta(seconds=2)
    jobs = [await gateway.job(job_id) for job_id in ids]
    assert [job["queue"]["position"] for job in jobs] == [1, 2, 3]
    assert {job["queue"]["phase"] for job in jobs} == {"queued"}
    assert {job["queue"]["eta_seconds"] for job in jobs} == {None}
    heard(gateway, 2.0)
    assert (await gateway.job(ids[2]))["queue"]["eta_seconds"] is not None


async def test_simultaneous_requests_share_a_count(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.look_count = 0
    await asyncio.gather(*(gateway.job(job_id) for _ in range(50)))
    assert gateway.queues.look_count == 1
    gateway.clock.now += timedelta(seconds=5)
    await gateway.job(job_id)
    assert gateway.queues.look_count == 1
    gateway.clock.now += timedelta(milliseconds=1)
    await gateway.job(job_id)
    assert gateway.queues.look_count == 2


async def test_job_without_worker_is_cold_starting(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    heard(gateway, 0.1)
    gateway.clock.now += timedelta(milliseconds=6000)
    answer = await gateway.http.get(f"/v1/jobs/{job_id}")
    assert answer.json()["queue"] == {
        "position": 1,
        "eta_seconds": None,
        "phase": "cold_starting",
    }
    assert answer.headers["retry-after"] == "5"
    # A request that checks whether a reply is wanted shows that there is a worker.
    wanted = await gateway.http.get(gateway.queues.request().reply_url or "")
    assert wanted.status_code == 200
    assert (await gateway.job(job_id))["queue"]["phase"] == "queued"


BROKEN = ModelHeartbeat(
    "noop", ModelState.BROKEN, code="model-unfit", reason="secret of the operator"
)
LOADED = ModelHeartbeat("noop", ModelState.LOADED, load_seconds=1)


async def test_job_of_a_model_that_cannot_load_says_so(gateway: RunningGateway) -> None:
    beat(gateway, models=(BROKEN,))
    heard(gateway, 0.1)
    job_id = await gateway.accept()
    assert (await gateway.job(job_id))["queue"]["phase"] == "queued"
    gateway.clock.now += timedelta(milliseconds=1000)
    answer = await gateway.http.get(f"/v1/jobs/{job_id}")
    assert answer.json()["queue"] == {"position": 1, "eta_seconds": None, "phase": "model_broken"}
    assert answer.headers["retry-after"] == "5"
    assert "secret" not in answer.text


@pytest.mark.parametrize("repaired", [(LOADED,), (replace(BROKEN, state=ModelState.LOADING),), ()])
async def test_job_that_another_worker_may_run_is_queued(
    gateway: RunningGateway, repaired: tuple[ModelHeartbeat, ...]
) -> None:
    beat(gateway, models=(BROKEN,), is_draining=not repaired)
    beat(gateway, "pod-8", models=repaired)
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(milliseconds=1000)
    assert (await gateway.job(job_id))["queue"]["phase"] == "queued"


async def test_repaired_model_is_broken_for_ten_seconds(gateway: RunningGateway) -> None:
    beat(gateway, models=(BROKEN,))
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(milliseconds=1000)
    assert (await gateway.job(job_id))["queue"]["phase"] == "model_broken"
    gateway.clock.now += timedelta(milliseconds=10_000)
    beat(gateway, models=(LOADED,))
    assert (await gateway.job(job_id))["queue"]["phase"] == "cold_starting"


async def test_unreadable_heartbeats_do_not_matter(gateway: RunningGateway) -> None:
    beat(gateway, models=(BROKEN,))
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(milliseconds=1000)
    gateway.blobs.is_unlistable = True
    assert (await gateway.job(job_id))["queue"]["phase"] == "queued"


async def test_position_is_unknown_without_a_count(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.is_down = True
    job = await gateway.job(job_id)
    assert job["queue"] == {"position": None, "eta_seconds": None, "phase": "cold_starting"}
    model = (await gateway.http.get("/v1/models/noop")).json()
    assert (model["queue_length"], model["estimated_wait_seconds"]) == (None, None)
    # A failed count is not repeated immediately.
    looks = gateway.queues.look_count
    await gateway.job(job_id)
    assert gateway.queues.look_count == looks


async def test_ended_job_has_no_position(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.reply()
    looks = gateway.queues.look_count
    job = await gateway.job(job_id)
    assert job["queue"] == {"position": None, "eta_seconds": None, "phase": None}
    assert gateway.queues.look_count == looks


async def test_model_shows_queue_length_and_wait(gateway: RunningGateway) -> None:
    gateway.queues.lengths["noop"] = 9
    heard(gateway, 2.0)
    models = (await gateway.http.get("/v1/models")).json()["models"]
    told = {m["name"]: (m["queue_length"], m["estimated_wait_seconds"]) for m in models}
    others = dict.fromkeys(("classifier", "voice-activity"), (0, None))
    assert told == {**others, "noop": (9, 20.0)}


async def submit(gateway: RunningGateway, deadline_seconds: int) -> Any:
    text = {"content-type": "text/plain"}
    options = {"deadline_seconds": deadline_seconds}
    return await gateway.submit(content=b"x", params=options, headers=text)


async def test_job_that_would_expire_in_the_queue_is_refused(gateway: RunningGateway) -> None:
    gateway.queues.lengths["noop"] = 100
    # If the throughput is unknown, no job is refused.
    gateway.queues.look_count = 0
    assert (await submit(gateway, 60)).status_code == 202
    heard(gateway, 1.0)
    await gateway.http.get("/v1/models/noop")
    answer = await submit(gateway, 60)
    assert answer.status_code == 503
    assert answer.json()["code"] == "saturated"
    assert answer.json()["retryable"] is True
    # A reply to one of the hundred jobs was received after the count.
    assert answer.headers["retry-after"] == "40"
    assert len(gateway.durable.runs) == 1
    assert (await submit(gateway, 3600)).status_code == 202
    gateway.queues.lengths["noop"] = 0
    gateway.clock.now += timedelta(milliseconds=5500)
    # A submission uses the last count, and starts another count.
    assert (await submit(gateway, 60)).status_code == 503
    for _ in range(20):  # until the background tasks have counted the messages
        await asyncio.sleep(0)
    assert (await submit(gateway, 60)).status_code == 202


async def test_saturated_queue_is_accepted_by_setting() -> None:
    async with open_gateway(refuse_when_saturated=False) as gateway:
        gateway.queues.lengths["noop"] = 100
        heard(gateway, 1.0)
        await gateway.http.get("/v1/models/noop")
        assert (await submit(gateway, 60)).status_code == 202


async def test_old_count_refuses_no_job(gateway: RunningGateway) -> None:
    gateway.queues.lengths["noop"] = 100
    heard(gateway, 1.0)
    await gateway.http.get("/v1/models/noop")
    gateway.clock.now += timedelta(seconds=11)
    assert (await submit(gateway, 60)).status_code == 202


async def test_only_accepted_replies_change_the_wait(gateway: RunningGateway) -> None:
    async def estimated() -> float | None:
        model = (await gateway.http.get("/v1/models/noop")).json()
        wait: float | None = model["estimated_wait_seconds"]
        return wait

    cancelled = await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{cancelled}")
    assert (await gateway.reply()).status_code == 410
    assert await estimated() is None
    job_id = await gateway.accept()
    url, body = gateway.queues.request().reply_url or "", reply_body(job_id, result={"json": 1})
    # A reply to a URL with an unknown queue changes no estimate.
    assert (
        await gateway.http.post(url.replace("queue=noop", "queue=x"), json=body)
    ).status_code == 202
    assert await estimated() is None
    await gateway.accept()
    assert (await gateway.reply()).status_code == 202
    assert await estimated() is not None


async def test_cancelled_request_does_not_cancel_the_count(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.clock.now += timedelta(seconds=6)
    gate = asyncio.Event()
    count = gateway.queues.count

    async def slow(queue: str) -> MessageCounts:
        await gate.wait()
        return await count(queue)

    gateway.queues.count = slow  # type: ignore[method-assign]  # one slow count
    leaver, stayer = (asyncio.create_task(gateway.job(job_id)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    gate.set()
    assert (await stayer)["queue"]["position"] == 1


@dataclass
class SlowBlobs(MemoryBlobs):
    """Blobs in memory. A call of `list` waits until `can_answer` is set, and then takes 5 s."""

    list_count: int = 0
    has_asked: asyncio.Event = field(default_factory=asyncio.Event)
    can_answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        self.list_count += 1
        self.has_asked.set()
        await self.can_answer.wait()
        self.clock.now += timedelta(seconds=5)
        async for blob in super().list(prefix):
            yield blob


def write_heartbeat(blobs: SlowBlobs) -> None:
    """Write the heartbeat of a worker with a ready model and a broken model."""
    models = ModelHeartbeat("good", ModelState.LOADED), ModelHeartbeat("bad", ModelState.BROKEN)
    heartbeat = Heartbeat(
        worker="pod-7",
        version="1",
        started_at=blobs.clock(),
        interval_seconds=5.0,
        models=models,
    )
    blobs.put(heartbeat_blob("pod-7"), encode_heartbeat(heartbeat))


def open_states() -> tuple[SlowBlobs, ModelStates]:
    clock = ManualClock()
    blobs = SlowBlobs(MemoryPayloads(), clock)
    write_heartbeat(blobs)
    return blobs, ModelStates(WorkerHeartbeats(blobs, clock, is_enabled=True), clock)


@pytest.mark.parametrize("is_failing", [False, True])
async def test_simultaneous_callers_share_a_read(is_failing: bool) -> None:
    blobs, states = open_states()
    blobs.is_unlistable = is_failing
    callers = [asyncio.create_task(states.ready()) for _ in range(20)]
    await blobs.has_asked.wait()
    blobs.can_answer.set()
    found = await asyncio.gather(*callers)
    assert found == [None if is_failing else frozenset({"good"})] * 20
    assert blobs.list_count == 1
    blobs.clock.now += READY_FOR
    await states.ready()
    assert blobs.list_count == 2


async def test_cached_states_do_not_wait_for_a_read() -> None:
    blobs, states = open_states()
    blobs.can_answer.set()
    assert await states.broken() == {"bad"}
    blobs.has_asked.clear()
    blobs.can_answer.clear()
    blobs.clock.now += READY_FOR
    reading = asyncio.create_task(states.ready())
    await blobs.has_asked.wait()
    async with asyncio.timeout(5):
        assert await states.broken() == {"bad"}
    assert not reading.done()
    blobs.can_answer.set()
    assert await reading == frozenset({"good"})


async def test_cancelled_read_is_repeated() -> None:
    blobs, states = open_states()
    first = asyncio.create_task(states.ready())
    await blobs.has_asked.wait()
    second = asyncio.create_task(states.ready())
    first.cancel()
    blobs.can_answer.set()
    assert await second == frozenset({"good"})
    assert blobs.list_count == 2
