"""The account of the seconds on devices that each tenant uses, over all processes.

Each process appends what it has counted to the log of the current hour, FLUSH_SECONDS after a
change, or later if no limit depends on it, and reads the lines of the others. A process that is
killed loses the counts since its last line. A line may be there twice, and counts once.

    {"id", "process", "names": {owner: name},
     "minutes": {minute: {owner: {model: [seconds, jobs]}}}}

The first process that reads an old log from its beginning writes a summary beside it, with a line
for each process.
"""

import asyncio
import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterator
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.keys import owner_of
from gateway.storage.blobs import Blobs
from gateway.storage.logs import LogTail

USAGE: Final = "usage/"
"""The prefix of the logs, whose names end with the hour, and of their summaries."""

FLUSH_SECONDS: Final = 2.0
"""How long after a change a line is appended: as much is lost if the process is killed."""

RELAXED_STEPS: Final = 5
"""How many times as long this takes while only tenants without a limit of a day have changed."""

REFRESH: Final = timedelta(seconds=2)
"""After what time the counts of other processes are read again if they are used."""

IDLE: Final = timedelta(seconds=30)
"""After what time without a read a request waits for the next one."""

CLOSED_AFTER: Final = timedelta(minutes=2)
"""How long after its hour a log may get lines."""

USAGE_KEPT: Final = timedelta(hours=26)
"""How old a log must be before the housekeeping deletes it."""

SUMMED_UP_AFTER: Final = timedelta(minutes=62)
"""How long after its hour a log may be summed up, because its minutes are not needed any more."""

