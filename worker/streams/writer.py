"""Gather the events that models emit, and append them to the logs of their jobs.

The first chunk of a job is appended at once. Later ones wait for others, until GATHER_SECONDS after
the last append or until there are GATHER_BYTES. A job has one append in flight at most, and pauses
after it as long as it took, so a slow store gets fewer, larger appends. The store never makes a job
fail: if events cannot be written in time, the rest of the stream is lost, and the reply says so.

The log of each attempt begins with the event `attempt`. A job that runs again in the same delivery,
or after a delivery that was not counted, has a further event `attempt` instead.
"""

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from contract.messages import Json
from contract.streams import (
    MAX_STREAM_BYTES,
    StreamEventType,
    encode_data,
    join_event,
)
from worker.errors import InferenceFailed, WorkerError
from worker.streams.chunks import encode_chunk
from worker.streams.store import (
    EMPTY,
    Append,
    Appended,
    LogEnd,
    LogsUnavailable,
    WritableLogs,
)
from worker.telemetry.recording import ServiceStatus

_log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.04
GATHER_BYTES: Final = 32 * 1024
_LONGEST_PAUSE_SECONDS: Final = 0.1

FLUSH_SECONDS: Final = 2.0
"""How long the end of a job waits for the store, and how long all calls of `emit` together do."""

MAX_UNSENT_BYTES: Final = 1024 * 1024
"""If more is not written yet, `emit` waits. An append has at most as much."""

# A call of `emit` on an event loop cannot wait. If so much is not written, the stream is lost.
_MAX_HELD_BYTES: Final = 4 * 1024 * 1024

# An append blob can have 50,000 blocks.
_MANY_APPENDS: Final = 25_000
_GATHER_SECONDS_AFTER_MANY: Final = 1.0

_RETRY_SECONDS: Final = 0.05
_MAX_RETRY_SECONDS: Final = 0.5
_MAX_OPENINGS: Final = 5
_POLL_SECONDS: Final = 0.05
_CLOSE_SECONDS: Final = 1.0

_Event = tuple[StreamEventType, bytes]


