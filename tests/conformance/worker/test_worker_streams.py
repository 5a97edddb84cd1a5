"""Both stores of streams, and the writer of streams with each of them."""

import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.streams import (
    EventId,
    StreamEvent,
    StreamEventType,
    encode_event,
)
from tests import connections
from tests.conformance.gateway.emulated_services import running
from tests.conformance.worker.worker_services import wait_until
from tests.ports import free_port
from tests.stream_stores import BlobLogs, RedisLogs, running_redis
from worker.errors import InferenceFailed, LockLost
from worker.streams.store import (
    EMPTY,
    Append,
    Appended,
    LogEnd,
    LogsUnavailable,
    WritableLogs,
)
from worker.streams.writer import FLUSH_SECONDS, OpenStream, StreamWriter

_NUMBERS = count()
_RELAXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module", params=["blobs", "redis"])
def logs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BlobLogs | RedisLogs]:
    folder = tmp_path_factory.mktemp("streams")
    found: BlobLogs | RedisLogs
    if request.param == "redis":
        with running_redis(folder) as url:
            found = RedisLogs(url)
            yield found
            found.close()
        return
    port = free_port()
    with running("emulator.blobs", port, "--data", str(folder)):
        found = BlobLogs(connections.blob_storage(port))
        yield found
        found.close()


@pytest.fixture
def job_id() -> str:
    return f"job-{next(_NUMBERS)}"


def event(attempt: int, number: int, data: str | None = "x") -> tuple[EventId, bytes]:
    kind = StreamEventType.CHUNK if number else StreamEventType.ATTEMPT
    return (attempt, number), encode_event(StreamEvent(attempt, number, kind, data))


def append(store: WritableLogs, *appends: Append) -> Sequence[Appended]:
    return store.append(appends)


class TestStore:
    def test_events_are_appended_in_order(self, logs: BlobLogs, job_id: str) -> None:
        first = Append(job_id, EMPTY, [event(1, 0), event(1, 1)])
        second = Append(job_id, first.new_end, [event(1, 2)])
        for each in (first, second):
            assert append(logs.store, each) == [Appended.WRITTEN]
        assert keys(logs, job_id) == [(1, 0), (1, 1), (1, 2)]
        assert logs.store.read_end(job_id).last == (1, 2)

    def test_repeated_append_has_no_effect(self, logs: BlobLogs, job_id: str) -> None:
        first = Append(job_id, EMPTY, [event(1, 0)])
        second = Append(job_id, first.new_end, [event(1, 1), event(1, 2)])
        for each in (first, first, second, second):
            assert append(logs.store, each) == [Appended.WRITTEN]
        assert keys(logs, job_id) == [(1, 0), (1, 1), (1, 2)]

    def test_stale_writer_is_refused(self, logs: BlobLogs, job_id: str) -> None:
        first = Append(job_id, EMPTY, [event(1, 0)])
        append(logs.store, first)
        append(logs.store, Append(job_id, logs.store.read_end(job_id), [event(2, 0)]))
        stale = Append(job_id, first.new_end, [event(1, 1), event(1, 2)])
        assert append(logs.store, stale) == [Appended.REFUSED]
        assert keys(logs, job_id) == [(1, 0), (2, 0)]

    def test_store_that_starts_late_is_used(self, tmp_path: Path, job_id: str) -> None:
        port = free_port()
        with contextlib.closing(BlobLogs(connections.blob_storage(port))) as late:
            first = Append(job_id, EMPTY, [event(1, 0)])
            assert append(late.store, first) == [Appended.UNKNOWN]
            with running("emulator.blobs", port, "--data", str(tmp_path)):
                assert append(late.store, first) == [Appended.WRITTEN]

    def test_late_first_append_is_refused(self, logs: BlobLogs, job_id: str) -> None:
        append(logs.store, Append(job_id, EMPTY, [event(2, 0)]))
        assert append(logs.store, Append(job_id, EMPTY, [event(1, 0)])) == [Appended.REFUSED]

    def test_deleted_log_is_not_begun_again(self, logs: BlobLogs, job_id: str) -> None:
        first = Append(job_id, EMPTY, [event(1, 0)])
        append(logs.store, first)
        logs.delete(job_id)
        later = Append(job_id, first.new_end, [event(1, 1)])
        assert append(logs.store, later) == [Appended.REFUSED]
        assert keys(logs, job_id) == []

    def test_missing_log_is_empty(self, logs: BlobLogs, job_id: str) -> None:
        assert logs.store.read_end(job_id) == EMPTY

    def test_one_call_appends_to_several_logs(self, logs: BlobLogs, job_id: str) -> None:
        names = [f"{job_id}-{number}" for number in range(3)]
        append(logs.store, Append(names[1], EMPTY, [event(2, 0)]))
        found = append(logs.store, *(Append(name, EMPTY, [event(1, 0)]) for name in names))
        assert found == [Appended.WRITTEN, Appended.REFUSED, Appended.WRITTEN]

    def test_long_lines_have_an_end(self, logs: BlobLogs, job_id: str) -> None:
        long = "é" * 32_000
        events = [event(1, 0), *(event(1, number, long) for number in range(1, 9))]
        assert append(logs.store, Append(job_id, EMPTY, events)) == [Appended.WRITTEN]
        assert logs.store.read_end(job_id).last == (1, 8)


