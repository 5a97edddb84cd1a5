"""Read the logs of streams for all their readers, in one task for the process.

A reader first reads a log alone, as fast as its caller takes the events, until it has caught up.
Then it joins the job's feed: the events that some reader of the job has not taken yet. One task
reads all logs that have feeds, some at a time, so many readers of a job cost one. A reader that is
too far behind its feed is dropped, so a feed stays small.
"""

import asyncio
import contextlib
import heapq
import json
import logging
import math
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from contract.streams import EventId, StreamEvent
from gateway.streams.store import LogPlace, StreamLogs

MAX_BEHIND_BYTES: Final = 1024 * 1024
"""By how much a reader may be behind its feed."""

IDLE_SHARE: Final = 1500
"""The pause between two reads is this part of the time since the log's last event."""

BUSY_SHARE: Final = 4
"""After a slow read, the next one waits at least for this part of the time that it took."""

READER_SECONDS: Final = 0.0002
"""How much of a process's time one reader may use, if it gets events, before the next read."""

AWAY_SECONDS: Final = 0.5
"""The pause after a failed read of a log."""

FINAL_SECONDS: Final = 2.0
"""How long after the end of a job its log is read if the store does not respond."""

_LONGEST_SLEEP_SECONDS: Final = 1.0
_PIECE_BYTES: Final = 64 * 1024
_EVENT_BYTES: Final = 200

_log = logging.getLogger(__name__)


class ReaderBehind(Exception):
    """A reader is more than MAX_BEHIND_BYTES behind. `after` is the last event that it has got."""

    def __init__(self, after: EventId) -> None:
        super().__init__(f"a reader is too far behind, after {after}")
        self.after = after


class LogUnreadable(Exception):
    """The log of a job that has ended cannot be read to its end."""


class _Reader:
    def __init__(self, position: EventId) -> None:
        self.position = position
        self.waiting: asyncio.Future[None] | None = None

    def wake(self, _: object = None) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(None)


class _Feed:
    """The events of one log that some reader has not taken yet."""

    def __init__(self, place: LogPlace, now: float) -> None:
        self.place = place
        self.begins_after = place.last
        """The id of the event before the first one that the feed still has."""
        self.readers: set[_Reader] = set()
        self.heard_at = now
        self.next_at = now
        self.ended_at: float | None = None
        self.is_final_read = False
        self.is_complete = False
        self.is_unreadable = False
        self._events: list[tuple[EventId, int, StreamEvent]] = []
        self._bytes = 0

    def after(self, position: EventId) -> list[StreamEvent]:
        """Return the next events for a reader, not too many. Raises ReaderBehind."""
        if position < self.begins_after:
            raise ReaderBehind(position)
        found: list[StreamEvent] = []
        left = _PIECE_BYTES
        for _, size_bytes, event in self._events[bisect_right(self._events, position, key=_key) :]:
            if left <= 0:
                break
            found.append(event)
            left -= size_bytes
        return found

    def take(self, events: Sequence[StreamEvent], now: float, pauses: tuple[float, float]) -> None:
        """Add the events of a successful read, and choose the time of the next one."""
        if events:
            self._add(events)
            self.heard_at = now
        if self.place.has_more:
            self.next_at = now
        elif self.is_final_read:
            self.complete()
        else:
            self.next_at = now + min(max((now - self.heard_at) / IDLE_SHARE, pauses[0]), pauses[1])

    def miss(self, now: float) -> None:
        """Repeat a failed read later; FINAL_SECONDS after the job's end, give up."""
        self.next_at = now + AWAY_SECONDS
        if self.ended_at is not None and now - self.ended_at > FINAL_SECONDS:
            self.complete(is_unreadable=True)

    def complete(self, *, is_unreadable: bool = False) -> None:
        """Read no more, because the job has ended, or because the log cannot be read."""
        self.is_complete, self.is_unreadable = True, is_unreadable
        self.next_at = math.inf

    def wake_readers(self) -> int:
        """Wake all readers; return their number."""
        for reader in self.readers:
            reader.wake()
        return len(self.readers)

    def _add(self, events: Sequence[StreamEvent]) -> None:
        for event in events:
            size_bytes = _size_of(event)
            self._events.append((event.key, size_bytes, event))
            self._bytes += size_bytes
        oldest = min((reader.position for reader in self.readers), default=self.place.last)
        count = bisect_right(self._events, oldest, key=_key)
        self._bytes -= sum(size_bytes for _, size_bytes, _ in self._events[:count])
        while self._bytes > MAX_BEHIND_BYTES:
            self._bytes -= self._events[count][1]
            count += 1
        if count:
            self.begins_after = self._events[count - 1][0]
            del self._events[:count]


