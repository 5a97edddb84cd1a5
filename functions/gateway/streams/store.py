"""The logs of the jobs' streams: append blobs, or Redis Streams if STREAM_REDIS_URL is set.

Workers write the logs (see `contract.streams`). A reader has a place in a log, and reads what
follows it. The gateway never writes.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from contract.streams import (
    EventId,
    StreamEvent,
    StreamEventType,
    parse_event,
    stream_blob,
)
from gateway.errors import Unavailable
from gateway.jobs.progress import ProgressStore
from gateway.storage.blobs import Blobs

PAGE_BYTES: Final = 512 * 1024
"""How much of a blob one request reads at most."""

PAGE_EVENTS: Final = 64
"""How many events one request reads from a Redis Stream at most."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LogPlace:
    """A place in the log of a job. A read moves it behind the events that it returns.

    `last` is the id of the event before the place: an event with the same or a lower id does not
    count, because a later attempt has begun, or the reader knows it. `offset` is for blobs. After a
    read, `has_more` says whether the log has more events for the next read.
    """

    job_id: str
    last: EventId
    offset: int = 0
    has_more: bool = False

    def pass_by(self, events: Sequence[StreamEvent]) -> list[StreamEvent]:
        """Move behind these events, and return those that count."""
        found = []
        for event in events:
            if event.key > self.last:
                self.last = event.key
                found.append(event)
        return found


class StreamLogs(Protocol):
    """Reads the logs of streams."""

    reads_at_once: int
    """How many logs one call of `read` may read."""

    pause_seconds: float
    """The shortest pause between two calls of `read` by the task that reads for all."""

    async def read(self, places: Sequence[LogPlace]) -> list[list[StreamEvent] | None]:
        """Return the events at each place; None if a log cannot be read now. Moves the places."""


class BlobLogs:
    """Reads logs in append blobs, one request for each."""

    # Other requests of this process use the same connections, and a read takes 0.4 ms.
    reads_at_once = 8
    pause_seconds = 0.02

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def read(self, places: Sequence[LogPlace]) -> list[list[StreamEvent] | None]:
        """Return the events at each place."""
        return await asyncio.gather(*(self._read_one(place) for place in places))

    async def _read_one(self, place: LogPlace) -> list[StreamEvent] | None:
        try:
            data = await self._blobs.read_from(stream_blob(place.job_id), place.offset, PAGE_BYTES)
        except Unavailable as error:
            _log.debug("the stream of job %s cannot be read: %s", place.job_id, error)
            return None
        place.has_more = len(data) == PAGE_BYTES
        end = data.rfind(b"\n") + 1
        if end == 0 and place.has_more:
            end = len(data)  # this is no log of ours
        place.offset += end
        events = (parse_event(line) for line in data[:end].splitlines())
        return place.pass_by([event for event in events if event is not None])


class ProgressLogs:
    """Reads the progress of jobs that write no log, as if it were one."""

    reads_at_once = 8
    pause_seconds = 0.02

    def __init__(self, progress: ProgressStore) -> None:
        self._progress = progress

    async def read(self, places: Sequence[LogPlace]) -> list[list[StreamEvent] | None]:
        """Return the last report of each job, if it is after the job's place."""
        return await asyncio.gather(*(self._read_one(place) for place in places))

    async def _read_one(self, place: LogPlace) -> list[StreamEvent] | None:
        try:
            report = (await self._progress.read(place.job_id)).report
        except Unavailable:
            return None
        if report is None:
            return []
        data = {"fraction": report.fraction, "message": report.message}
        event = StreamEvent(report.attempt, report.sequence, StreamEventType.PROGRESS, data)
        return place.pass_by([event])
