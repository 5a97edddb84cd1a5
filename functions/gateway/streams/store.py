"""The logs of the jobs' streams: append blobs, or Redis Streams if STREAM_REDIS_URL is set.

Workers write the logs (see `contract.streams`). A reader has a place in a log, and reads what
follows it. The gateway never writes.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contract.streams import (
    REDIS_FIELD,
    EventId,
    StreamEvent,
    StreamEventType,
    format_event_id,
    parse_event,
    stream_blob,
    stream_key,
)
from gateway.errors import Unavailable
from gateway.jobs.progress import ProgressStore
from gateway.storage.blobs import Blobs

PAGE_BYTES: Final = 512 * 1024
"""How much of a blob one request reads at most."""

PAGE_EVENTS: Final = 64
"""How many events one request reads from a Redis Stream at most."""

_REDIS_SECONDS: Final = 2.0
_REDIS_CONNECTIONS: Final = 8

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


class RedisLogs:
    """Reads logs in Redis Streams, many with one command.

    A cluster refuses a command for keys in several of its slots, so Redis must not be a cluster.
    """

    # The readers that one call wakes keep other requests waiting, for about 0.2 ms each.
    reads_at_once = 64
    pause_seconds = 0.002

    def __init__(self, url: str) -> None:
        """Connect at the first read."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_REDIS_CONNECTIONS,
            timeout=_REDIS_SECONDS,
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),  # the next read is the retry
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._is_available = True

    async def read(self, places: Sequence[LogPlace]) -> list[list[StreamEvent] | None]:
        """Return the events at each place. The places must be of different jobs."""
        wanted: dict[Any, Any] = {
            stream_key(place.job_id): format_event_id(place.last) for place in places
        }
        try:
            answer: Any = await self._redis.xread(wanted, count=PAGE_EVENTS)
        except (RedisError, OSError, TimeoutError) as error:
            if self._is_available:
                # Only the class, because the message may contain the address.
                _log.warning("Redis cannot be read (%s); open streams wait", type(error).__name__)
            self._is_available = False
            return [None for _ in places]
        self._is_available = True
        entries = {key.decode(): found for key, found in answer}
        return [_pass_by(place, entries.get(stream_key(place.job_id), [])) for place in places]

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _pass_by(
    place: LogPlace, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]
) -> list[StreamEvent]:
    """Move a place behind these entries of a Redis Stream, and return their events."""
    place.has_more = len(entries) == PAGE_EVENTS
    events = [parse_event(fields.get(REDIS_FIELD.encode(), b"")) for _, fields in entries]
    found = place.pass_by([event for event in events if event is not None])
    if entries:
        attempt, number = entries[-1][0].split(b"-")
        place.last = max(place.last, (int(attempt), int(number)))
    return found
