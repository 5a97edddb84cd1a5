"""A fleet with real processes: small stand-ins for workers, and for the gateway that counts."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from loosely.capacity.scaling import Behavior, PolicyType, ScaledObject, ScalingPolicy, ScalingRules
from loosely.up import events
from loosely.up.errors import PartFailed
from loosely.up.fleet import Fleet, FleetPlan
from loosely.up.guard import Guard
from loosely.up.keeper import Keeper, Patience
from loosely.up.launcher import Launcher
from loosely.up.logs import PartLog
from loosely.up.parts import Part, Probe
from loosely.up.workload import Workload

pytestmark = pytest.mark.e2e

# Tells what it holds by a file, notes how it ended, and finishes what it holds before it goes.
WORKER = """
import json, pathlib, signal, socket, sys, time
name, port, home = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
if (home / f"{name}.crash").exists():
    sys.exit(3)
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


class Gateway:
    """Answers `/v1/models` with the lengths it is given."""

    def __init__(self) -> None:
        self.lengths: dict[str, int | None] = {"m": 0}
        self.status = 200
        self.keys: set[str | None] = set()
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.keys.add(self.headers["authorization"])
                models = [{"name": n, "queue_length": c} for n, c in gateway.lengths.items()]
                body = json.dumps({"models": models}).encode()
                self.send_response(gateway.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Yard:
    """A fleet, what it told, and the files by which its workers are steered."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.gateway = Gateway()
        self.told: list[events.Event] = []
        self.later_seconds = 0.0
        self._guard = Guard()
        self._launcher = Launcher(home, dict(os.environ), self._guard)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.first_port: int = server.getsockname()[1]

    def fleet(self, least: int = 0, most: int = 4) -> Fleet:
        scaling = ScaledObject(
            message_count=1,
            polling_interval_seconds=0.05,
            cooldown_period_seconds=0.0,
            min_replica_count=least,
            max_replica_count=most,
            sync_period_seconds=0.05,
            behavior=AT_ONCE,
        )
        workload = Workload(self.gateway.url, ["m"], "secret")
        plan = FleetPlan(self._part("worker", 1), scaling, workload, self._replica, self.first_port)
        return Fleet(plan, self._keep, self.told.append, self._clock)

    def _clock(self) -> float:
        return time.monotonic() + self.later_seconds

    def _replica(self, number: int, port: int) -> Part:
        return self._part(f"worker-{number}", port)

    def _part(self, name: str, port: int) -> Part:
        command = (sys.executable, "-I", "-S", "-c", WORKER, name, str(port), str(self.home))
        return Part(name, "stand-in", "", command, Probe(port), {"health": port})

    def _keep(self, part: Part) -> Keeper:
        log = PartLog(self.home / f"{part.name}.log")
        return Keeper(part, log, self._launcher, self.told.append, Patience(deaths=2))

    def running(self) -> set[str]:
        names: set[str] = set()
        for event in self.told:
            if isinstance(event, events.Ready):
                names.add(event.part.name)
            elif isinstance(event, events.Stopped | events.Died):
                names.discard(event.part.name)
        return names - {"worker"}

    def holds(self, name: str, count: int) -> None:
        (self.home / f"{name}.held").write_text(str(count))

    def ends(self) -> list[str]:
        file = self.home / "ends"
        return file.read_text().splitlines() if file.exists() else []

    def pid(self, name: str) -> int:
        started = [e for e in self.told if isinstance(e, events.Started) and e.part.name == name]
        return started[-1].pid

    def close(self) -> None:
        self.gateway.close()
        self._guard.close()


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    made = Yard(tmp_path)
    yield made
    made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - other processes set no events
            await asyncio.sleep(0.01)


async def end(fleet: Fleet, run: "asyncio.Task[None]") -> None:
    await fleet.stop(run, asyncio.Event())


async def test_comes_with_the_messages_and_goes_without(yard: Yard) -> None:
    fleet = yard.fleet()
    run = asyncio.create_task(fleet.run())
    await fleet.has_been_ready.wait()
    assert yard.running() == set()

    yard.gateway.lengths = {"m": 3, "not served here": 50}
    await until(lambda: yard.running() == {"worker-1", "worker-2", "worker-3"})
    yard.gateway.lengths = {"m": 2}
    await until(lambda: yard.running() == {"worker-1", "worker-2"})
    yard.gateway.lengths = {"m": 0}
    await until(lambda: yard.running() == set())

    sizes = [event.after for event in yard.told if isinstance(event, events.Scaled)]
    assert sizes[0] == 1
    assert sizes[-1] == 0
    assert max(sizes) == 3
    assert yard.gateway.keys == {"Bearer secret"}
    await end(fleet, run)


async def test_a_busy_one_stays_until_it_is_idle(yard: Yard) -> None:
    fleet = yard.fleet()
    yard.gateway.lengths = {"m": 3}
    run = asyncio.create_task(fleet.run())
    await until(lambda: len(yard.running()) == 3)
    yard.holds("worker-2", 1)
    yard.holds("worker-3", 1)

    yard.gateway.lengths = {"m": 0}
    await until(lambda: yard.running() == {"worker-2", "worker-3"})
    for _ in range(5):
        await asyncio.sleep(0.05)
        assert yard.running() == {"worker-2", "worker-3"}
    yard.holds("worker-3", 0)
    await until(lambda: yard.running() == {"worker-2"})
    yard.holds("worker-2", 0)
    await until(lambda: yard.running() == set())

    assert yard.ends() == ["worker-1 held 0", "worker-3 held 0", "worker-2 held 0"]
    await end(fleet, run)


async def test_a_killed_one_is_back(yard: Yard) -> None:
    fleet = yard.fleet(least=1, most=1)
    run = asyncio.create_task(fleet.run())
    await fleet.has_been_ready.wait()
    first = yard.pid("worker-1")

    os.kill(first, signal.SIGKILL)

    await until(lambda: yard.pid("worker-1") != first and "worker-1" in yard.running())
    await end(fleet, run)
    assert yard.running() == set()


async def test_one_that_cannot_start_does_not_take_the_others_along(yard: Yard) -> None:
    (yard.home / "worker-2.crash").touch()
    fleet = yard.fleet(least=1)
    run = asyncio.create_task(fleet.run())
    await until(lambda: yard.running() == {"worker-1"})
    first = yard.pid("worker-1")

    yard.gateway.lengths = {"m": 2}
    await until(lambda: any(isinstance(event, events.Failed) for event in yard.told))
    (yard.home / "worker-2.crash").unlink()
    await until(lambda: yard.running() == {"worker-1", "worker-2"})

    assert yard.pid("worker-1") == first
    await end(fleet, run)


async def test_where_none_can_start_it_gives_up_and_leaves_nothing(yard: Yard) -> None:
    (yard.home / "worker-1.crash").touch()
    yard.gateway.lengths = {"m": 1}
    with pytest.raises(PartFailed, match="died 2 times before it was ready"):
        await yard.fleet().run()
    assert yard.running() == set()


async def test_takes_the_next_port_where_one_is_taken(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", yard.first_port)):
        fleet = yard.fleet(least=1)
        run = asyncio.create_task(fleet.run())
        await fleet.has_been_ready.wait()
        (ready,) = [
            e for e in yard.told if isinstance(e, events.Ready) and e.part.ports["health"] > 1
        ]
        assert ready.part.ports["health"] > yard.first_port
        await end(fleet, run)


async def test_keeps_its_size_while_nobody_counts_and_says_so_once(yard: Yard) -> None:
    yard.gateway.lengths = {"m": 2}
    fleet = yard.fleet()
    run = asyncio.create_task(fleet.run())
    await until(lambda: len(yard.running()) == 2)

    yard.gateway.status = 503
    yard.later_seconds = 60.0
    await until(lambda: any(isinstance(event, events.Blind) for event in yard.told))
    for _ in range(3):
        await asyncio.sleep(0.05)
    assert len(yard.running()) == 2
    (blind,) = [event for event in yard.told if isinstance(event, events.Blind)]
    assert blind.reason.endswith("answered 503")

    yard.gateway.status, yard.gateway.lengths = 200, {"m": None}
    for _ in range(3):
        await asyncio.sleep(0.05)
    assert len(yard.running()) == 2, "an unknown length is no zero"
    await end(fleet, run)


async def test_a_stop_ends_all_at_once(yard: Yard) -> None:
    fleet = yard.fleet(least=3)
    run = asyncio.create_task(fleet.run())
    await fleet.has_been_ready.wait()
    await end(fleet, run)
    assert run.done()
    assert sorted(yard.ends()) == [f"worker-{n} held 0" for n in (1, 2, 3)]