def keys(logs: BlobLogs | RedisLogs, job_id: str) -> list[EventId]:
    return [each.key for each in logs.events(job_id) if each is not None]


def chunks(logs: BlobLogs | RedisLogs, job_id: str, attempt: int = 1) -> list[object]:
    """Return the chunks that a reader has at the end, who drops those of an earlier run."""
    found: list[object] = []
    for each in logs.events(job_id):
        assert each is not None
        if each.type is StreamEventType.ATTEMPT:
            found = []
        elif each.attempt == attempt:
            found.append(each.data)
    return found


def usable() -> None:
    """Do nothing, as for a job whose lock this worker has."""


@pytest.fixture
def writer(logs: BlobLogs) -> Iterator[StreamWriter]:
    found = StreamWriter(_Kept(logs.store))
    yield found
    found.close()


class _Kept:
    """A store whose connections outlive its writers."""

    def __init__(self, store: WritableLogs) -> None:
        self._store = store
        self.max_appends = store.max_appends
        self.jobs_per_append = store.jobs_per_append

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        return self._store.append(appends)

    def read_end(self, job_id: str) -> LogEnd:
        return self._store.read_end(job_id)

    def close(self) -> None:
        """Keep the connections."""


class _Faulty(_Kept):
    """A store that loses requests and responses, and that performs lost requests later."""

    def __init__(self, store: WritableLogs, seed: int) -> None:
        super().__init__(store)
        self._random = random.Random(seed)
        self._late: list[Append] = []

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        return [self._append(each) for each in appends]

    def _append(self, append: Append) -> Appended:
        fate = self._random.random()
        if self._late and fate < 0.3:
            self._store.append([self._late.pop()])
        if fate < 0.15:
            self._late.append(append)
            return Appended.UNKNOWN
        (found,) = self._store.append([append])
        return Appended.UNKNOWN if fate > 0.8 else found

    def read_end(self, job_id: str) -> LogEnd:
        if self._random.random() < 0.2:
            raise LogsUnavailable("a lost response")
        return super().read_end(job_id)