class OpenStream:
    """The stream of one running job. Any thread may call the methods.

    Attributes:
        chunk_count: How many chunks the model has emitted.
        first_chunk_at: When it emitted the first one, a value of `time.perf_counter`; or None.
        is_lost: Whether some events were not written, and no further ones will be.
    """

    def __init__(
        self, writer: "StreamWriter", job_id: str, attempt: int, check: Callable[[], None]
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.chunk_count = 0
        self.first_chunk_at: float | None = None
        self.is_lost = False
        self._writer = writer
        self._check = check
        self._is_open = True
        self._changed = threading.Condition(writer.lock)
        self._pending: list[_Event] = []
        self._sending: list[_Event] = []
        self._unsent_bytes = 0
        self._emitted_bytes = 0
        self._ran_chunks = 0
        self._is_urgent = True
        self._wait_seconds_left = FLUSH_SECONDS
        self._ended_at: float | None = None
        # What follows belongs to the writer's threads.
        self.end: LogEnd | None = EMPTY if attempt == 1 else None
        self.due_at: float | None = None
        self.sent_at = 0.0
        self._pauses_until = 0.0
        self.append_count = 0
        self.failure_count = 0

    @property
    def is_open(self) -> bool:
        """Whether events are still written."""
        return self._is_open

    @property
    def is_full(self) -> bool:
        """Whether so much is not written yet that the model should wait."""
        return self._unsent_bytes > MAX_UNSENT_BYTES

    def emit(self, chunk: Json) -> None:
        """Add a chunk. Raises ValueError if it is wrong, InferenceFailed if there is too much."""
        data = encode_chunk(chunk)
        with self._writer.lock:
            self._emitted_bytes += len(data)
            if self._emitted_bytes > MAX_STREAM_BYTES:
                raise InferenceFailed(
                    f"the model emitted more than {MAX_STREAM_BYTES} bytes; emit less, and return "
                    "large content as the result"
                )
            self.chunk_count += 1
            if self.first_chunk_at is None:
                self.first_chunk_at, self._is_urgent = time.perf_counter(), True
            self._add(StreamEventType.CHUNK, data)

    def report(self, fraction: float | None, message: str | None) -> None:
        """Add an event with the job's progress."""
        data = encode_data({"fraction": fraction, "message": message})
        with self._writer.lock:
            self._add(StreamEventType.PROGRESS, data)

    def begin_run(self) -> None:
        """Tell the readers to drop the chunks so far if the model runs again on the same job."""
        with self._writer.lock:
            if self.chunk_count > self._ran_chunks:
                self._ran_chunks, self._is_urgent = self.chunk_count, True
                self._add(StreamEventType.ATTEMPT, encode_data(None))

    def end_run(self) -> None:
        """Record that the model has ended, so that `flush` does not wait long after this."""
        if self._ended_at is None:
            self._ended_at = self._writer.clock()

    def wait_for_room(self, check: Callable[[], None]) -> None:
        """Wait while too much is not written. Raises what `check` raises, called meanwhile."""
        while self.is_full:
            check()
            begun_at = time.monotonic()
            with self._writer.lock:
                self._changed.wait(_POLL_SECONDS)
            self._count_wait(time.monotonic() - begun_at)

    async def wait_for_room_async(self) -> None:
        """Wait while too much is not written."""
        while self.is_full:
            await asyncio.sleep(_POLL_SECONDS)
            self._count_wait(_POLL_SECONDS)

    def flush(self) -> None:
        """Write all events, within FLUSH_SECONDS of the end of the model's run."""
        self.end_run()
        clock = self._writer.clock
        ends_at = (self._ended_at or 0.0) + FLUSH_SECONDS
        with self._writer.lock:
            self._is_urgent = True
            self._writer.schedule(self)
            while self._pending or self._sending:
                if (seconds := ends_at - clock()) <= 0:
                    self._lose()
                    break
                self._changed.wait(seconds)
            self._stop()

    def close(self) -> None:
        """Write nothing more, because this worker gives the job up."""
        with self._writer.lock:
            self._stop()

    def _add(self, event_type: StreamEventType, data: bytes) -> None:
        if not self._is_open:
            return
        self._pending.append((event_type, data))
        self._unsent_bytes += len(data)
        if self._unsent_bytes > _MAX_HELD_BYTES:
            self._lose()
        else:
            self._writer.schedule(self)

    def _count_wait(self, seconds: float) -> None:
        self._wait_seconds_left -= seconds
        if self._wait_seconds_left <= 0:
            with self._writer.lock:
                self._lose()

    def _lose(self) -> None:
        self.is_lost = self.is_lost or self._is_open
        self._stop()

    def _stop(self) -> None:
        self._is_open, self.due_at = False, None
        self._pending, self._sending, self._unsent_bytes = [], [], 0
        self._changed.notify_all()

    # The writer calls the following methods, and holds its lock.

    def next_due(self, now: float) -> float | None:
        """Return when the next append is due; None if there is nothing to append, or if one runs.

        After a failed append, the same events are due again.
        """
        if self._sending or not self._pending:
            return None
        if self._is_urgent or self._unsent_bytes >= GATHER_BYTES:
            return now
        is_many = self.append_count >= _MANY_APPENDS
        seconds = _GATHER_SECONDS_AFTER_MANY if is_many else GATHER_SECONDS
        return max(now, self.sent_at + seconds, self._pauses_until)

    def start_append(self, now: float) -> None:
        """Take the pending events for an append, unless those of a failed append are to go."""
        self.due_at, self.sent_at = None, now
        if not self._sending:
            sizes = itertools.accumulate(len(data) for _, data in self._pending)
            count = sum(size <= MAX_UNSENT_BYTES for size in sizes)
            self._sending, self._pending = self._pending[:count], self._pending[count:]
            self._is_urgent = False

    def make_append(self) -> Append:
        """Return the append of the taken events. Always the same one until `end` changes."""
        end = self.end or EMPTY
        number = end.last[1] + 1 if end.last[0] == self.attempt else 0
        keys = [(self.attempt, number + each) for each in range(len(self._sending))]
        events = zip(keys, self._sending, strict=True)
        lines = [(key, join_event(key, *event)) for key, event in events]
        return Append(self.job_id, end, lines)

    def check_usable(self) -> bool:
        """Return whether this worker may still write; give the stream up otherwise."""
        try:
            self._check()
        except WorkerError:
            self._stop()
        return self._is_open

    def finish_append(self, append: Append, appended: Appended, now: float) -> None:
        """Record what became of an append, and schedule the next one."""
        if not self._is_open:
            return
        if appended is Appended.WRITTEN:
            self.end, self.append_count = append.new_end, self.append_count + 1
            self.failure_count = 0
            # So a store or a machine that is slow has fewer appends, of more events each.
            self._pauses_until = now + min(now - self.sent_at, _LONGEST_PAUSE_SECONDS)
            self._unsent_bytes -= sum(len(data) for _, data in self._sending)
            self._sending = []
            self._changed.notify_all()
            self._writer.schedule(self)
            return
        self.failure_count += 1
        if appended is Appended.REFUSED:
            if self.append_count or self.failure_count > _MAX_OPENINGS:
                self._lose()  # a later attempt has begun, or the log was deleted
                return
            self.end = None
        seconds = min(_RETRY_SECONDS * 2 ** min(self.failure_count, 10), _MAX_RETRY_SECONDS)
        self._writer.schedule(self, at=now + seconds)

    def open(self, end: LogEnd) -> bool:
        """Begin to write at the end of the log. Return False if a later attempt has begun."""
        if end.last[0] > self.attempt:
            self._stop()
        self.end = end
        return self._is_open


class StreamWriter:
    """Writes the streams of all jobs in this process. Its threads start with the first stream."""

    def __init__(self, store: WritableLogs, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self._store = store
        self._status = ServiceStatus("the store of streams")
        # The next thread to append waits, and the others wait for their turn to do so.
        self._turn = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._due: list[tuple[float, int, OpenStream]] = []
        self._numbers = itertools.count()
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def open_stream(self, job_id: str, attempt: int, check: Callable[[], None]) -> OpenStream:
        """Begin the stream of a job that is about to run.

        `check` raises a WorkerError if this worker must not write any more.
        """
        stream = OpenStream(self, job_id, attempt, check)
        with self.lock:
            self._start()
            stream._add(StreamEventType.ATTEMPT, encode_data(None))
        return stream

    def close(self) -> None:
        """End the threads, and close the connections to the store."""
        with self.lock:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)
        self._store.close()

    def schedule(self, stream: OpenStream, at: float | None = None) -> None:
        """Append the stream's events when they are due, or at this time. Needs the lock."""
        due_at = stream.next_due(self.clock()) if at is None else at
        if due_at is None or (stream.due_at is not None and stream.due_at <= due_at):
            return
        stream.due_at = due_at
        heapq.heappush(self._due, (due_at, next(self._numbers), stream))
        if self._due[0][2] is stream:
            self._changed.notify()

    def _start(self) -> None:
        if not self._threads:
            for number in range(self._store.max_appends):
                thread = threading.Thread(target=self._run, name=f"stream-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        while True:
            with self._turn:
                streams = self._wait_for_due()
            if not streams:
                return
            try:
                self._append(streams)
            except Exception:  # noqa: BLE001  this thread must not end
                _log.exception("the events of %d jobs could not be written", len(streams))
                with self.lock:
                    for stream in streams:
                        stream._lose()

    def _wait_for_due(self) -> list[OpenStream]:
        """Return the next streams to append to; none after `close`."""
        with self.lock:
            while not (streams := self._take_due(self.clock())) and not self._is_closed:
                wait = self._due[0][0] - self.clock() if self._due else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
            return streams

    def _take_due(self, now: float) -> list[OpenStream]:
        streams: list[OpenStream] = []
        while self._due and self._due[0][0] <= now and len(streams) < self._store.jobs_per_append:
            due_at, _, stream = heapq.heappop(self._due)
            # Otherwise it was sent earlier than planned.
            if stream.due_at == due_at and stream.check_usable():
                stream.start_append(now)
                streams.append(stream)
        return streams

    def _append(self, streams: Sequence[OpenStream]) -> None:
        streams = [stream for stream in streams if stream.end is not None or self._open(stream)]
        with self.lock:
            pairs = [(stream, stream.make_append()) for stream in streams if stream.is_open]
        if not pairs:
            return
        found = self._store.append([append for _, append in pairs])
        if Appended.UNKNOWN in found:
            self._status.mark_down("an append failed")
        else:
            self._status.mark_up()
        with self.lock:
            for (stream, append), appended in zip(pairs, found, strict=True):
                stream.finish_append(append, appended, self.clock())

    def _open(self, stream: OpenStream) -> bool:
        """Find the end of a log that may exist. Return False if that does not work now."""
        try:
            end = self._store.read_end(stream.job_id)
        except LogsUnavailable as error:
            self._status.mark_down(error)
            with self.lock:
                if stream.is_open:
                    stream.failure_count += 1
                    self.schedule(stream, at=self.clock() + _MAX_RETRY_SECONDS)
            return False
        with self.lock:
            return stream.open(end)
