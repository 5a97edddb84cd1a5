"""Test the thread that writes heartbeats, and the states of models in the heartbeats."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.heartbeats import Heartbeat, ModelHeartbeat, ModelState, decode_heartbeat
from tests.unit.worker.managed_models import (
    BUDGET,
    Infer,
    ManagedModel,
    Models,
    running_models,
)
from worker.clock import utc_now
from worker.errors import WeightsMissing
from worker.heartbeats import TIMEOUT_SECONDS, Heartbeats, describe_model, describe_worker
from worker.memory.sharing import DeviceSharing
from worker.objects.port import BlobStore, ObjectsUnavailable
from worker.pipeline.receive import InFlight
from worker.processes.setup import worker_name
from worker.settings import MemorySettings


class MemoryStore(BlobStore):
    """A heartbeat store that records all calls. Each call fails while `is_down` is true."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, float | None]] = []
        self.changed = threading.Condition()
        self.is_down = False

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        decode_heartbeat(data)
        self._record(("write", blob, timeout_seconds))

    def delete(self, blob: str, timeout_seconds: float | None = None) -> None:
        self._record(("delete", blob, timeout_seconds))

    def _record(self, call: tuple[str, str, float | None]) -> None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        if self.is_down:
            raise ObjectsUnavailable("no route to the storage")

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= count, 30)


def beat() -> Heartbeat:
    return Heartbeat("w", "1", utc_now(), 3600)


BLOB = f"heartbeats/{worker_name()}"


def run(heartbeats: Heartbeats) -> threading.Thread:
    thread = threading.Thread(target=heartbeats.run, daemon=True)
    thread.start()
    return thread


def test_blob_is_written_at_changes_and_deleted_at_the_end() -> None:
    store = MemoryStore()
    heartbeats = Heartbeats(store, 3600, beat)
    thread = run(heartbeats)
    store.wait_for(1)
    heartbeats.publish()
    store.wait_for(2)
    heartbeats.close()
    thread.join(30)
    assert store.calls == [
        ("write", BLOB, TIMEOUT_SECONDS),
        ("write", BLOB, TIMEOUT_SECONDS),
        ("delete", BLOB, TIMEOUT_SECONDS),
    ]


def test_interval_zero_writes_none() -> None:
    store = MemoryStore()
    heartbeats = Heartbeats(store, 0, beat)
    heartbeats.run()
    assert store.calls == []


def test_outage_is_logged_once_and_writes_go_on(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    store = MemoryStore()
    store.is_down = True
    heartbeats = Heartbeats(store, 3600, beat)
    thread = run(heartbeats)
    for count in range(1, 4):
        store.wait_for(count)
        heartbeats.publish()
    store.wait_for(4)
    store.is_down = False
    heartbeats.publish()
    store.wait_for(5)
    heartbeats.close()
    thread.join(30)
    lines = [record.message for record in caplog.records if "heartbeats" in record.message]
    assert [line.partition(":")[0] for line in lines] == [
        "blob storage for heartbeats does not answer; the worker tries again",
        "blob storage for heartbeats is available",
    ]


def test_unexpected_error_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    described = threading.Event()

    def defect() -> Heartbeat:
        described.set()
        raise RuntimeError("the device is lost")

    heartbeats = Heartbeats(store, 3600, defect)
    thread = run(heartbeats)
    assert described.wait(30)
    heartbeats.close()
    thread.join(30)
    assert [call[0] for call in store.calls] == ["delete"]
    assert "the heartbeat could not be written" in caplog.text


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    with running_models(tmp_path) as models:
        yield models


def seen(managed: ManagedModel) -> ModelHeartbeat:
    return describe_model(managed.manager, InFlight(managed.telemetry), managed.telemetry)


def until_state(managed: ManagedModel, state: ModelState) -> ModelHeartbeat:
    ends_at = time.monotonic() + 30
    while seen(managed).state is not state:
        assert time.monotonic() < ends_at, (seen(managed), state)
        threading.Event().wait(0.01)
    return seen(managed)


def test_model_is_loading_loaded_or_waiting(models: Models) -> None:
    gate, is_loading = threading.Event(), threading.Event()

    def slow() -> Infer:
        is_loading.set()
        assert gate.wait(30)
        return Infer(20)

    first = models.start("a", slow)
    assert is_loading.wait(30)
    loading = seen(first)
    assert (loading.state, loading.load_seconds) == (ModelState.LOADING, None)
    first.loading.progress("downloading")
    assert seen(first).loading == "downloading"
    gate.set()
    loaded = until_state(first, ModelState.LOADED)
    assert loaded.loading is None
    assert loaded.load_seconds is not None
    assert first.entered.wait(30)
    second = models.start("b", 40)
    waiting = until_state(second, ModelState.UNLOADED)
    assert (waiting.code, waiting.reason) == (None, None)
    beat = describe_worker(utc_now(), 5, models.sharing, [seen(first), waiting], is_draining=False)
    assert (beat.total_bytes, beat.models[0].device_bytes) == (BUDGET, 60)


def test_broken_model_has_its_reason(models: Models) -> None:
    def fail() -> Infer:
        raise WeightsMissing("no such blob")

    broken = until_state(models.start("a", fail), ModelState.BROKEN)
    assert (broken.code, broken.reason) == (WeightsMissing.code, "no such blob")


def test_worker_without_gpu_names_the_cpu() -> None:
    found = describe_worker(utc_now(), 5, DeviceSharing(MemorySettings()), [], is_draining=True)
    assert (found.worker, found.device) == (worker_name(), "cpu")
    assert (found.total_bytes, found.used_bytes, found.is_draining) == (None, None, True)
