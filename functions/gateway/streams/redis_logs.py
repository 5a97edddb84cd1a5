"""The logs of the jobs' streams in Redis Streams.

Only a gateway with STREAM_REDIS_URL imports this module: the import of the library takes 0.1 s.
"""

import logging
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contract.streams import REDIS_FIELD, StreamEvent, format_event_id, parse_event, stream_key
from gateway.streams.store import PAGE_EVENTS, LogPlace

_REDIS_SECONDS: Final = 2.0
_REDIS_CONNECTIONS: Final = 8

_log = logging.getLogger(__name__)


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
