"""Store the logs of streams in Redis, one Redis Stream for each job.

An entry's id is the id of its event, and its only field is the event's line. A script appends only
if the log ends where the writer believes, so all events of an append are there, or none.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from contract.streams import REDIS_FIELD, format_event_id, parse_event_id, stream_key
from worker.streams.store import EMPTY, Append, Appended, LogEnd, LogsUnavailable

_TIMEOUT_SECONDS: Final = 2.0

# KEYS: the stream. ARGV: its last id or nothing, seconds to keep it, its field, the new entries.
# Returns nothing after an append, and otherwise the last entry of the stream.
_SCRIPT: Final = """
local found = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local id, line = '', ''
if #found > 0 then id, line = found[1][1], found[1][2][2] end
if id ~= ARGV[1] then return {id, line} end
for i = 4, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], ARGV[3], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return false
"""
_DIGEST: Final = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisStreamLogs:
    """Redis Streams, each of which is kept for a time after its last event."""

    max_appends = 2
    jobs_per_append = 64

    def __init__(self, url: str, kept_seconds: int) -> None:
        self._kept_seconds = kept_seconds
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        """Append to all logs in one round trip, as `WritableLogs` says."""
        try:
            found = self._run(appends)
            if any(isinstance(each, NoScriptError) for each in found):
                self._redis.script_load(_SCRIPT)
                found = self._run(appends)
        except (RedisError, OSError):
            return [Appended.UNKNOWN] * len(appends)
        return [_result(*each) for each in zip(appends, found, strict=True)]

    def read_end(self, job_id: str) -> LogEnd:
        """Return where the log of a job ends. Raises LogsUnavailable."""
        try:
            found = self._redis.xrevrange(stream_key(job_id), count=1)
        except (RedisError, OSError) as error:
            raise LogsUnavailable(type(error).__name__) from None
        return LogEnd(parse_event_id(found[0][0].decode())) if found else EMPTY

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _run(self, appends: Sequence[Append]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for each in appends:
            entries = [part for key, line in each.events for part in (format_event_id(key), line)]
            last = format_event_id(each.end.last) if each.end != EMPTY else ""
            pipeline.evalsha(
                *(_DIGEST, 1, stream_key(each.job_id), last, self._kept_seconds, REDIS_FIELD),
                *entries,
            )
        return list(pipeline.execute(raise_on_error=False))


def _result(append: Append, found: Any) -> Appended:
    if isinstance(found, Exception):
        return Appended.UNKNOWN
    if found is None:
        return Appended.WRITTEN
    # Perhaps the response to an earlier request with these events was lost.
    key, line = append.events[-1]
    is_ours = found == [format_event_id(key).encode(), line]
    return Appended.WRITTEN if is_ours else Appended.REFUSED
