"""Test estimated throughput, positions and waits, the refusal of jobs, and model states."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, encode_heartbeat
from contract.names import heartbeat_blob
from gateway.brokers.port import MessageCounts
from gateway.queues.estimates import (
    NO_POSITION,
    JobQueue,
    LengthSample,
    Throughput,
    is_cold_starting,
    length_now,
    position,
    retry_after_seconds,
    wait_seconds,
)
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
async def test_job_that_another_worker_may_run_is__queued(
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


Reply = tuple[float, float, float, int]
"""When a reply arrived, how long the worker had the job, how long its batch ran, and its size."""

any_float = st.floats(allow_nan=True, allow_infinity=True)
replies = st.lists(
    st.tuples(st.floats(0, 1e6), any_float, any_float, st.integers(-5, 100)), max_size=50
)


def pace_of(found: list[Reply]) -> Throughput:
    pace = Throughput()
    for reply in found:
        pace = pace.after(*reply)
    return pace


def backlog(count: int, seconds_each: float, batch_size: int = 1) -> list[Reply]:
    """Return the replies of one worker that runs `count` jobs, each `seconds_each`, in batches."""
    batch_seconds = batch_size * seconds_each
    return [
        ((number // batch_size + 1) * batch_seconds, batch_seconds, batch_seconds, batch_size)
        for number in range(count)
    ]


@given(replies)
def test_seconds_per_job_are_finite(found: list[Reply]) -> None:
    pace = pace_of(found)
    for estimate in (pace.seconds_per_job, pace.least_seconds_per_job):
        assert (estimate is None) == (not found)
        assert estimate is None or (math.isfinite(estimate) and estimate >= 0)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_long_queue_runs_at_the_time_between_replies(batch_size: int) -> None:
    pace = pace_of(backlog(160, 0.5, batch_size))
    assert pace.seconds_per_job == pytest.approx(0.5, rel=0.35)
    assert pace.least_seconds_per_job == pytest.approx(0.5, rel=0.35)


def test_second_worker_halves_the_busy_time() -> None:
    found = [(number * 0.5, 1.0, 1.0, 1) for number in range(1, 100)]
    pace = pace_of(found)
    assert pace.seconds_per_job == pytest.approx(0.5, rel=0.1)
    assert pace.device_seconds / pace.weight == pytest.approx(1.0)


@pytest.mark.parametrize("at_seconds", [(1, 600), range(0, 600, 60)])
def test_pauses_do_not_increase_seconds_per_job(at_seconds: Iterable[float]) -> None:
    pace = pace_of([(at, 0.2, 0.1, 1) for at in at_seconds])
    assert pace.seconds_per_job == pytest.approx(0.2)


@given(st.floats(0.001, 100), st.floats(0.001, 100))
def test_seconds_per_job_adapt_to_a_change(before: float, after: float) -> None:
    found = [(number * before, before, before, 1) for number in range(50)]
    start = 50 * before
    found += [(start + number * after, after, after, 1) for number in range(400)]
    assert pace_of(found).seconds_per_job == pytest.approx(after, rel=0.5, abs=before * 1e-3)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1000), max_size=200), st.integers(0, 1000))
def test_position_never_exceeds_the_length(length: int, times: list[int], looked_at: int) -> None:
    arrivals = sorted(float(time) for time in times)
    count = LengthSample(MessageCounts(length), float(looked_at), 0)
    for created_at in arrivals:
        place = position(count, arrivals, 0, created_at)
        assert 1 <= place <= length + len(arrivals) + 1
    places = [position(count, arrivals, 0, created_at) for created_at in arrivals]
    assert places == sorted(places)


def test_later_jobs_do_not_increase_the_position() -> None:
    arrivals = [1.0, 2.0, 3.0, 4.0]
    count = LengthSample(MessageCounts(4), 10.0, 0)
    assert [position(count, arrivals, 0, at) for at in arrivals] == [1, 2, 3, 4]
    # Six jobs of other instances count as if they had arrived first.
    later = LengthSample(MessageCounts(10), 10.0, 0)
    assert [position(later, arrivals, 0, at) for at in arrivals] == [7, 8, 9, 10]
    # After the count, two replies were received and two jobs were accepted.
    assert position(LengthSample(MessageCounts(4), 2.5, 0), [*arrivals, 5.0], 2, 5.0) == 5
    assert length_now(LengthSample(MessageCounts(4), 2.5, 7), arrivals, 9) == 4


@given(st.integers(0, 100), st.lists(st.floats(0, 100)), st.integers(0, 100))
def test_length_is_never_negative(length: int, arrivals: list[float], gone: int) -> None:
    assert length_now(LengthSample(MessageCounts(length), 50.0, 0), sorted(arrivals), gone) >= 0


def test_slow_model_is_cold_starting_later() -> None:
    assert not is_cold_starting(0.0, 4.9, Throughput())
    assert is_cold_starting(0.0, 5.0, Throughput())
    slow = Throughput().after(0.0, 30.0, 30.0, 1)
    assert not is_cold_starting(0.0, 119.0, slow)
    assert is_cold_starting(0.0, 120.0, slow)


def _queued(eta_seconds: float) -> JobQueue:
    return {"position": 3, "eta_seconds": eta_seconds, "phase": "queued"}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (NO_POSITION, 1),
        (_queued(0.0), 1),
        (_queued(2.1), 3),
        (_queued(9000.0), 30),
        ({**NO_POSITION, "phase": "cold_starting"}, 5),
    ],
)
def test_retry_after_follows_from_the_wait(place: JobQueue, expected: int) -> None:
    assert retry_after_seconds(place, 1, 30) == expected


def test_wait_is_unknown_without_throughput() -> None:
    assert wait_seconds(5, None) is None
    assert wait_seconds(5, 0.1) == 0.5