_SUMMARY: Final = ".sum"
_LINES_AT_ONCE: Final = 20
# Long lines are rarer: with 500 tenants each ten seconds.
_SECONDS_EACH: Final = 0.02
_HOURS: Final = 24
_RECENT_MINUTES: Final = 5

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""The owner and the model."""

Sums = dict[Key, tuple[float, int]]
"""The seconds on the device, and the number of ended jobs."""


@dataclass(slots=True)
class TenantUsage:
    """What a tenant has used in the last 60 minutes, and since midnight UTC, in seconds."""

    hour_seconds: float = 0.0
    day_seconds: float = 0.0
    hour_jobs: int = 0
    day_jobs: int = 0
    models: dict[str, "TenantUsage"] = field(default_factory=dict)


def _add(sums: Sums, key: Key, seconds: float, jobs: int) -> None:
    before = sums.get(key, (0.0, 0))
    sums[key] = before[0] + seconds, before[1] + jobs


class Usage:
    """Counts the seconds that the jobs of this process use, and knows those of all processes."""

    def __init__(self, blobs: Blobs, clock: Clock) -> None:
        self._blobs = blobs
        self._clock = clock
        self._process = secrets.token_hex(8)
        self._minutes: defaultdict[int, Sums] = defaultdict(dict)
        """The sums of all processes in each of the last 60 minutes, by minutes since 1970."""
        self._hours: defaultdict[int, Sums] = defaultdict(dict)
        """The same for the last 24 hours, by hours since 1970."""
        self._pending: defaultdict[int, Sums] = defaultdict(dict)
        self._pending_names: dict[str, str] = {}
        self._named: dict[str, int] = {}
        """By owner, in which hour this process has written the name."""
        self._lines: list[bytes] = []
        """Lines that may not be appended yet. They keep their ids, so none counts twice."""
        self._names: dict[str, str] = {}
        self._tails: dict[int, LogTail] = {}
        self._closed: set[int] = set()
        self._ids: dict[int, set[str]] = {}
        self._read_at: datetime | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_loaded = False
        self._flushing: asyncio.Task[None] | None = None
        self._is_urgent = False
        self._writing = asyncio.Lock()

    def note(self, tenant: str) -> None:
        """Remember the name of a tenant that submits jobs."""
        owner = owner_of(tenant)
        hour = int(self._clock().timestamp() // 3600)
        if self._named.get(owner) != hour:
            self._named[owner] = hour
            self._names[owner] = self._pending_names[owner] = tenant
            self._flush_later()

    def record(self, owner: str, model: str, seconds: float, *, is_limited: bool = False) -> None:
        """Count the end of a job that has used the device for `seconds`.

        `is_limited` is true if the tenant may use only so many seconds in a day.
        """
        self._is_urgent |= is_limited
        minute = int(self._clock().timestamp() // 60)
        self._count(minute, (owner, model), seconds, 1)
        _add(self._pending[minute], (owner, model), seconds, 1)
        self._flush_later()

    def name(self, owner: str) -> str | None:
        """Return the name of a tenant that has submitted jobs in the last day."""
        return self._names.get(owner)

    @property
    def names(self) -> list[str]:
        """The tenants that have submitted jobs in the last day."""
        return list(self._names.values())

    def used_today(self, owner: str) -> float:
        """Return how many seconds a tenant has used since midnight UTC."""
        now = self._clock()
        if self._read_at is None or abs(now - self._read_at) >= REFRESH:
            self._start_read(now)
        hours = (self._hours[hour] for hour in _hours_of_day(now) if hour in self._hours)
        return sum(each[0] for sums in hours for key, each in sums.items() if key[0] == owner)

    def seconds_per_job(self, owner: str) -> float | None:
        """Return the mean time between the ends of a tenant's jobs; None without recent ones."""
        last = int(self._clock().timestamp() // 60)
        recent = range(last - _RECENT_MINUTES + 1, last + 1)
        found = (self._minutes[minute] for minute in recent if minute in self._minutes)
        jobs = sum(each[1] for sums in found for key, each in sums.items() if key[0] == owner)
        return 60 * _RECENT_MINUTES / jobs if jobs else None

    async def load(self) -> None:
        """Wait for the first read of the logs, and after IDLE. A failed one is repeated later."""
        now = self._clock()
        is_idle = self._read_at is None or abs(now - self._read_at) >= IDLE
        if is_idle:
            self._start_read(now)
        if (is_idle or not self._is_loaded) and self._reading is not None:
            await asyncio.shield(self._reading)

    async def summarize(self) -> dict[str, TenantUsage]:
        """Return the usage of each owner, after reading the logs. Raises Unavailable."""
        now = self._clock()
        self._read_at = now
        await self._read_logs(now)
        found: defaultdict[str, TenantUsage] = defaultdict(TenantUsage)
        first = int(now.timestamp() // 60) - 59
        for minute, sums in self._minutes.items():
            for each, seconds, jobs in _by_tenant(found, sums) if minute >= first else ():
                each.hour_seconds += seconds
                each.hour_jobs += jobs
        for hour in _hours_of_day(now):
            for each, seconds, jobs in _by_tenant(found, self._hours.get(hour, {})):
                each.day_seconds += seconds
                each.day_jobs += jobs
        return dict(found)

    async def write(self) -> None:
        """Append what was counted since the last line. A failed call is repeated later."""
        async with self._writing:
            if self._pending or self._pending_names:
                counts = _flatten(self._pending)
                names = self._pending_names
                line = _Line(secrets.token_hex(8), self._process, names, counts)
                self._lines.append(line.encode())
                self._pending, self._pending_names = defaultdict(dict), {}
            if not self._lines:
                return
            hour = int(self._clock().timestamp() // 3600)
            try:
                await self._blobs.append(_log_of(hour), b"".join(self._lines))
            except Unavailable as error:
                _log.warning("the usage of tenants cannot be written; it is repeated: %s", error)
            else:
                self._lines = []

    def _count(self, minute: int, key: Key, seconds: float, jobs: int) -> None:
        _add(self._minutes[minute], key, seconds, jobs)
        _add(self._hours[minute // 60], key, seconds, jobs)

    def _flush_later(self) -> None:
        if self._flushing is None:
            loop = asyncio.get_running_loop()
            self._flushing = loop.create_task(self._flush(), context=Context())

    async def _flush(self) -> None:
        try:
            for _ in range(RELAXED_STEPS):
                await asyncio.sleep(FLUSH_SECONDS)
                if self._is_urgent:
                    break
            count = sum(map(len, self._pending.values()))
            await asyncio.sleep(max(0.0, _SECONDS_EACH * count - FLUSH_SECONDS))
        except asyncio.CancelledError:
            await self.write()  # the process ends
            raise
        self._flushing, self._is_urgent = None, False
        await self.write()
        if self._lines:
            self._flush_later()

    def _start_read(self, now: datetime) -> None:
        self._read_at = now
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(
                self._refresh(now), context=Context()
            )

    async def _refresh(self, now: datetime) -> None:
        try:
            await self._read_logs(now)
            self._is_loaded = True
        except Unavailable as error:
            _log.warning("the usage of other processes cannot be read: %s", error)

    async def _read_logs(self, now: datetime) -> None:
        """Read what was appended to the logs of the last day, and forget what is older."""
        last = int(now.timestamp() // 3600)
        hours = range(last - _HOURS, last + 1)
        await asyncio.gather(*(self._read_hour(hour, now) for hour in hours))
        self._closed.intersection_update(hours)
        for hour in [hour for hour in self._hours if hour < hours.start]:
            del self._hours[hour]
        first = int(now.timestamp() // 60) - 60
        for minute in [minute for minute in self._minutes if minute < first]:
            del self._minutes[minute]

    async def _read_hour(self, hour: int, now: datetime) -> None:
        if hour in self._closed:
            return
        age = now - datetime.fromtimestamp(3600 * (hour + 1), UTC)
        summary = None
        if hour not in self._tails and age >= SUMMED_UP_AFTER:
            found = await self._blobs.read(f"{_log_of(hour)}{_SUMMARY}")
            if found is not None:
                self._closed.add(hour)
                for text in found.data.splitlines():
                    self._take(_parse(text), set())
                return
            summary = _Summary(60 * hour)
        ids = self._ids.setdefault(hour, set())
        tail = self._tails.setdefault(hour, LogTail(self._blobs, _log_of(hour)))
        while lines := await tail.read():
            for number, text in enumerate(lines):
                line = _parse(text)
                if line is not None and line.id not in ids and summary is not None:
                    summary.add(line)
                self._take(line, ids)
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)  # other requests wait meanwhile
        if age >= CLOSED_AFTER:
            self._closed.add(hour)
            self._tails.pop(hour, None)
            self._ids.pop(hour, None)
        if summary is not None and summary.lines:
            await self._blobs.create(f"{_log_of(hour)}{_SUMMARY}", summary.encode())

    def _take(self, line: "_Line | None", ids: set[str]) -> None:
        """Count a line if it is of another process, and was not counted before."""
        if line is None or line.process == self._process or line.id in ids:
            return
        ids.add(line.id)
        self._names.update(line.names)
        for minute, key, seconds, jobs in line.counts:
            self._count(minute, key, seconds, jobs)


@dataclass(frozen=True, slots=True)
class _Line:
    id: str
    process: str
    names: dict[str, str]
    counts: list[tuple[int, Key, float, int]]

    def encode(self) -> bytes:
        minutes: defaultdict[int, defaultdict[str, dict[str, Any]]]
        minutes = defaultdict(lambda: defaultdict(dict))
        for minute, (owner, model), seconds, jobs in self.counts:
            minutes[minute][owner][model] = [round(seconds, 6), jobs]
        value = {
            "id": self.id,
            "process": self.process,
            "names": self.names,
            "minutes": minutes,
        }
        return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _parse(text: bytes) -> _Line | None:
    """Read a line. Returns None for another program's line."""
    try:
        value = json.loads(text)
        counts = [
            (int(minute), (owner, model), float(seconds), int(jobs))
            for minute, owners in value["minutes"].items()
            for owner, models in owners.items()
            for model, (seconds, jobs) in models.items()
        ]
        return _Line(value["id"], value["process"], dict(value["names"]), counts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        _log.warning("a line of the usage of tenants cannot be read: %.200r", text)
        return None


class _Summary:
    """Adds up the lines of each process in the log of an hour, in its first minute."""

    def __init__(self, minute: int) -> None:
        self._minute = minute
        self.lines: dict[str, tuple[dict[str, str], defaultdict[int, Sums]]] = {}

    def add(self, line: _Line) -> None:
        names, hours = self.lines.setdefault(line.process, ({}, defaultdict(dict)))
        names.update(line.names)
        for minute, key, seconds, jobs in line.counts:
            # A line may have counts of the hour before.
            _add(hours[min(minute // 60 * 60, self._minute)], key, seconds, jobs)

    def encode(self) -> bytes:
        lines = (
            _Line(secrets.token_hex(8), process, names, _flatten(hours))
            for process, (names, hours) in self.lines.items()
        )
        return b"".join(line.encode() for line in lines)


def _flatten(minutes: dict[int, Sums]) -> list[tuple[int, Key, float, int]]:
    return [
        (minute, key, seconds, jobs)
        for minute, sums in minutes.items()
        for key, (seconds, jobs) in sums.items()
    ]


def _by_tenant(
    found: defaultdict[str, TenantUsage], sums: Sums
) -> Iterator[tuple[TenantUsage, float, int]]:
    """Yield the usage of each tenant, and of each of its models, with what is to be added."""
    for (owner, model), (seconds, jobs) in sums.items():
        tenant = found[owner]
        yield tenant, seconds, jobs
        yield tenant.models.setdefault(model, TenantUsage()), seconds, jobs


def _log_of(hour: int) -> str:
    return f"{USAGE}{datetime.fromtimestamp(3600 * hour, UTC):%Y%m%dT%H}"


def _hours_of_day(now: datetime) -> range:
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = int(midnight.timestamp() // 3600)
    return range(first, first + 24)
