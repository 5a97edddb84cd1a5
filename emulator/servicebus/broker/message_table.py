"""Keep all message records in memory, index them by queue, and roll back uncommitted changes."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heappush
from uuid import UUID

from emulator.servicebus.broker.message import MessageRecord, MessageState

_STALE_TOLERATED = 64


class TimerHeap:
    """A heap of due times, at which the broker must change a message or end a lock.

    Each key, the id of the message or lock, has at most one. Replaced and removed ones stay until
    the heap is rebuilt, but are ignored.
    """

    __slots__ = ("_due", "heap")

    def __init__(self) -> None:
        self._due: dict[int, datetime] = {}
        self.heap: list[tuple[datetime, int]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, key: int, due_at: datetime | None) -> None:
        """Set the due time of the message or lock `key`; None removes it."""
        if self._due.get(key) == due_at:
            return
        if due_at is None:
            del self._due[key]
        else:
            self._due[key] = due_at
            heappush(self.heap, (due_at, key))
        if len(self.heap) > 2 * len(self._due) + _STALE_TOLERATED:
            self.heap = [(due_at, key) for key, due_at in self._due.items()]
            heapify(self.heap)

    def next_due_at(self) -> datetime | None:
        """Return the earliest due time, or None if the heap contains no due time."""
        while self.heap:
            due_at, key = self.heap[0]
            if self._due.get(key) == due_at:
                return due_at
            heappop(self.heap)
        return None

    def take_due(self, now: datetime) -> int | None:
        """Remove the earliest due time up to `now`, and return its key, or None."""
        due_at = self.next_due_at()
        if due_at is None or due_at > now:
            return None
        _, key = heappop(self.heap)
        del self._due[key]
        return key


_CHUNK_LENGTH = 256


class SortedNumbers:
    """A sorted set of integers in chunks, found by binary search."""

    __slots__ = ("_lasts", "_length", "chunks")

    def __init__(self) -> None:
        self.chunks: list[list[int]] = []
        self._lasts: list[int] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, number: int) -> None:
        """Add a number. The caller must ensure that the number is not in the set."""
        self._length += 1
        if not self.chunks:
            self.chunks.append([number])
            self._lasts.append(number)
            return
        at = min(bisect_left(self._lasts, number), len(self._lasts) - 1)
        chunk = self.chunks[at]
        insort(chunk, number)
        if len(chunk) > 2 * _CHUNK_LENGTH:
            self.chunks.insert(at + 1, chunk[_CHUNK_LENGTH:])
            self._lasts.insert(at + 1, chunk[-1])
            del chunk[_CHUNK_LENGTH:]
        self._lasts[at] = chunk[-1]

    def remove(self, number: int) -> None:
        """Remove a number. The caller must ensure that the number is in the set."""
        at = bisect_left(self._lasts, number)
        chunk = self.chunks[at]
        del chunk[bisect_left(chunk, number)]
        self._length -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self.chunks[at], self._lasts[at]

    def first(self) -> int | None:
        """Return the lowest number, or None if the set is empty."""
        return self.chunks[0][0] if self.chunks else None

    def since(self, number: int) -> Iterator[int]:
        """Yield the numbers from `number` on; the set must not change meanwhile."""
        at = bisect_left(self._lasts, number)
        if at == len(self.chunks):
            return
        chunk = self.chunks[at]
        yield from chunk[bisect_left(chunk, number) :]
        for chunk in self.chunks[at + 1 :]:
            yield from chunk


@dataclass(slots=True)
class _SessionMessages:
    """The messages of one message session that are ready or locked."""

    ready: SortedNumbers = field(default_factory=SortedNumbers)
    tokens: set[UUID] = field(default_factory=set)
    is_locked: bool = False
    head: int | None = None
    """The lowest ready sequence number. None if no message is ready or the session is locked."""

    def __bool__(self) -> bool:
        return bool(self.ready) or bool(self.tokens) or self.is_locked


class MessageSessionIndex:
    """An index of the ready and the locked messages of one queue by their message session."""

    def __init__(self) -> None:
        self._sessions: dict[str, _SessionMessages] = {}
        self._heads = SortedNumbers()

    def ids(self) -> list[str]:
        """Return the ids of all sessions that have ready or locked messages."""
        return [id_ for id_, session in self._sessions.items() if session.ready or session.tokens]

    def first_ready(self, session_id: str) -> int | None:
        """Return the lowest number of a session's ready messages, or None."""
        session = self._sessions.get(session_id)
        return None if session is None else session.ready.first()

    def first_available(self) -> int | None:
        """Return the lowest number of ready messages in unlocked sessions, or None."""
        return self._heads.first()

    def tokens(self, session_id: str) -> list[UUID]:
        """Return the lock tokens of the messages that are locked together with a session."""
        session = self._sessions.get(session_id)
        return [] if session is None else list(session.tokens)

    def set_locked(self, session_id: str, is_locked: bool) -> None:
        """Record whether a receiver has locked a session."""
        self._get(session_id).is_locked = is_locked
        self._update(session_id)

    def add(self, record: MessageRecord) -> None:
        """Add a message that is ready or locked."""
        assert record.session_id is not None
        session = self._get(record.session_id)
        if record.lock is None:
            session.ready.add(record.sequence_number)
        elif record.lock.until is None:
            session.tokens.add(record.lock.token)
        self._update(record.session_id)

    def remove(self, record: MessageRecord) -> None:
        """Remove a message that was ready or locked."""
        assert record.session_id is not None
        session = self._get(record.session_id)
        if record.lock is None:
            session.ready.remove(record.sequence_number)
        elif record.lock.until is None:
            session.tokens.remove(record.lock.token)
        self._update(record.session_id)

    def _get(self, session_id: str) -> _SessionMessages:
        return self._sessions.setdefault(session_id, _SessionMessages())

    def _update(self, session_id: str) -> None:
        """Update `_heads` and the index after a change of a session.

        An unlocked session without messages leaves the index.
        """
        session = self._sessions[session_id]
        head = None if session.is_locked else session.ready.first()
        if head != session.head:
            if session.head is not None:
                self._heads.remove(session.head)
            if head is not None:
                self._heads.add(head)
            session.head = head
        if not session:
            del self._sessions[session_id]


