"""The waiting room of one model, in blobs: the logs of held jobs, and the state of its leader.

A job is held by two lines: its message in a log of bodies, and then its entry, which says where the
message is. Both are appended to the log of the minute. The process may die after each step:

    append the body ──▶ append the entry ──▶ start the orchestration

Without an entry the job does not exist. With an entry it is let in, whoever holds it.

A log of entries is read until GRACE after its minute. So a writer whose entry was stored more than
LATE after the minute appends it again: an entry counts once.
"""

import asyncio
import base64
import json
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contract.catalogue import Priority
from gateway.clock import Clock
from gateway.errors import Unavailable
from gateway.storage.blobs import Blobs
from gateway.storage.logs import LogTail, LogWriter

ROOMS: Final = "shares/"

LATE: Final = timedelta(seconds=10)
GRACE: Final = timedelta(seconds=30)
AHEAD: Final = timedelta(seconds=5)
"""How far the clock of a writer may be ahead of the reader's."""

ENDS_MINUTES: Final = 5
"""How many minutes old the logs of ends are that a leader reads at most."""

KEPT: Final = timedelta(minutes=5)
"""How long a log of bodies or ends is kept without a job that needs it."""

GATHER_SECONDS: Final = 0.02
"""How long an end that another process leads waits for others, to share a request."""

PIECE_BYTES: Final = 256 * 1024
"""How much of a log is read and parsed at once: about 800 entries, which take 10 ms."""

LIST_EACH: Final = timedelta(minutes=1)
"""How often the logs are listed, to find one that a late writer has created again."""

CHUNK_BYTES: Final = 256 * 1024
CHUNKS: Final = 128
"""The size of the pieces in which bodies are read, and how many stay in memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A held job. `at` says where its message is: the blob, the offset and the size in bytes."""

    job_id: str
    owner: str
    priority: Priority
    deadline: datetime
    created_at: datetime
    traceparent: str | None = None
    batch: str | None = None
    at: tuple[str, int, int] = ("", 0, 0)


@dataclass(frozen=True, slots=True)
class JobInFlight:
    """A job that was let in or sent directly, and has not ended. `since` is a time in seconds."""

    owner: str
    priority: Priority
    estimate: float
    since: float
    is_direct: bool = False


@dataclass(frozen=True, slots=True)
class RoomEnd:
    """An end that a process has seen that did not lead the room."""

    job_id: str
    owner: str
    seconds: float | None
    """How long the job used the device; None if it ended without a reply."""


@dataclass(frozen=True, slots=True)
class RoomState:
    """What the leader saves. `logs` says for each log of entries which of its lines are done."""

    leader: str = ""
    beat: int = 0
    is_open: bool = False
    windows: dict[Priority, int] = field(default_factory=dict)
    account: Any = None
    in_flight: dict[str, JobInFlight] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    oldest: datetime | None = None


def encode_entry(entry: Entry) -> bytes:
    """Return the line of an entry, without a line end."""
    value: dict[str, Any] = {
        "job": entry.job_id,
        "owner": entry.owner,
        "deadline": entry.deadline.isoformat(),
        "created": entry.created_at.isoformat(),
        "at": entry.at,
    }
    if entry.priority is Priority.LOW:
        value["low"] = True
    if entry.traceparent:
        value["traceparent"] = entry.traceparent
    if entry.batch:
        value["batch"] = entry.batch
    return json.dumps(value, separators=(",", ":")).encode()