def _key(kept: tuple[EventId, int, StreamEvent]) -> EventId:
    return kept[0]


def _size_of(event: StreamEvent) -> int:
    text = event.data if isinstance(event.data, str) else json.dumps(event.data)
    return _EVENT_BYTES + len(text)


class Feeds:
    """The feeds of all jobs in one store that have readers."""

    def __init__(
        self, logs: StreamLogs, shortest_pause_seconds: float, longest_pause_seconds: float
    ) -> None:
        """Read a log with these pauses, depending on how long it has had no event."""
        self._logs = logs
        self._pauses = shortest_pause_seconds, longest_pause_seconds
        self._feeds: dict[str, _Feed] = {}
        self._reading: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    async def follow(
        self, job_id: str, after: EventId, end: "asyncio.Future[Any]"
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Yield the events after `after` that were written before `end` is done.

        Raises:
            ReaderBehind: The caller takes the events too slowly.
            LogUnreadable: The job has ended, and the store does not respond.
        """
        place = LogPlace(job_id, after)
        while (feed := self._feeds.get(job_id)) is None or place.last < feed.begins_after:
            is_final = end.done()
            (events,) = await self._logs.read([place])
            if events is None:
                if is_final:
                    raise LogUnreadable
                await asyncio.wait([end], timeout=AWAY_SECONDS)
                continue
            if events:
                yield events
            if place.has_more:
                continue
            if is_final:
                return
            if job_id not in self._feeds:
                self._feeds[job_id] = _Feed(place, asyncio.get_running_loop().time())
        reader = _Reader(place.last)
        feed.readers.add(reader)
        end.add_done_callback(reader.wake)
        self._start()
        try:
            async for events in self._read_feed(feed, reader, end):
                yield events
        finally:
            end.remove_done_callback(reader.wake)
            feed.readers.discard(reader)
            if not feed.readers and self._feeds.get(job_id) is feed:
                del self._feeds[job_id]
        if feed.is_unreadable:
            raise LogUnreadable

    async def _read_feed(
        self, feed: _Feed, reader: _Reader, end: "asyncio.Future[Any]"
    ) -> AsyncGenerator[list[StreamEvent], None]:
        """Yield the events of a feed until all are read that were written before the end."""
        loop = asyncio.get_running_loop()
        while True:
            if events := feed.after(reader.position):
                yield events
                reader.position = events[-1].key
                continue
            if feed.is_complete:
                return
            if end.done() and feed.ended_at is None:
                feed.ended_at, feed.next_at = loop.time(), 0.0
                self._wake.set()
            reader.waiting = loop.create_future()
            await reader.waiting

    def _start(self) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_all())
            self._reading.add_done_callback(self._on_stop)
        self._wake.set()

    async def _read_all(self) -> None:
        """Read all logs that have readers, while there are any."""
        loop = asyncio.get_running_loop()
        while self._feeds:
            begun_at = loop.time()
            due = heapq.nsmallest(
                self._logs.reads_at_once,
                (feed for feed in self._feeds.values() if feed.next_at <= begun_at),
                key=lambda feed: feed.next_at,
            )
            woken = await self._read_some(due) if due else 0
            now = loop.time()
            # A busy machine reads less often. With many readers, each gets several events at once.
            busy_seconds = max((now - begun_at) / BUSY_SHARE, woken * READER_SECONDS)
            await asyncio.sleep(busy_seconds)
            self._wake.clear()
            next_at = min((feed.next_at for feed in self._feeds.values()), default=0.0)
            await self._pause(max(self._logs.pause_seconds - busy_seconds, next_at - loop.time()))

    async def _read_some(self, due: Sequence[_Feed]) -> int:
        """Read the logs of some feeds; return how many readers were woken."""
        for feed in due:
            feed.is_final_read = feed.ended_at is not None
        found = await self._logs.read([feed.place for feed in due])
        now, woken = asyncio.get_running_loop().time(), 0
        for feed, events in zip(due, found, strict=True):
            if events is None:
                feed.miss(now)
            else:
                feed.take(events, now, self._pauses)
            if events or feed.is_complete:
                woken += feed.wake_readers()
        return woken

    async def _pause(self, seconds: float) -> None:
        """Sleep for this time, at most until a job ends or a feed begins."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(seconds, _LONGEST_SLEEP_SECONDS)):
                    await self._wake.wait()

    def _on_stop(self, reading: asyncio.Task[None]) -> None:
        """If the task has failed, tell all readers that their logs cannot be read."""
        if not reading.cancelled() and (error := reading.exception()) is not None:
            _log.error("the logs of streams are no longer read", exc_info=error)
            for feed in self._feeds.values():
                feed.complete(is_unreadable=True)
                feed.wake_readers()
            self._feeds.clear()
