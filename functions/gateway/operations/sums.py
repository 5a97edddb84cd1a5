"""Write this process's counts of jobs into a small blob, and merge the counts of all processes.

The counts of the jobs in one minute, together with sums of their durations, are called minute sums.
The blob `sums/PROCESS` has the minute sums of the last hour, and the totals of the process. The
process overwrites it one minute after a count has changed, and when it ends. A process that is
killed loses the counts since its last write.
"""

import asyncio
import json
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from contract.messages import Json
from contract.names import SUMS
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.storage.blobs import Blobs
from gateway.storage.decoded_blobs import DecodedBlobs
from gateway.telemetry import (
    BUCKET_SECONDS,
    KEPT_MINUTES,
    Histogram,
    JobCounters,
    ModelSum,
    Sums,
)

INTERVAL_SECONDS: Final = 60.0
"""How many seconds after a change of a count the counts are written to the blob."""

SUMS_KEPT: Final = timedelta(minutes=KEPT_MINUTES + 2)
"""How long a blob is kept after its last write. An older blob has no counts of the last hour."""

MAX_PROCESSES: Final = 300
_VERSION: Final = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessSums:
    """The counts of jobs of one gateway process, by minutes since 1970 and since its start."""

    process: str
    minutes: Mapping[int, Sums]
    totals: Sums


class MinuteSums:
    """Stores this process's counts of jobs in each minute, and reads those of all processes."""

    def __init__(
        self, blobs: Blobs, counters: JobCounters, clock: Clock, *, is_enabled: bool
    ) -> None:
        self._blobs = blobs
        self._counters = counters
        self._clock = clock
        self._is_enabled = is_enabled
        self._blob = f"{SUMS}{secrets.token_hex(8)}"
        self._etag: str | None = None
        self._written_count = 0
        self._is_failing = False
        self._pending: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._others = DecodedBlobs(
            blobs,
            SUMS,
            lambda blob, data: decode_sums(blob.name.removeprefix(SUMS), data),
            MAX_PROCESSES,
        )
        if is_enabled:
            counters.on_change = self._write_later

    @property
    def process(self) -> str:
        """The last part of the name of this process's blob."""
        return self._blob.removeprefix(SUMS)

    @property
    def own(self) -> ProcessSums:
        """The counts of jobs of this process."""
        return ProcessSums(self.process, self._counters.minutes, self._counters.totals)

    async def read(self) -> list[ProcessSums]:
        """Return the counts of each gateway process, this one first. May raise Unavailable."""
        if not self._is_enabled:
            return [self.own]
        since = self._clock() - SUMS_KEPT
        found = await self._others.read(
            lambda blob: blob.modified_at >= since and blob.name != self._blob
        )
        return [self.own, *(each for _, each in found)]

    async def write(self) -> None:
        """Write the counts of this process, if they have changed since the last write.

        Only the first of several successive failures is logged.
        """
        async with self._writing:
            change_count = self._counters.change_count
            if not self._is_enabled or change_count == self._written_count:
                return
            try:
                await self._put(encode_sums(self._counters, self._clock()))
            except Unavailable as error:
                if not self._is_failing:
                    _log.warning(
                        "the counts of jobs cannot be written (%s); the next write includes them",
                        error,
                    )
                self._is_failing = True
            else:
                self._written_count, self._is_failing = change_count, False

    def _write_later(self) -> None:
        if self._pending is None:
            # The task gets a new context, because the change is part of a request with a trace.
            self._pending = asyncio.get_running_loop().create_task(
                self._write_after_pause(), context=Context()
            )

    async def _write_after_pause(self) -> None:
        try:
            await asyncio.sleep(INTERVAL_SECONDS)
        except asyncio.CancelledError:
            # The process ends: the event loop cancels its tasks, and waits for them.
            await self.write()
            raise
        self._pending, self._counters.is_changed = None, False
        await self.write()
        if self._is_failing:
            self._write_later()

    async def _put(self, data: bytes) -> None:
        await self._put_over(data, self._etag)
        if self._etag is None:
            # The response to the last write was lost, or the blob was deleted.
            found = await self._blobs.read(self._blob)
            await self._put_over(data, None if found is None else found.etag)
        if self._etag is None:
            raise Unavailable(
                "blobs",
                f"the blob {self._blob} with this process's counts was changed by another process",
            )

    async def _put_over(self, data: bytes, etag: str | None) -> None:
        if etag is None:
            self._etag = await self._blobs.create(self._blob, data)
        else:
            self._etag = await self._blobs.replace(self._blob, data, etag)