class TestWriter:
    def test_events_are_there_after_the_flush(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        stream = writer.open_stream(job_id, 1, usable)
        texts = [f"chunk {number}" for number in range(100)]
        for text in texts:
            stream.emit(text)
        stream.end_run()
        stream.flush()
        assert not stream.is_lost
        assert chunks(logs, job_id) == texts
        assert keys(logs, job_id) == [(1, number) for number in range(101)]

    def test_first_chunk_is_written_at_once(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        stream = writer.open_stream(job_id, 1, usable)
        stream.emit("first")
        wait_until(lambda: chunks(logs, job_id) == ["first"], "the first chunk is written")

    def test_next_attempt_ends_the_first(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        first = writer.open_stream(job_id, 1, usable)
        first.emit("old")
        wait_until(lambda: chunks(logs, job_id) == ["old"], "the old chunk is written")
        second = writer.open_stream(job_id, 2, usable)
        second.emit("new")
        second.flush()
        first.emit("late")
        first.flush()
        assert chunks(logs, job_id, attempt=2) == ["new"]
        assert keys(logs, job_id) == [(1, 0), (1, 1), (2, 0), (2, 1)]
        assert first.is_lost
        assert not second.is_lost

    def test_uncounted_delivery_continues_its_attempt(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        for text in ("old", "new"):
            stream = writer.open_stream(job_id, 1, usable)
            stream.emit(text)
            stream.flush()
            assert not stream.is_lost
        assert chunks(logs, job_id) == ["new"]
        assert keys(logs, job_id) == [(1, 0), (1, 1), (1, 2), (1, 3)]

    def test_repeated_run_drops_its_chunks(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        stream = writer.open_stream(job_id, 1, usable)
        for text in ("old", "new"):
            stream.begin_run()
            stream.emit(text)
        stream.flush()
        assert chunks(logs, job_id) == ["new"]

    def test_many_bytes_are_split(self, logs: BlobLogs, writer: StreamWriter, job_id: str) -> None:
        stream = writer.open_stream(job_id, 1, usable)
        texts = [str(number) * 60_000 for number in range(10)] * 4
        for text in texts:
            stream.emit(text)
        stream.wait_for_room(usable)
        assert not stream.is_full
        stream.flush()
        assert chunks(logs, job_id) == texts

    def test_too_many_bytes_fail_the_job(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        stream = writer.open_stream(job_id, 1, usable)
        for _ in range(516):
            stream.emit("x" * 65_000)
            stream.wait_for_room(usable)
        with pytest.raises(InferenceFailed, match="more than 33554432 bytes; emit less"):
            stream.emit("x" * 65_000)
        stream.close()

    def test_no_lock_means_no_event(
        self, logs: BlobLogs, writer: StreamWriter, job_id: str
    ) -> None:
        def fail() -> None:
            raise LockLost("the lock is lost")

        stream = writer.open_stream(job_id, 1, fail)
        stream.emit("late")
        stream.flush()
        assert keys(logs, job_id) == []

    @settings(max_examples=12, suppress_health_check=_RELAXED)
    @given(seed=st.integers(0, 2**32), attempts=st.integers(2, 4), size=st.integers(1, 40_000))
    def test_each_attempt_is_in_order_and_once(
        self, logs: BlobLogs, seed: int, attempts: int, size: int
    ) -> None:
        job_id = f"storm-{next(_NUMBERS)}"
        emitted: dict[int, list[str]] = {}
        writers = [StreamWriter(_Faulty(logs.store, seed + each)) for each in range(attempts)]

        def run(attempt: int, stream: OpenStream) -> None:
            source = random.Random(seed + attempt)
            for number in range(30):
                text = f"{attempt}-{number}-" + "x" * source.randrange(size)
                emitted[attempt].append(text)
                stream.emit(text)
                threading.Event().wait(source.random() * 0.004)
            stream.end_run()
            stream.flush()

        threads, streams = list[threading.Thread](), list[OpenStream]()
        for attempt, writer in enumerate(writers, 1):
            emitted[attempt] = []
            streams.append(writer.open_stream(job_id, attempt, usable))
            threads.append(threading.Thread(target=run, args=(attempt, streams[-1])))
            threads[-1].start()
            threading.Event().wait(0.03)
        for thread in threads:
            thread.join()
        for writer in writers:
            writer.close()
        found = [each for each in logs.events(job_id) if each is not None]
        assert [each.key for each in found] == sorted({each.key for each in found})
        for attempt in range(1, attempts + 1):
            own = [each for each in found if each.attempt == attempt]
            assert [each.number for each in own] == list(range(len(own)))
            written = [each.data for each in own if each.type is StreamEventType.CHUNK]
            assert written == emitted[attempt][: len(written)]
        if not streams[-1].is_lost:
            assert chunks(logs, job_id, attempt=attempts) == emitted[attempts]


class _Down(_Kept):
    """A store that does not answer."""

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        return [Appended.UNKNOWN] * len(appends)


def test_dead_store_does_not_stop_the_model(logs: BlobLogs, job_id: str) -> None:
    writer = StreamWriter(_Down(logs.store))
    stream = writer.open_stream(job_id, 1, usable)
    for _ in range(30):
        stream.emit("x" * 60_000)
        stream.wait_for_room(usable)
    assert stream.is_lost
    stream.flush()
    writer.close()


def test_dead_store_costs_one_flush(logs: BlobLogs, job_id: str) -> None:
    now = [0.0]
    writer = StreamWriter(_Down(logs.store), lambda: now[0])
    stream = writer.open_stream(job_id, 1, usable)
    stream.emit("x")
    stream.end_run()
    now[0] += FLUSH_SECONDS
    stream.flush()
    assert stream.is_lost
    assert stream.chunk_count == 1
    writer.close()
