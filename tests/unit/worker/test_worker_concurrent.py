"""Test how the jobs of a concurrent model run together, and how they are stopped."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contract.catalogue import Catalogue
from tests.unit.worker.managed_models import until
from tests.unit.worker.recorded_jobs import RecordedJobs
from worker.errors import Cancelled, EngineLost, InvalidInput, Settlement
from worker.inference.loaded_model import LoadedModel, NullContext
from worker.models import Accepts, Context
from worker.pipeline.receive import ReceivedJob
from worker.processes.history import DeliveryHistory
from worker.processes.shutdown import EXIT_RESTART
from worker.settings import MemorySettings
from worker.stops import StopOrders

ENTRY = replace(Catalogue.load()["noop"], reports_progress=True, max_concurrent_jobs=3)


class Infer:
    """Runs each item until the test ends it. The item is what the call does at its end."""

    accepts: ClassVar[Accepts] = "json"

    def __init__(self) -> None:
        self.running: list[str] = []
        self.stopped: list[str] = []
        self.most = 0
        self.ends = threading.Event()
        self.ended = {"quick"}
        self.is_closed = False
        self.threads = set[int]()

    async def __call__(self, item: str, context: Context) -> str:
        self.threads.add(threading.get_ident())
        self.running.append(item)
        self.most = max(self.most, len(self.running))
        try:
            if item == "blocks":
                assert self.ends.wait(30)
            while not (self.ends.is_set() or item in self.ended):
                await self._sleep(item)
            if item == "fails":
                raise InvalidInput("why")
            if item == "too large":
                raise MemoryError
            if item == "kills the engine":
                raise EngineLost("the engine died")
        finally:
            self.running.remove(item)
        return item

    async def _sleep(self, item: str) -> None:
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.stopped.append(item)
            if item != "stays":
                raise

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.threads.add(threading.get_ident())
        self.is_closed = True


class Measured(Infer):
    """A model that needs 10 bytes, and 10 more for each item that runs."""

    def memory_bytes(self, cost: float) -> int:
        return 10 + int(10 * cost)


class ConcurrentJobs:
    """The device thread of a concurrent model, and the jobs that a test lets it run."""

    def __init__(self, infer: Infer, **arguments: Any) -> None:
        self.infer = infer
        self.now = 0.0
        self._numbers = count(1)
        self.jobs = RecordedJobs(model=ENTRY, infer=infer, **arguments)
        self.consumer = self.jobs.consumer
        self.consumer.infer.runs.clock = lambda: self.now
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.consumer.run_device, daemon=True)

    def start(self) -> None:
        sharing = threading.Thread(target=self.jobs.sharing.run, args=(self.stopping,), daemon=True)
        sharing.start()
        self.thread.start()
        until(lambda: self.consumer.manager.loaded is not None)

    def add(self, item: str, **more: Any) -> ReceivedJob:
        job = self.jobs.job(sequence_number=next(self._numbers), **more)
        job.item = item
        self.consumer._queue_for_device(job)
        return job

    def until_running(self, count: int) -> None:
        until(lambda: len(self.infer.running) == count)

    def until_settled(self, count: int) -> None:
        until(lambda: len(self.jobs.settled) == count)

    def has_stopped(self) -> bool:
        """Remove the messages that were settled until now; return whether the thread has ended."""
        for request in tuple(self.jobs.settled):
            self.jobs.in_flight.remove_delivery(request.delivery, in_time=True)
        return not self.thread.is_alive()

    def code(self, job: ReceivedJob) -> str | None:
        """Return the code of the reply that the job got; None without a reply."""
        cached = self.jobs.cache.find_reply(job.delivery)
        return cached.code if cached else None


@pytest.fixture
def started() -> Iterator[Callable[..., ConcurrentJobs]]:
    """Return a function that starts the thread of a model. All threads end after the test."""
    running = list[ConcurrentJobs]()

    def start(infer: Infer | None = None, **arguments: Any) -> ConcurrentJobs:
        running.append(ConcurrentJobs(infer or Infer(), **arguments))
        running[-1].start()
        return running[-1]

    yield start
    for each in running:
        each.infer.ends.set()
        each.consumer.stop_receiving()
        until(each.has_stopped)
        each.stopping.set()


Start = Callable[..., ConcurrentJobs]


def test_jobs_run_together_up_to_the_limit(started: Start) -> None:
    jobs = started()
    added = [jobs.add(str(number)) for number in range(5)]
    jobs.until_running(3)
    assert jobs.consumer.concurrent.count == 3
    jobs.infer.ends.set()
    jobs.until_settled(5)
    assert {jobs.code(job) for job in added} == {"succeeded"}
    assert jobs.infer.most == 3
    assert {job.batch_size for job in added} == {1}


def test_job_joins_while_another_runs(started: Start) -> None:
    jobs = started()
    jobs.add("first")
    jobs.until_running(1)
    quick = jobs.add("quick")
    jobs.until_settled(1)
    assert jobs.code(quick) == "succeeded"
    assert jobs.infer.running == ["first"]


def cancel(jobs: ConcurrentJobs, job: ReceivedJob) -> None:
    jobs.consumer.concurrent.stops._watched[job][1]()


def lose_lock(jobs: ConcurrentJobs, job: ReceivedJob) -> None:
    job.lock.expires_at = -1.0


def exceed_limit(jobs: ConcurrentJobs, job: ReceivedJob) -> None:
    jobs.now = ENTRY.max_run_seconds + 1.0


def expire(jobs: ConcurrentJobs, job: ReceivedJob) -> None:
    job.request = replace(job.request, deadline=job.request.created_at)


@pytest.mark.parametrize(
    ("stop", "settlement", "code"),
    [
        (cancel, Settlement.COMPLETE, None),
        (expire, Settlement.COMPLETE, None),
        (lose_lock, Settlement.LEAVE, None),
        (exceed_limit, Settlement.COMPLETE, "run-too-long"),
    ],
)
def test_stopped_job_frees_its_place(
    started: Start,
    stop: Callable[[ConcurrentJobs, ReceivedJob], None],
    settlement: Settlement,
    code: str | None,
) -> None:
    jobs = started()
    job = jobs.add("stopped")
    jobs.until_running(1)
    stop(jobs, job)
    jobs.until_settled(1)
    assert (jobs.jobs.settlements, jobs.code(job)) == ([settlement], code)
    assert (jobs.infer.stopped, jobs.infer.running) == (["stopped"], [])
    until(lambda: jobs.consumer.concurrent.count == 0)
    assert not jobs.jobs.shutdown.is_requested


class Eager(StopOrders):
    """Orders each job to stop as soon as it starts."""

    def watch(self, key: object, job_id: str, on_stop: Callable[[], None]) -> None:
        super().watch(key, job_id, on_stop)
        on_stop()


def test_job_is_stopped_before_its_first_step(started: Start) -> None:
    jobs = started()
    jobs.consumer.concurrent.stops = Eager(jobs.jobs.blobs)
    jobs.add("never")
    jobs.until_settled(1)
    assert jobs.jobs.settlements == [Settlement.COMPLETE]
    assert (jobs.infer.stopped, jobs.infer.most) == ([], 0)


def test_error_ends_only_its_job(started: Start) -> None:
    jobs = started()
    failing, other = jobs.add("fails"), jobs.add("other")
    jobs.until_running(2)
    jobs.infer.ends.set()
    jobs.until_settled(2)
    assert (jobs.code(failing), jobs.code(other)) == ("invalid-input", "succeeded")


@pytest.mark.parametrize("job_count", [1, 2])
def test_blocked_loop_restarts_the_process(started: Start, job_count: int) -> None:
    jobs = started()
    if job_count == 2:
        jobs.add("other")
        jobs.until_running(1)
    jobs.add("blocks")
    jobs.until_running(job_count)
    until(lambda: "blocks" in jobs.infer.running)
    jobs.now = ENTRY.max_run_seconds + 1.0
    jobs.consumer.end_overdue()
    jobs.until_settled(job_count)
    assert jobs.jobs.shutdown.exit_code == EXIT_RESTART
    histories = {request.history for request in jobs.jobs.settled}
    assert histories == ({None} if job_count == 1 else {DeliveryHistory(batch_overrun_count=1)})


def test_ignored_cancellation_restarts_the_process(started: Start) -> None:
    jobs = started()
    job, other = jobs.add("stays"), jobs.add("other")
    jobs.until_running(2)
    jobs.now = ENTRY.max_run_seconds + 1.0
    until(lambda: jobs.infer.stopped.count("stays") == 1)
    jobs.consumer.end_overdue()
    assert not jobs.jobs.shutdown.is_requested
    jobs.now += 10.0
    until(lambda: bool(jobs.consumer.infer.runs._calls.get(job)))
    jobs.consumer.end_overdue()
    jobs.until_settled(2)
    assert jobs.jobs.shutdown.exit_code == EXIT_RESTART
    assert (jobs.code(job), jobs.code(other)) == ("run-too-long", "run-too-long")


def test_overrun_job_runs_alone(started: Start) -> None:
    jobs = started()
    jobs.add("first")
    jobs.until_running(1)
    jobs.add("alone", history=DeliveryHistory(batch_overrun_count=1))
    jobs.add("last")
    jobs.infer.ends.set()
    jobs.until_settled(3)
    assert jobs.infer.most == 1


def test_job_alone_is_blamed_for_a_death(started: Start) -> None:
    jobs = started()
    alone = jobs.add("quick")
    jobs.until_settled(1)
    first, second = jobs.add("first"), jobs.add("second")
    jobs.until_running(2)
    jobs.infer.ends.set()
    jobs.until_settled(3)
    assert [job.ran_alone for job in (alone, first, second)] == [True, False, False]


@pytest.mark.parametrize(("items", "failed_count"), [([], 1), (["first"], 0)])
def test_engine_that_dies_during_a_load_counts_against_its_only_job(
    started: Start, items: list[str], failed_count: int
) -> None:
    jobs = started()
    killer = jobs.add("kills the engine")
    for item in items:
        jobs.add(item)
    jobs.until_running(1 + len(items))
    with jobs.consumer.running.noting_load():  # of another model
        jobs.infer.ends.set()
        jobs.until_settled(1 + len(items))
    (history,) = (each.history for each in jobs.jobs.settled if each.delivery is killer.delivery)
    assert history == DeliveryHistory(failed_count=failed_count, running_count=1)


def test_too_many_jobs_for_the_memory_run_again(started: Start) -> None:
    jobs = started()
    large, other = jobs.add("too large"), jobs.add("other")
    jobs.until_running(2)
    jobs.infer.ends.set()
    jobs.until_settled(2)
    assert jobs.code(other) == "succeeded"
    assert (jobs.code(large), jobs.consumer.manager.limit.max_cost) == (None, 1.0)
    alone = jobs.add("too large")
    jobs.until_settled(3)
    assert jobs.code(alone) == "out-of-memory"


def test_unknown_memory_is_measured(started: Start, tmp_path: Path) -> None:
    jobs = started(Measured(), memory=MemorySettings(30, tmp_path))
    limit = jobs.consumer.manager.limit
    jobs.add("first")
    jobs.until_running(1)
    for item in ("second", "third"):
        jobs.add(item)
    jobs.infer.ended.add("first")
    jobs.until_running(2)
    assert limit.measured_cost == 1.0
    jobs.add("fourth")
    jobs.infer.ended |= {"second", "third"}
    until(lambda: jobs.infer.running == ["fourth"])
    assert limit.measured_cost == 2.0
    jobs.add("fifth")
    jobs.until_running(2)
    jobs.add("sixth")
    jobs.infer.ends.set()
    jobs.until_settled(6)
    assert jobs.infer.most == 2


def test_end_of_the_grace_period_stops_jobs(started: Start) -> None:
    jobs = started()
    jobs.add("running")
    jobs.until_running(1)
    jobs.consumer.stop_receiving()
    assert jobs.infer.running == ["running"]
    jobs.consumer.abandon_jobs()
    until(lambda: not jobs.infer.running)
    assert jobs.infer.stopped == ["running"]
    assert jobs.jobs.settlements == [Settlement.ABANDON]


def test_model_is_closed_on_its_thread(started: Start) -> None:
    jobs = started()
    jobs.add("last")
    jobs.until_running(1)
    jobs.consumer.batches.pause()
    jobs.infer.ends.set()
    until(lambda: jobs.infer.is_closed)
    assert len(jobs.infer.threads) == 1


class Yielding:
    accepts: ClassVar[Accepts] = "text"

    async def __call__(self, item: str, context: Context) -> AsyncIterator[str]:
        for part in item.split("|"):
            yield part


@pytest.mark.parametrize(
    ("media_type", "result"), [("text/plain", "Paris"), ("application/json", ["Par", "is"])]
)
def test_values_of_a_generator_are_the_result(media_type: str, result: Any) -> None:
    entry = replace(ENTRY, media_types=("text/plain",), result_media_type=media_type)
    loaded = LoadedModel(entry, Yielding())
    assert loaded.call_model(["Par|is"], [NullContext()]) == [result]
    loaded.close()


def test_model_of_the_guide_runs() -> None:
    guide = (Path(__file__).parents[3] / "docs/how-to/models.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n([^`]*create_subprocess_exec[^`]*)```", guide)
    names: dict[str, Any] = {}
    exec(code, names)
    entry = replace(ENTRY, media_types=("application/json",))
    loaded = LoadedModel(entry, names["Infer"]())
    assert loaded.call_model(["a", 2], [NullContext()] * 2) == ["a", "2"]
    loaded.close()


def test_cancelled_error_of_the_context_ends_the_job(started: Start) -> None:
    class Checking(Infer):
        async def _sleep(self, item: str) -> None:
            raise Cancelled("the context says so")

    jobs = started(Checking())
    job = jobs.add("cancelled")
    jobs.until_settled(1)
    assert jobs.code(job) is None