class QueueIndex:
    """An index of the messages of one queue, by sequence number and by lock token.

    The index also counts the messages in each state.
    """

    __slots__ = (
        "by_sequence_number",
        "by_token",
        "counts",
        "order",
        "ready",
        "sessions",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.sessions: MessageSessionIndex | None = None
        """The messages by their session. None if the queue has no message sessions."""
        self.by_sequence_number: dict[int, MessageRecord] = {}
        self.by_token: dict[UUID, MessageRecord] = {}
        self.order = SortedNumbers()
        self.ready = SortedNumbers()
        self.counts = dict.fromkeys(MessageState, 0)
        self.size_bytes = 0

    def add(self, record: MessageRecord) -> None:
        """Add a message to the index."""
        self.by_sequence_number[record.sequence_number] = record
        self.order.add(record.sequence_number)
        self.size_bytes += record.size_bytes
        self._file(record)

    def remove(self, record: MessageRecord) -> None:
        """Remove a message from the index."""
        del self.by_sequence_number[record.sequence_number]
        self.order.remove(record.sequence_number)
        self.size_bytes -= record.size_bytes
        self._unfile(record)

    def replace(self, before: MessageRecord, after: MessageRecord) -> None:
        """Replace the record `before` by the record `after`, which has the same sequence number."""
        self.by_sequence_number[after.sequence_number] = after
        self._unfile(before)
        self._file(after)

    def _file(self, record: MessageRecord) -> None:
        self.counts[record.state] += 1
        if record.lock is not None:
            self.by_token[record.lock.token] = record
        elif record.state is MessageState.ACTIVE:
            self.ready.add(record.sequence_number)
        else:
            return
        if self.sessions is not None:
            self.sessions.add(record)

    def _unfile(self, record: MessageRecord) -> None:
        self.counts[record.state] -= 1
        if record.lock is not None:
            del self.by_token[record.lock.token]
        elif record.state is MessageState.ACTIVE:
            self.ready.remove(record.sequence_number)
        else:
            return
        if self.sessions is not None:
            self.sessions.remove(record)


@dataclass(frozen=True, slots=True)
class MessageChange:
    """The records of one message before and after a transaction.

    `before` is None if the message was added. `after` is None if the message was removed.
    """

    before: MessageRecord | None
    after: MessageRecord | None


class MessageTable:
    """The records of all messages of the broker. Uncommitted changes can be rolled back."""

    def __init__(self) -> None:
        self._entries: dict[int, MessageRecord] = {}
        self._indexes: dict[int, QueueIndex] = {}
        self._timers = TimerHeap()
        self._before_transaction: dict[int, MessageRecord | None] = {}
        self._next_id = 1

    def queue_index(self, queue: int) -> QueueIndex:
        """Return the index of a queue. If the queue has no index, create it."""
        return self._indexes.setdefault(queue, QueueIndex())

    def drop_queue(self, queue: int) -> None:
        """Remove a queue and all its messages. The removal cannot be rolled back."""
        index = self._indexes.pop(queue, QueueIndex())
        for record in index.by_sequence_number.values():
            del self._entries[record.id]
            self._timers.set(record.id, None)

    def load(self, record: MessageRecord) -> None:
        """Add a message record that was read from the database."""
        self._move(None, record)
        self._next_id = max(self._next_id, record.id + 1)

    def new_id(self) -> int:
        """Return an unused id for a new message."""
        self._next_id += 1
        return self._next_id - 1

    def put(self, record: MessageRecord) -> None:
        """Add a message record. If there is a record with the same id, replace that record."""
        before = self._entries.get(record.id)
        self._before_transaction.setdefault(record.id, before)
        self._move(before, record)

    def remove(self, id_: int) -> None:
        """Remove the message with this id."""
        before = self._entries[id_]
        self._before_transaction.setdefault(id_, before)
        self._move(before, None)

    def due(self, now: datetime) -> Iterator[MessageRecord]:
        """Yield each due message without its due time; the caller must change it at once."""
        while (id_ := self._timers.take_due(now)) is not None:
            yield self._entries[id_]

    def next_due_at(self) -> datetime | None:
        """Return the earliest due time of all messages, or None if no message has a due time."""
        return self._timers.next_due_at()

    def changes(self) -> list[MessageChange]:
        """Return one change for each message that differs from the last commit."""
        return [
            MessageChange(before, after)
            for id_, before in self._before_transaction.items()
            if (after := self._entries.get(id_)) is not before
        ]

    def commit(self) -> None:
        """Keep the changes since the last commit. `rollback` can no longer undo them."""
        self._before_transaction.clear()

    def rollback(self) -> None:
        """Undo the changes since the last commit."""
        for id_, before in self._before_transaction.items():
            self._move(self._entries.get(id_), before)
        self._before_transaction.clear()

    def _move(self, before: MessageRecord | None, after: MessageRecord | None) -> None:
        if after is None:
            if before is not None:
                del self._entries[before.id]
                self._timers.set(before.id, None)
                self._indexes[before.queue].remove(before)
            return
        self._entries[after.id] = after
        self._timers.set(after.id, after.due_at)
        index = self._indexes[after.queue]
        if before is None:
            index.add(after)
        elif (before.queue, before.sequence_number) == (after.queue, after.sequence_number):
            index.replace(before, after)
        else:
            self._indexes[before.queue].remove(before)
            index.add(after)