def parse_entry(line: bytes) -> Entry | None:
    """Return the entry in a line; None if the line has none."""
    try:
        value = json.loads(line)
        blob, offset, size_bytes = value["at"]
        return Entry(
            value["job"],
            value["owner"],
            Priority.LOW if value.get("low") else Priority.NORMAL,
            datetime.fromisoformat(value["deadline"]),
            datetime.fromisoformat(value["created"]),
            value.get("traceparent"),
            value.get("batch"),
            (blob, int(offset), int(size_bytes)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def encode_state(state: RoomState) -> bytes:
    """Return the state as JSON."""
    value = {
        "leader": state.leader,
        "beat": state.beat,
        "open": state.is_open,
        "window": state.windows,
        "account": state.account,
        "in_flight": [
            [job_id, each.owner, each.estimate, each.since, each.priority, each.is_direct]
            for job_id, each in state.in_flight.items()
        ],
        "logs": state.logs,
        "ends": state.ends,
        "oldest": None if state.oldest is None else state.oldest.isoformat(),
    }
    return json.dumps(value, separators=(",", ":")).encode()


def parse_state(data: bytes) -> RoomState:
    """Read a state."""
    value = json.loads(data)
    oldest = value["oldest"]
    return RoomState(
        leader=value["leader"],
        beat=value["beat"],
        is_open=value["open"],
        windows={Priority(name): count for name, count in value["window"].items()},
        account=value["account"],
        in_flight={
            job_id: JobInFlight(owner, Priority(priority), estimate, since, is_direct)
            for job_id, owner, estimate, since, priority, is_direct in value["in_flight"]
        },
        logs=value["logs"],
        ends=value["ends"],
        oldest=None if oldest is None else datetime.fromisoformat(oldest),
    )


def minute_of(at: datetime) -> str:
    """Return the name of the minute of a time."""
    return f"{at:%Y%m%dT%H%M}"


def end_of(minute: str) -> datetime:
    """Return the end of a minute with this name."""
    begin = datetime.strptime(minute, "%Y%m%dT%H%M").replace(tzinfo=UTC)
    return begin + timedelta(minutes=1)


def entries_prefix(model: str) -> str:
    """Return the prefix of the logs of a model's held jobs."""
    return f"{ROOMS}{model}/room/"


class Room:
    """The blobs of one model's room. Each method raises Unavailable if the storage fails."""

    def __init__(self, model: str, blobs: Blobs, clock: Clock) -> None:
        self.model = model
        self.blobs = blobs
        self.clock = clock
        self.prefix = f"{ROOMS}{model}/"
        self._bodies = LogWriter(blobs)
        self._entries = LogWriter(blobs)
        self._ends = LogWriter(blobs, GATHER_SECONDS)
        self._chunks: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    async def hold(self, entry: Entry, body: bytes) -> Entry:
        """Store a job's message and its entry; return the entry with the place of the message.

        If it raises Unavailable, the job may be stored.
        """
        blob = self._log("bodies")
        offset = await self._bodies.append(blob, body)
        stored = replace(entry, at=(blob.removeprefix(self.prefix), offset, len(body)))
        line = encode_entry(stored)
        while True:
            minute = minute_of(self.clock())
            await self._entries.append(f"{entries_prefix(self.model)}{minute}", line)
            if self.clock() <= end_of(minute) + LATE:
                return stored

    async def append_end(self, end: RoomEnd) -> None:
        """Append the end of a job, for the leader."""
        value = {"job": end.job_id, "owner": end.owner, "s": end.seconds}
        await self._ends.append(self._log("ends"), json.dumps(value).encode())

    async def read_state(self) -> tuple[RoomState, str] | None:
        """Return the state and its ETag; None if the room was never open."""
        found = await self.blobs.read(f"{self.prefix}state")
        try:
            return None if found is None else (parse_state(found.data), found.etag)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Unavailable("blobs", f"{self.prefix}state is malformed: {error!r}") from None

    async def write_state(self, state: RoomState, etag: str | None) -> str | None:
        """Write the state if its ETag is `etag`; return its new ETag, or None if it is not.

        Without an ETag there must be no state yet.
        """
        blob, data = f"{self.prefix}state", encode_state(state)
        if etag is None:
            return await self.blobs.create(blob, data)
        return await self.blobs.replace(blob, data, etag)

    async def read_bodies(self, entries: Sequence[Entry]) -> list[bytes]:
        """Return the messages of held jobs. Neighbours are read together."""
        wanted = {key for entry in entries for key in _chunk_keys(entry)}
        missing = [key for key in wanted if key not in self._chunks]
        await asyncio.gather(*map(self._read_chunk, missing))
        bodies = [self._find_body(entry) for entry in entries]
        short = [each for each, body in zip(entries, bodies, strict=True) if body is None]
        if short:
            # The end of a log was read before these were appended.
            await asyncio.gather(*map(self._read_chunk, {k for e in short for k in _chunk_keys(e)}))
            bodies = [body or self._find_body(e) for e, body in zip(entries, bodies, strict=True)]
        while len(self._chunks) > CHUNKS:
            self._chunks.popitem(last=False)
        return [body or b"" for body in bodies]

    async def _read_chunk(self, key: tuple[str, int]) -> None:
        blob, index = key
        offset = index * CHUNK_BYTES
        data = await self.blobs.read_from(f"{self.prefix}{blob}", offset, CHUNK_BYTES)
        self._chunks[key] = data

    def _find_body(self, entry: Entry) -> bytes | None:
        """Return the body of an entry, if the chunks in memory have the whole of it."""
        _, offset, size_bytes = entry.at
        parts = []
        for key in _chunk_keys(entry):
            start = max(0, offset - key[1] * CHUNK_BYTES)
            stop = offset + size_bytes - key[1] * CHUNK_BYTES
            parts.append(self._chunks.get(key, b"")[start:stop])
        body = b"".join(parts)
        return body if len(body) == size_bytes else None

    async def clean(self, view: "RoomView") -> None:
        """Delete the logs that no job needs any more."""
        # A log is deleted before it is forgotten: a state without it would let its jobs in again.
        for minute in view.done():
            await self.blobs.delete(f"{entries_prefix(self.model)}{minute}")
            view.forget(minute)
        # A process that was suspended has an old view, which lacks the entries of newer bodies.
        oldest, needed = minute_of(view.read_at - KEPT), {entry.at[0] for entry in view.held()}
        for name in await self.blobs.list_names(self.prefix):
            log = name.removeprefix(self.prefix)
            kind, _, minute = log.partition("/")
            if kind in {"bodies", "ends"} and minute < oldest and log not in needed:
                await self.blobs.delete(name)
        for key in [key for key in self._chunks if key[0] not in needed]:
            del self._chunks[key]

    def _log(self, kind: str) -> str:
        return f"{self.prefix}{kind}/{minute_of(self.clock())}"


def _chunk_keys(entry: Entry) -> list[tuple[str, int]]:
    blob, offset, size_bytes = entry.at
    last = max(offset, offset + size_bytes - 1)
    return [(blob, index) for index in range(offset // CHUNK_BYTES, last // CHUNK_BYTES + 1)]


@dataclass(slots=True)
class _Log:
    """A log of entries. Bit N of `done`: the job of line N was let in or removed."""

    tail: LogTail
    done: bytearray
    jobs: list[str] = field(default_factory=list)
    """The job of each line; empty for a line without a job that may be held."""
    left: int = 0
    is_over: bool = False
    """Whether it was read after its minute and GRACE: nothing more will be appended."""

    def take_line(self) -> bool:
        """Add a line that was read; return whether its job may have to be let in."""
        number = len(self.jobs)
        self.jobs.append("")
        while len(self.done) * 8 < len(self.jobs):
            self.done.append(0)
        is_left = not self.done[number // 8] >> number % 8 & 1
        self.left += is_left
        return is_left

    def mark(self, line: int) -> None:
        """Record that the job of this line, which is not marked, needs nothing more."""
        self.done[line // 8] |= 1 << line % 8
        self.left -= 1


@dataclass(slots=True)
class _Known:
    """Where the line of a job is, and its entry while it is held."""

    minute: str
    line: int
    number: int
    """Its number among the jobs of its owner and priority, in the order of the logs."""
    entry: Entry | None


_Key = tuple[str, Priority]


class RoomView:
    """The held jobs of a room, as this process has read them from the logs.

    A job that this process has just stored is announced: it has a place before it is read.
    """

    def __init__(self, room: Room, state: RoomState, before: "RoomView | None" = None) -> None:
        """Create a view, which goes on with what was announced to the view `before`."""
        self.room = room
        self._logs: dict[str, _Log] = {}
        self._ends: dict[str, LogTail] = {}
        self._known: dict[str, _Known] = {}
        self._queues: dict[_Key, deque[Entry]] = {}
        self._counts: Counter[_Key] = Counter()
        self._numbers: Counter[_Key] = Counter()
        self._announced: dict[str, tuple[_Key, int]] = before._announced if before else {}
        self._announcements: Counter[_Key] = before._announcements if before else Counter()
        self._read_own: Counter[_Key] = before._read_own if before else Counter()
        self.foreign_count = 0
        """How many jobs were read that other processes have stored."""
        self.read_at = datetime.min.replace(tzinfo=UTC) + KEPT
        """When the last whole read of the logs began."""
        self._listed_at: datetime | None = None
        self._new: list[Entry] = []
        self._new_ends: list[RoomEnd] = []
        self._reading = asyncio.Lock()
        for minute, done in state.logs.items():
            self._add_log(minute, base64.b64decode(done))
        for minute, offset in state.ends.items():
            self._add_ends(minute, offset)

    async def read(self) -> list[Entry]:
        """Return the held jobs whose entries were not read before, in the order of their logs.

        Raises Unavailable if the storage fails; then the next call returns these jobs, too.
        """
        async with self._reading:
            now = self.room.clock()
            if self._listed_at is None or now - self._listed_at > LIST_EACH:
                for name in await self.room.blobs.list_names(entries_prefix(self.room.model)):
                    self._add_log(name.rpartition("/")[2])
                self._listed_at = now
            for at in (now - GRACE, now, now + AHEAD):
                self._add_log(minute_of(at))
            for minute in sorted(self._logs):
                if (log := self._logs.get(minute)) is None or log.is_over:
                    continue
                async for lines in _pieces(log.tail):
                    for line in lines:
                        self._take(minute, log, line)
                log.is_over = end_of(minute) + GRACE < now
            self.read_at = now
        found, self._new = self._new, []
        return found

    def _take(self, minute: str, log: _Log, line: bytes) -> None:
        """Take a line of a log. It is new if its job is held, and was not read before."""
        number, is_left = len(log.jobs), log.take_line()
        entry = parse_entry(line)
        if entry is None or entry.job_id in self._known:
            if is_left:
                log.mark(number)
            return
        key = entry.owner, entry.priority
        if self._announced.pop(entry.job_id, None) is None:
            self.foreign_count += 1
        else:
            self._read_own[key] += 1
        known = _Known(minute, number, self._numbers[key], entry if is_left else None)
        self._known[entry.job_id] = known
        if not is_left:
            return
        log.jobs[number] = entry.job_id
        self._numbers[key] += 1
        self._counts[key] += 1
        self._queues.setdefault(key, deque()).append(entry)
        self._new.append(entry)

    def announce(self, job_id: str, owner: str, priority: Priority) -> None:
        """Give a job a place whose entry this process stores, until the entry is read."""
        key = owner, priority
        if job_id not in self._announced and job_id not in self._known:
            self._announced[job_id] = key, self._announcements[key]
            self._announcements[key] += 1

    def retract(self, job_id: str) -> None:
        """Undo `announce`, because the entry was possibly not stored."""
        if (announced := self._announced.pop(job_id, None)) is not None:
            self._read_own[announced[0]] += 1

    def apply(self, state: RoomState) -> None:
        """Remove the jobs that the leader has let in, in the view of another process."""
        for minute, log in self._logs.items():
            done = base64.b64decode(state.logs.get(minute, ""))
            if minute not in state.logs and log.is_over:
                done = b"\xff" * len(log.done)  # the leader has deleted the log
            for index, (new, old) in enumerate(zip(done, log.done, strict=False)):
                for bit in range(8) if new & ~old else ():
                    line = index * 8 + bit
                    is_new = new & ~old & 1 << bit and line < len(log.jobs)
                    if is_new and self.remove(log.jobs[line]) is None:
                        log.mark(line)
        for minute in self.done():
            self.forget(minute)

    async def read_ends(self) -> list[RoomEnd]:
        """Return the ends that were appended since the last call, or since the state was saved."""
        now = self.room.clock()
        minutes = [minute_of(now - timedelta(minutes=ago)) for ago in range(ENDS_MINUTES, -1, -1)]
        first = max(minutes[0], min(self._ends, default=minute_of(now - GRACE)))
        for minute in (*minutes, minute_of(now + AHEAD)):
            if minute >= first and minute not in self._ends:
                self._add_ends(minute)
        for minute in sorted(self._ends):
            async for lines in _pieces(self._ends[minute]):
                self._new_ends += filter(None, map(_parse_end, lines))
            if end_of(minute) + GRACE < now:
                del self._ends[minute]
        ends, self._new_ends = self._new_ends, []
        return ends

    def first(self, owner: str, priority: Priority) -> Entry:
        """Return the first held job of an owner."""
        queue = self._queues[owner, priority]
        while (known := self._known.get(queue[0].job_id)) is None or known.entry is None:
            queue.popleft()
        return queue[0]

    def take(self, owner: str, priority: Priority) -> Entry:
        """Remove the first held job of an owner, to let it in, and return it."""
        entry = self.first(owner, priority)
        self._queues[owner, priority].popleft()
        self._counts[owner, priority] -= 1
        self._known[entry.job_id].entry = None
        return entry

    def put_back(self, entry: Entry) -> None:
        """Hold a job again that could not be let in, before its owner's others."""
        self._known[entry.job_id].entry = entry
        self._counts[entry.owner, entry.priority] += 1
        self._queues[entry.owner, entry.priority].appendleft(entry)

    def mark(self, entry: Entry) -> None:
        """Record that a job that was taken is let in, or needs nothing more."""
        known = self._known[entry.job_id]
        self._logs[known.minute].mark(known.line)

    def remove(self, job_id: str) -> Entry | None:
        """Remove a held job that has ended; return its entry, or None if it is not held."""
        known = self._known.get(job_id)
        if known is None or known.entry is None:
            return None
        entry, known.entry = known.entry, None
        self._counts[entry.owner, entry.priority] -= 1
        self.mark(entry)
        return entry

    def place(self, job_id: str) -> int | None:
        """Return a held job's place, from 1, among those of its owner and priority.

        It may be too high by jobs that have ended while they were held.
        """
        if (announced := self._announced.get(job_id)) is not None:
            key, number = announced
            return self._counts[key] + number - self._read_own[key] + 1
        known = self._known.get(job_id)
        if known is None or (entry := known.entry) is None:
            return None
        first = self._known[self.first(entry.owner, entry.priority).job_id]
        return known.number - first.number + 1

    def held(self) -> list[Entry]:
        """Return all held jobs."""
        return [known.entry for known in self._known.values() if known.entry is not None]

    def oldest(self) -> datetime | None:
        """Return when the oldest held job was created."""
        firsts = []
        for queue in self._queues.values():
            for entry in queue:
                if self._known[entry.job_id].entry is not None:
                    firsts.append(entry.created_at)
                    break
        return min(firsts, default=None)

    def logs(self) -> dict[str, str]:
        """Return which lines of the logs are done, for the state."""
        return {
            minute: base64.b64encode(log.done).decode()
            for minute, log in self._logs.items()
            if log.done  # also if the log is not read yet
        }

    def ends(self) -> dict[str, int]:
        """Return how far the logs of ends were read, for the state."""
        return {minute: tail.offset for minute, tail in self._ends.items()}

    def done(self) -> list[str]:
        """Return the logs to which nothing is appended any more and whose jobs are all let in."""
        return [minute for minute, log in self._logs.items() if log.is_over and not log.left]

    def forget(self, minute: str) -> None:
        """Forget a log that is done."""
        del self._logs[minute]
        self._known = {job: each for job, each in self._known.items() if each.minute != minute}
        for key in [key for key, queue in self._queues.items() if not self._counts[key]]:
            del self._queues[key]

    def _add_log(self, minute: str, done: bytes = b"") -> None:
        if minute not in self._logs:
            blob = f"{entries_prefix(self.room.model)}{minute}"
            self._logs[minute] = _Log(LogTail(self.room.blobs, blob), bytearray(done))

    def _add_ends(self, minute: str, offset: int = 0) -> None:
        blob = f"{self.room.prefix}ends/{minute}"
        self._ends[minute] = LogTail(self.room.blobs, blob, offset)


async def _pieces(tail: LogTail) -> AsyncIterator[list[bytes]]:
    """Yield the new lines of a log, up to PIECE_BYTES at once, so that other tasks run between."""
    while True:
        offset = tail.offset
        yield await tail.read(PIECE_BYTES)
        if tail.offset - offset < PIECE_BYTES // 2:
            return


def _parse_end(line: bytes) -> RoomEnd | None:
    try:
        value = json.loads(line)
        seconds = None if value["s"] is None else float(value["s"])
        return RoomEnd(value["job"], value["owner"], seconds)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
