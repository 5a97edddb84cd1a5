"""Test how a worker reads from the log which running jobs must stop."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from contract.streams import encode_stop, stop_log
from tests.unit.worker.managed_models import until
from tests.unit.worker.recorded_jobs import RecordedBlobs
from worker.clock import utc_now
from worker.objects.port import ObjectsUnavailable
from worker.stops import StopOrders

NOW = datetime(2026, 3, 1, 12, 30, 30, tzinfo=UTC)


class StopLog:
    """The log of stop orders, a reader of it, and the jobs that were stopped."""

    def __init__(self) -> None:
        self.blobs = RecordedBlobs()
        self.orders = StopOrders(self.blobs)
        self.stopped: list[str] = []

    def watch(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.orders.watch(job_id, job_id, partial(self.stopped.append, job_id))

    def append(self, data: bytes, at: datetime = NOW) -> None:
        log = stop_log(at)
        self.blobs.blobs[log] = self.blobs.blobs.get(log, b"") + data


@pytest.fixture
def log() -> StopLog:
    return StopLog()


def line(job_id: str) -> bytes:
    return encode_stop(job_id) + b"\n"


def test_only_named_jobs_are_stopped_once(log: StopLog) -> None:
    log.watch("a", "b", "c")
    log.orders.read(NOW)
    log.append(line("a") + line("elsewhere"))
    log.orders.read(NOW)
    log.append(line("c"))
    log.orders.read(NOW)
    log.orders.read(NOW)
    assert log.stopped == ["a", "c"]


def test_ended_job_is_not_stopped(log: StopLog) -> None:
    log.watch("a")
    log.orders.unwatch("a")
    log.append(line("a"))
    log.orders.read(NOW)
    assert log.stopped == []


def test_torn_and_unknown_lines_are_skipped(log: StopLog) -> None:
    log.watch("a", "b")
    log.append(b"{}\n[1]\n\xff\n" + line("a") + line("b")[:5])
    log.orders.read(NOW)
    assert log.stopped == ["a"]
    log.append(line("b")[5:])
    log.orders.read(NOW)
    assert log.stopped == ["a", "b"]


@pytest.mark.parametrize("seconds", [-10, 0, 10])
def test_clock_of_the_gateway_may_differ(log: StopLog, seconds: int) -> None:
    turn = NOW.replace(second=0)
    log.watch("a")
    log.append(line("a"), turn + timedelta(seconds=seconds))
    log.orders.read(turn)
    log.orders.read(turn + timedelta(seconds=0.2))
    assert log.stopped == ["a"]


def test_reader_goes_on_after_an_outage(log: StopLog, caplog: pytest.LogCaptureFixture) -> None:
    stopping = threading.Event()
    thread = threading.Thread(target=log.orders.run, args=(stopping,), daemon=True)
    log.blobs.failure = ObjectsUnavailable("the storage is away")
    thread.start()
    log.watch("a")
    log.append(line("a"), utc_now())
    until(lambda: "stop orders does not answer" in caplog.text)
    log.blobs.failure = None
    until(lambda: log.stopped == ["a"])
    stopping.set()
    thread.join(30)
    assert not thread.is_alive()