def merge_minutes(processes: list[ProcessSums]) -> dict[int, Sums]:
    """Add up the counts of all processes in each minute."""
    merged: dict[int, Sums] = {}
    for each in processes:
        for minute, sums in each.minutes.items():
            add_sums(merged.setdefault(minute, {}), sums)
    return merged


def add_sums(target: Sums, more: Sums) -> None:
    """Add the sums of each model."""
    for model, each in more.items():
        target.setdefault(model, ModelSum()).add(each)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return an estimated quantile of the durations, at most the last bound; None without any.

    `share` is a number from 0 to 1, for example 0.95 for the 95th percentile.
    """
    count = histogram.counts.total()
    if not count:
        return None
    rank = share * count
    below = 0
    for bucket in sorted(histogram.counts):
        inside = histogram.counts[bucket]
        if below + inside >= rank:
            if bucket >= len(BUCKET_SECONDS):
                return BUCKET_SECONDS[-1]
            low = BUCKET_SECONDS[bucket - 1] if bucket else 0.0
            return low + (BUCKET_SECONDS[bucket] - low) * (rank - below) / inside
        below += inside
    return None


def encode_sums(counters: JobCounters, now: datetime) -> bytes:
    """Encode the counts of a process as JSON, without those that are zero or unknown."""
    oldest = int(now.timestamp() // 60) - KEPT_MINUTES
    value: Json = {
        "version": _VERSION,
        "minutes": {
            str(minute): found
            for minute, sums in sorted(counters.minutes.items())
            if minute >= oldest and (found := _sums_to_json(sums))
        },
        "totals": _sums_to_json(counters.totals),
    }
    return json.dumps(value, separators=(",", ":")).encode()


def decode_sums(process: str, data: bytes) -> ProcessSums:
    """Decode the counts of a process. Raises ValueError if they are malformed."""
    try:
        value = json.loads(data)
        if value["version"] != _VERSION:
            raise ValueError(
                f"the counts of jobs have version {value['version']!r}; expected {_VERSION}"
            )
        return ProcessSums(
            process,
            {int(minute): _sums_from_json(sums) for minute, sums in value["minutes"].items()},
            _sums_from_json(value["totals"]),
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"the counts of jobs are malformed: {error!r}") from None


def _sums_to_json(sums: Sums) -> dict[str, Json]:
    found = {model: _sum_to_json(each) for model, each in sums.items()}
    return {model: each for model, each in found.items() if each}


def _sum_to_json(each: ModelSum) -> dict[str, Json]:
    value: dict[str, Json] = {
        "accepted": each.accepted,
        "succeeded": each.succeeded,
        "cancelled": each.cancelled,
        "expired": each.expired,
        "failed": dict(each.failed),
        "failed_at": {code: int(at) for code, at in each.failed_at_seconds.items()},
        "wait": _histogram_to_json(each.wait),
        "run": _histogram_to_json(each.run),
        "chunks": each.chunks,
        "first_chunk": _histogram_to_json(each.first_chunk),
    }
    value = {name: found for name, found in value.items() if found}
    if each.waiting is not None:
        value["waiting"] = each.waiting
    return value


def _histogram_to_json(histogram: Histogram) -> Json:
    if not histogram.counts:
        return None
    counts = {str(bucket): count for bucket, count in sorted(histogram.counts.items())}
    return {"sum": round(histogram.sum_seconds, 3), **counts}


def _sums_from_json(value: Mapping[str, Json]) -> Sums:
    return {model: _sum_from_json(each) for model, each in value.items()}


def _sum_from_json(value: Mapping[str, Json]) -> ModelSum:
    return ModelSum(
        accepted=int(value.get("accepted", 0)),
        succeeded=int(value.get("succeeded", 0)),
        cancelled=int(value.get("cancelled", 0)),
        expired=int(value.get("expired", 0)),
        failed=Counter({code: int(count) for code, count in value.get("failed", {}).items()}),
        failed_at_seconds={code: float(at) for code, at in value.get("failed_at", {}).items()},
        wait=_histogram_from_json(value.get("wait") or {}),
        run=_histogram_from_json(value.get("run") or {}),
        chunks=int(value.get("chunks", 0)),
        first_chunk=_histogram_from_json(value.get("first_chunk") or {}),
        waiting=value.get("waiting"),
    )


def _histogram_from_json(value: Mapping[str, Json]) -> Histogram:
    counts = Counter({int(name): int(count) for name, count in value.items() if name != "sum"})
    return Histogram(counts, float(value.get("sum", 0.0)))


def as_time(seconds: float) -> datetime:
    """Return the time that is this many seconds after 1970 began."""
    return datetime.fromtimestamp(seconds, UTC)
