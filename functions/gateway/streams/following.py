"""Follow one job: its events from an id on, and then its end. Limit how many follow."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from contract.streams import BEFORE_ALL, EventId, StreamEvent, StreamEventType
from gateway import problems
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.jobs.lifecycle import Jobs, OutcomeStore, Waiters
from gateway.jobs.model import JobOutcome, Record, final_record, is_final
from gateway.jobs.progress import ProgressStore
from gateway.problems import HttpProblem
from gateway.settings import GatewaySettings
from gateway.streams.feeds import Feeds, LogUnreadable
from gateway.streams.store import LogPlace, ProgressLogs, StreamLogs

LOG_PAUSES_SECONDS: Final = 0.02, 0.5
PROGRESS_PAUSES_SECONDS: Final = 1.0, 1.0
"""The shortest and the longest pause between two reads of a log, and of the progress of a job."""

RETRY_AFTER_SECONDS: Final = 5
"""The Retry-After of a refused stream."""

_WAIT_SECONDS: Final = 3600.0


@dataclass(kw_only=True, eq=False)
class Streams:
    """Follows jobs for the callers of this process."""

    store: StreamLogs
    jobs: Jobs
    outcomes: OutcomeStore
    progress: ProgressStore
    waiters: Waiters
    settings: GatewaySettings

    def __post_init__(self) -> None:
        self._logs = Feeds(self.store, *LOG_PAUSES_SECONDS)
        self._progress = Feeds(ProgressLogs(self.progress), *PROGRESS_PAUSES_SECONDS)
        self._by_tenant: Counter[str] = Counter()
        self._by_job: Counter[str] = Counter()

    @contextlib.contextmanager
    def opening(self, tenant: str) -> Iterator[None]:
        """Count a stream of this tenant in the `with` block.

        Raises the problem `too-many-streams` if as many streams as allowed are open.
        """
        settings, count = self.settings, self._by_tenant[tenant]
        if count >= settings.max_tenant_streams:
            raise _too_many(f"the tenant has {count} open streams, as many as allowed")
        if self._by_tenant.total() >= settings.max_streams:
            raise _too_many("the gateway has as many open streams as allowed")
        self._by_tenant[tenant] += 1
        try:
            yield
        finally:
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]

    def reader_count(self, job_id: str | None = None) -> int:
        """Return how many callers of this process follow a job, or any job."""
        return self._by_job.total() if job_id is None else self._by_job[job_id]

    async def find_run(self, job_id: str, record: Record) -> EventId:
        """Return the id of the event with which the model's last run began, so far.

        Raises Unavailable if the log cannot be read.
        """
        begun, place = BEFORE_ALL, LogPlace(job_id, BEFORE_ALL, has_more=bool(record.get("stream")))
        while place.has_more:
            (events,) = await self.store.read([place])
            if events is None:
                raise Unavailable("streams", f"the stream of job {job_id} cannot be read")
            attempts = [event.key for event in events if event.type is StreamEventType.ATTEMPT]
            begun = max([begun, *attempts])
        return begun

    async def follow(
        self, durable: Durable, job_id: str, record: Record, after: EventId = BEFORE_ALL
    ) -> AsyncGenerator[StreamEvent, None]:
        """Yield the events of a job after the id `after`; at last END, with the final record.

        `record` is a record of the job without its progress. The final record has `stream_lost` if
        events are missing. Raises ReaderBehind if the caller takes the events too slowly.
        """
        async with contextlib.aclosing(self.follow_many(durable, job_id, record, after)) as found:
            async for events in found:
                for event in events:
                    yield event

    async def follow_many(
        self, durable: Durable, job_id: str, record: Record, after: EventId = BEFORE_ALL
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Yield the same events as `follow`, those together that were read together."""
        last, feeds, is_lost = after, self._feeds_of(record), False
        with (
            self._counting(job_id),
            self.waiters.waiting(job_id) as ended,
            _running(self._find_end(durable, job_id, record, ended)) as end,
        ):
            try:
                if feeds is not None:
                    async with contextlib.aclosing(feeds.follow(job_id, after, end)) as found:
                        async for events in found:
                            last = events[-1].key
                            if shown := [event for event in events if _is_shown(event)]:
                                yield shown
            except LogUnreadable:
                is_lost = True
            final = await end
        if is_lost:
            final = {**final, "stream_lost": True}
        yield [StreamEvent(max(last[0], 1), last[1] + 1, StreamEventType.END, final)]

    async def _find_end(
        self, durable: Durable, job_id: str, record: Record, ended: asyncio.Future[JobOutcome]
    ) -> Record:
        """Wait for the end of a job; return its final record."""
        if is_final(record):
            return record
        # The job may have ended between the read of the record and the begin of the wait.
        with contextlib.suppress(Unavailable):
            if (outcome := await self.outcomes.find(job_id)) is not None:
                return final_record(record, outcome)
        while True:
            final = await self.jobs.wait(durable, job_id, record, ended, _WAIT_SECONDS)
            if final is not None:
                return final

    def _feeds_of(self, record: Record) -> Feeds | None:
        """Return what reads the events of a job; None if it has none but its end."""
        if record.get("stream"):
            return self._logs
        has_progress = self.progress.is_reported(record["model"]) and not is_final(record)
        return self._progress if has_progress else None

    @contextlib.contextmanager
    def _counting(self, job_id: str) -> Iterator[None]:
        self._by_job[job_id] += 1
        try:
            yield
        finally:
            self._by_job[job_id] -= 1
            if not self._by_job[job_id]:
                del self._by_job[job_id]


@contextlib.contextmanager
def _running(finding: Coroutine[Any, Any, Record]) -> Iterator[asyncio.Task[Record]]:
    """Run a task, and cancel it at the end of the `with` block."""
    task = asyncio.create_task(finding)
    try:
        yield task
    finally:
        task.cancel()


def _is_shown(event: StreamEvent) -> bool:
    """Return whether readers see an event; the begin of the first attempt says nothing."""
    return event.type is not StreamEventType.ATTEMPT or event.key != (1, 0)


def _too_many(reason: str) -> HttpProblem:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return HttpProblem(
        problems.TOO_MANY_STREAMS, f"{reason}; close one or try again", headers=headers
    )
