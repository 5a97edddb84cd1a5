"""Test the worker pool, which starts and stops workers, with real processes."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from loosely.local import events
from loosely.local.errors import PartFailed
from loosely.local.launcher import Launcher
from loosely.local.logs import PartLog
from loosely.local.parts import Part
from loosely.local.probe import Probe
from loosely.local.process_manager import ProcessManager, StartLimits
from loosely.local.reaper import Reaper
from loosely.local.scaling import (
    Behavior,
    CronTrigger,
    PolicyType,
    ScaledObject,
    ScalingPolicy,
    ScalingRules,
)
from loosely.local.worker_pool import QueueMonitor, WorkerPool, WorkerPoolPlan
from tests.http_server import Request, Response, serve_http

pytestmark = pytest.mark.e2e

# A test worker: it reports the number in its file as held jobs, and writes a note when it stops.
WORKER = """
import json, pathlib, signal, socket, sys, time
name, port, home = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
if (home / f"{name}.crash").exists():
    sys.exit(int((home / f"{name}.crash").read_text() or 3))
held = home / f"{name}.held"
def count():
    return int(held.read_text()) if held.exists() else 0
def stop(*_):
    (home / "ends").open("a").write(f"{name} held {count()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
try:
    server = socket.create_server(("127.0.0.1", port))
except OSError:
    sys.exit(98)
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    body = json.dumps({"models": {"m": {"held": count()}}}).encode()
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    peer.close()
"""
AT_ONCE = Behavior(scale_down=ScalingRules(0.0, (ScalingPolicy(PolicyType.PERCENT, 100, 15.0),)))


class CountingGateway:
    """A minimal gateway that returns the queue lengths in `lengths` at `/v1/models`."""

    def __init__(self) -> None:
        self.lengths: dict[str, int | None] = {"m": 0}
        self.status = 200
        self.keys: set[str | None] = set()

    def answer(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        models = [{"name": name, "queue_length": n} for name, n in self.lengths.items()]
        return Response(self.status, json.dumps({"models": models}).encode())


class PoolHarness:
    """Starts worker pools with test workers, and records the events of the pools."""

    def __init__(self, home: Path, gateway: CountingGateway, url: str) -> None:
        self.home, self.gateway, self.url = home, gateway, url
        self.events: list[events.PartEvent] = []
        self.clock_offset_seconds = 0.0
        self.now = datetime.now(UTC)
        self._reaper = Reaper()
        self._launcher = Launcher(home, dict(os.environ), self._reaper)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.first_port: int = server.getsockname()[1]

    def pool(
        self, minimum: int = 0, maximum: int = 4, cron: tuple[CronTrigger, ...] = ()
    ) -> WorkerPool:
        scaling = ScaledObject(
            message_count=1,
            polling_interval_seconds=0.05,
            cooldown_period_seconds=0.0,
            min_replica_count=minimum,
            max_replica_count=maximum,
            sync_period_seconds=0.05,
            behavior=AT_ONCE,
            cron=cron,
        )
        monitor = QueueMonitor(self.url, ["m"], "secret")
        plan = WorkerPoolPlan(
            self._part("worker", 1), scaling, monitor, self._replica, self.first_port
        )
        return WorkerPool(plan, self._manage, self.events.append, self._clock, lambda: self.now)

    def start(self, **options: Any) -> tuple[WorkerPool, "asyncio.Task[None]"]:
        pool = self.pool(**options)
        return pool, asyncio.create_task(pool.run())

    def _clock(self) -> float:
        return time.monotonic() + self.clock_offset_seconds

    def _replica(self, number: int, port: int) -> Part:
        return self._part(f"worker-{number}", port)

    def _part(self, name: str, port: int) -> Part:
        command = (sys.executable, "-I", "-S", "-c", WORKER, name, str(port), str(self.home))
        return Part(name, "stand-in", "", command, Probe(port), {"health": port})

    def _manage(self, part: Part) -> ProcessManager:
        log = PartLog(self.home / f"{part.name}.log")
        return ProcessManager(
            part, log, self._launcher, self.events.append, StartLimits(failing_deaths=2)
        )

    def running(self) -> set[str]:
        names: set[str] = set()
        for event in self.events:
            if isinstance(event, events.PartReady):
                names.add(event.part.name)
            elif isinstance(event, events.PartStopped | events.PartDied):
                names.discard(event.part.name)
        return names - {"worker"}

    def set_held(self, name: str, count: int) -> None:
        (self.home / f"{name}.held").write_text(str(count))

    def stop_notes(self) -> list[str]:
        file = self.home / "ends"
        return file.read_text().splitlines() if file.exists() else []

    def pid(self, name: str) -> int:
        started = [
            e for e in self.events if isinstance(e, events.PartStarted) and e.part.name == name
        ]
        return started[-1].pid

    def close(self) -> None:
        self._reaper.close()


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PoolHarness]:
    gateway = CountingGateway()
    with serve_http(gateway.answer) as url:
        running = PoolHarness(tmp_path, gateway, url)
        yield running
        running.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


async def end(pool: WorkerPool, run: "asyncio.Task[None]") -> None:
    await pool.stop(run, asyncio.Event())


async def test_pool_follows_the_number_of_messages(harness: PoolHarness) -> None:
    pool, run = harness.start()
    await pool.has_been_ready.wait()
    assert harness.running() == set()

    harness.gateway.lengths = {"m": 3, "not served here": 50}
    await until(lambda: harness.running() == {"worker-1", "worker-2", "worker-3"})
    harness.gateway.lengths = {"m": 2}
    await until(lambda: harness.running() == {"worker-1", "worker-2"})
    harness.gateway.lengths = {"m": 0}
    await until(lambda: harness.running() == set())

    sizes = [event.after for event in harness.events if isinstance(event, events.PoolScaled)]
    assert sizes[0] == 1
    assert sizes[-1] == 0
    assert max(sizes) == 3
    assert harness.gateway.keys == {"Bearer secret"}
    await end(pool, run)


async def test_pool_keeps_workers_in_a_warm_period(harness: PoolHarness) -> None:
    harness.now = datetime(2024, 1, 6, 12, tzinfo=UTC)  # a Saturday
    pool, run = harness.start(cron=(CronTrigger((0,), 8 * 60, 18 * 60, "Europe/Berlin", 2),))
    await pool.has_been_ready.wait()
    assert harness.running() == set()

    harness.now = datetime(2024, 1, 8, 7, tzinfo=UTC)  # a Monday, 08:00 in Berlin
    await until(lambda: harness.running() == {"worker-1", "worker-2"})
    harness.now = datetime(2024, 1, 8, 17, tzinfo=UTC)
    await until(lambda: harness.running() == set())
    await end(pool, run)


async def test_busy_worker_stops_only_when_idle(harness: PoolHarness) -> None:
    pool = harness.pool()
    harness.gateway.lengths = {"m": 3}
    run = asyncio.create_task(pool.run())
    await until(lambda: len(harness.running()) == 3)
    harness.set_held("worker-2", 1)
    harness.set_held("worker-3", 1)

    harness.gateway.lengths = {"m": 0}
    await until(lambda: harness.running() == {"worker-2", "worker-3"})
    for _ in range(5):
        await asyncio.sleep(0.05)
        assert harness.running() == {"worker-2", "worker-3"}
    harness.set_held("worker-3", 0)
    await until(lambda: harness.running() == {"worker-2"})
    harness.set_held("worker-2", 0)
    await until(lambda: harness.running() == set())

    assert harness.stop_notes() == ["worker-1 held 0", "worker-3 held 0", "worker-2 held 0"]
    await end(pool, run)


async def test_killed_worker_is_restarted(harness: PoolHarness) -> None:
    pool, run = harness.start(minimum=1, maximum=1)
    await pool.has_been_ready.wait()
    first = harness.pid("worker-1")

    os.kill(first, signal.SIGKILL)

    await until(lambda: harness.pid("worker-1") != first and "worker-1" in harness.running())
    await end(pool, run)
    assert harness.running() == set()


async def test_worker_that_cannot_start_leaves_the_others(harness: PoolHarness) -> None:
    (harness.home / "worker-2.crash").touch()
    pool, run = harness.start(minimum=1)
    await until(lambda: harness.running() == {"worker-1"})
    first = harness.pid("worker-1")

    harness.gateway.lengths = {"m": 2}
    await until(lambda: any(isinstance(event, events.PartFailing) for event in harness.events))
    (harness.home / "worker-2.crash").unlink()
    await until(lambda: harness.running() == {"worker-1", "worker-2"})

    assert harness.pid("worker-1") == first
    await end(pool, run)


async def test_refused_settings_fail_the_pool(harness: PoolHarness) -> None:
    (harness.home / "worker-1.crash").write_text("2")
    harness.gateway.lengths = {"m": 1}
    with pytest.raises(PartFailed, match="its settings are invalid"):
        await harness.pool().run()
    assert harness.running() == set()


async def test_crash_at_startup_is_retried(harness: PoolHarness) -> None:
    (harness.home / "worker-1.crash").touch()
    harness.gateway.lengths = {"m": 1}
    pool, run = harness.start()
    await until(lambda: any(isinstance(event, events.PartFailing) for event in harness.events))
    (harness.home / "worker-1.crash").unlink()
    await until(lambda: harness.running() == {"worker-1"})
    await end(pool, run)


async def test_next_free_health_port_is_used(harness: PoolHarness) -> None:
    with socket.create_server(("127.0.0.1", harness.first_port)):
        pool = harness.pool(minimum=1)
        run = asyncio.create_task(pool.run())
        await pool.has_been_ready.wait()
        (ready,) = [
            e
            for e in harness.events
            if isinstance(e, events.PartReady) and e.part.ports["health"] > 1
        ]
        assert ready.part.ports["health"] > harness.first_port
        await end(pool, run)


async def test_unknown_queue_lengths_keep_the_size(harness: PoolHarness) -> None:
    harness.gateway.lengths = {"m": 2}
    pool, run = harness.start()
    await until(lambda: len(harness.running()) == 2)

    harness.gateway.status = 503
    harness.clock_offset_seconds = 60.0
    await until(lambda: any(isinstance(event, events.PartReport) for event in harness.events))
    for _ in range(3):
        await asyncio.sleep(0.05)
    assert len(harness.running()) == 2
    (unknown,) = [event for event in harness.events if isinstance(event, events.PartReport)]
    assert unknown.text.endswith("responded with HTTP status 503")

    harness.gateway.status, harness.gateway.lengths = 200, {"m": None}
    for _ in range(3):
        await asyncio.sleep(0.05)
    assert len(harness.running()) == 2, "an unknown queue length counted as 0"
    await end(pool, run)


async def test_stop_stops_all_workers(harness: PoolHarness) -> None:
    pool, run = harness.start(minimum=3)
    await pool.has_been_ready.wait()
    await end(pool, run)
    assert run.done()
    assert sorted(harness.stop_notes()) == [f"worker-{n} held 0" for n in (1, 2, 3)]


async def test_halted_pool_restarts_when_it_resumes(harness: PoolHarness) -> None:
    pool, run = harness.start(minimum=2, maximum=2)
    await pool.has_been_ready.wait()
    before = {harness.pid(name) for name in ("worker-1", "worker-2")}

    await pool.halt("a file has changed")
    assert sorted(harness.stop_notes()) == ["worker-1 held 0", "worker-2 held 0"]
    assert {harness.pid(name) for name in ("worker-1", "worker-2")} == before
    pool.resume()
    await until(lambda: not {harness.pid(name) for name in ("worker-1", "worker-2")} & before)
    assert not any(isinstance(event, events.PartDied) for event in harness.events)
    await end(pool, run)


async def test_monitor_counts_each_served_version() -> None:
    gateway = CountingGateway()
    gateway.lengths = {"m": 1, "m:2": 2, "m:3": 4, "other": 8}
    with serve_http(gateway.answer) as url:
        for served, expected in ((["m:1", "m:2"], [1, 2]), ([], [1, 2, 4, 8])):
            async with QueueMonitor(url, served) as monitor:
                assert await monitor.count_messages() == expected


async def test_monitor_adds_the_messages_that_workers_hold() -> None:
    gateway = CountingGateway()
    gateway.lengths = {"m": 1, "m:2": None, "m:3": 4}
    held = {"m:1": {"held": 3}, "m:2": {"held": 5}, "m:3": {"held": 7}}

    def answer(request: Request) -> Response:
        return Response(503, json.dumps({"models": held}).encode())

    with serve_http(gateway.answer) as url, serve_http(answer) as worker:
        ports = [int(worker.rpartition(":")[2])] * 2 + [1]  # nothing listens on port 1
        async with QueueMonitor(url) as monitor:
            assert await monitor.count_messages(ports) == [7, None, 18]
            assert await monitor.count_messages() == [1, None, 4]
            assert await monitor.count_held_jobs(ports[0]) == 15
