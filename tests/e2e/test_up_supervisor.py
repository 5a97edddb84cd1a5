"""Test the supervisor of `loosely up` with real processes instead of its usual components."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.ports import free_port

pytestmark = pytest.mark.e2e

STAND_IN = """
import os, signal, socket, sys, time
name, port, journal, behaviour = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
def note(what):
    with open(journal, "a") as file:
        file.write(f"{name} {what}\\n")
def stop(*_):
    note("stop")
    if behaviour == "stubborn":
        return
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note(f"start {os.environ.get('COLOUR', '')}".strip())
print(f"{name} speaks", flush=True)
if behaviour == "crash" and not os.path.exists(journal + ".repaired"):
    print("the reason it died", flush=True)
    sys.exit(3)
if behaviour == "setting":
    sys.exit(2)
if behaviour == "taken":
    sys.exit(98)
if behaviour == "parent" and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(f"grandchild {os.getpid()}")
    time.sleep(600)
server = socket.create_server(("127.0.0.1", port))
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    status = b"503 Busy" if behaviour == "busy" else b"200 OK"
    peer.sendall(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
    peer.close()
"""

RUN = """
import json, sys
from pathlib import Path
from loosely.local.errors import UpError
from loosely.local.process_manager import StartLimits
from loosely.local.parts import Part
from loosely.local.probe import Probe
from loosely.local.run import RunPlan, run
import os
given = json.loads(sys.argv[1])
data = Path(given["data"])
parts = [
    Part(name=p["name"], summary="stand-in", address="here", command=tuple(p["command"]),
         probe=Probe(p["port"]), ports={p["name"]: p["port"]}, environment={"COLOUR": "red"},
         drain_seconds=p["drain_seconds"])
    for p in given["parts"]
]
plan = RunPlan(parts=parts, directory=data, data=data, url="http://127.0.0.1:1", example=None,
            models=data / "models.toml", watched_code=data / "models" if given["watch"] else None,
            environment=dict(os.environ), limits=StartLimits(slow_after_seconds=given["slow"]))
try:
    sys.exit(run(lambda: plan, data))
except UpError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def wait_for(condition: Callable[[], bool], limit_seconds: float = 15.0) -> None:
    until = time.monotonic() + limit_seconds
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.02)


class Up:
    """A supervisor in a separate process, with test components in place of the usual ones."""

    def __init__(
        self,
        data: Path,
        slow_after_seconds: float,
        stubborn_seconds: float,
        is_watching: bool,
        **behaviours: str,
    ) -> None:
        self.data = data
        self.journal_path = data / "journal"
        self.ports = {name: free_port() for name in behaviours}
        data.mkdir(exist_ok=True)
        given = {
            "data": str(data),
            "slow": slow_after_seconds,
            "watch": is_watching,
            "parts": [
                {
                    "name": name,
                    "port": self.ports[name],
                    "drain_seconds": stubborn_seconds if behaviour == "stubborn" else 20.0,
                    "command": [
                        sys.executable,
                        *("-I", "-S", "-c", STAND_IN, name, str(self.ports[name])),
                        *(str(self.journal_path), behaviour),
                    ],
                }
                for name, behaviour in behaviours.items()
            ],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def record(self) -> dict[str, dict[str, object]]:
        try:
            record = json.loads((self.data / "up.json").read_text())
        except FileNotFoundError:
            return {}
        parts: dict[str, dict[str, object]] = record["parts"]
        return parts if record["pid"] == self.process.pid else {}

    def pid(self, name: str) -> int:
        return int(str(self.record[name]["pid"]))

    def is_ready(self, *names: str) -> bool:
        return all(self.record.get(name, {}).get("ready") is True for name in names)

    def journal(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return self.journal_path.read_text().splitlines()
        return []

    def stop(self) -> str:
        self.process.terminate()
        code, output, errors = self.finish()
        assert code == 0, errors
        return output

    def finish(self) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    running: list[Up] = []

    def start_up(
        slow_after_seconds: float = 10.0,
        stubborn_seconds: float = 1.0,
        is_watching: bool = False,
        **behaviours: str,
    ) -> Up:
        data = tmp_path / "data"
        running.append(Up(data, slow_after_seconds, stubborn_seconds, is_watching, **behaviours))
        return running[-1]

    yield start_up
    for up in running:
        up.process.kill()
        up.process.communicate()


def start_ready(start: Callable[..., Up], **options: Any) -> Up:
    """Start a supervisor, and wait until the components with a behaviour are ready."""
    up = start(**options)
    wait_for(lambda: up.is_ready(*up.ports))
    return up


def test_components_stop_in_reverse_order(start: Callable[..., Up]) -> None:
    up = start_ready(start, storage="plain", queue="plain", worker="plain")
    assert sorted(up.journal()) == ["queue start red", "storage start red", "worker start red"]

    up.process.send_signal(signal.SIGINT)
    code, output, errors = up.finish()

    assert code == 0, errors
    assert up.journal()[3:] == ["worker stop", "queue stop", "storage stop"]
    for name in ("storage", "queue", "worker"):
        assert f"  {name.ljust(7)}  ready in " in output
    assert "Ready in " in output
    assert not (up.data / "up.json").exists()
    assert (up.data / "logs" / "worker.log").read_text() == "worker speaks\n"


def test_killed_component_is_restarted_and_reported(start: Callable[..., Up]) -> None:
    up = start_ready(start, queue="plain", worker="plain")
    first, queue = up.pid("worker"), up.pid("queue")

    os.kill(first, signal.SIGKILL)
    wait_for(lambda: up.is_ready("worker") and up.pid("worker") != first)

    assert up.pid("queue") == queue
    output = up.stop()
    assert "worker  died (killed by SIGKILL: worker speaks); restarts in 0.1 s" in output
    assert "worker  ready again in" in output


def test_changed_file_restarts_its_readers(start: Callable[..., Up]) -> None:
    up = start(is_watching=True, blobs="plain", servicebus="plain", worker="plain")
    wait_for(lambda: up.is_ready("blobs", "servicebus", "worker"), 30)
    first = {name: up.pid(name) for name in ("blobs", "servicebus", "worker")}

    (up.data / "models").mkdir()
    (up.data / "models" / "a.py").touch()
    wait_for(lambda: up.is_ready("worker") and up.pid("worker") != first["worker"], 30)
    assert up.journal()[3:] == ["worker stop", "worker start red"]
    assert up.pid("servicebus") == first["servicebus"]

    (up.data / "models.toml").touch()
    wait_for(lambda: len(up.journal()) == 9 and up.is_ready("servicebus", "worker"), 30)
    assert up.journal()[5] == "servicebus stop"
    assert sorted(up.journal()[6:]) == ["servicebus start red", "worker start red", "worker stop"]
    assert up.pid("blobs") == first["blobs"]
    output = up.stop()
    assert "worker      restarts: a.py has changed" in output
    assert "servicebus  restarts: models.toml has changed" in output
    assert "died" not in output


def test_crash_at_startup_is_retried_until_ready(start: Callable[..., Up]) -> None:
    up = start(queue="plain", worker="crash")
    wait_for(lambda: up.is_ready("queue") and up.journal().count("worker start red") > 4)
    assert up.is_ready("queue")
    queue = up.pid("queue")

    up.journal_path.with_name("journal.repaired").touch()
    wait_for(lambda: up.is_ready("worker"))

    assert up.pid("queue") == queue
    output = up.stop()
    assert "worker  died (exit code 3: the reason it died); restarts in 0.2 s" in output
    assert "worker  died 3 times before it was ready; the other components keep running" in output
    assert "worker    the reason it died" in output


@pytest.mark.parametrize(
    ("behaviour", "code", "message"),
    [
        ("setting", 1, "ended because its settings are invalid"),
        ("taken", 98, "could not listen on its port"),
    ],
)
def test_permanent_start_failure_is_not_retried(
    start: Callable[..., Up], behaviour: str, code: int, message: str
) -> None:
    up = start(worker=behaviour)

    ended, _, errors = up.finish()

    assert ended == code
    assert message in errors
    # The second start shows that no other code in the process has chosen this exit code.
    assert up.journal() == ["worker start red"] * 2


def test_unready_component_leaves_the_others(start: Callable[..., Up]) -> None:
    up = start(slow_after_seconds=1.0, queue="plain", worker="busy")
    wait_for(lambda: up.is_ready("queue"))
    assert up.process.stdout is not None
    lines = iter(up.process.stdout.readline, "")
    slow = [line for line, _ in zip((x for x in lines if "not ready" in x), range(2), strict=False)]

    assert "worker  is not ready after 1 s; last log line: worker speaks" in slow[0]
    assert "worker  is not ready after 2 s" in slow[1]
    assert up.is_ready("queue")
    up.process.terminate()
    assert up.finish()[0] == 0


def test_component_that_does_not_stop_is_killed(start: Callable[..., Up]) -> None:
    up = start_ready(start, queue="plain", worker="stubborn")

    output = up.stop()
    assert up.journal()[2:] == ["worker stop", "queue stop"]
    assert "worker  killed after 1." in output


def test_second_ctrl_c_kills_all(start: Callable[..., Up]) -> None:
    up = start_ready(start, stubborn_seconds=1000.0, queue="stubborn", worker="stubborn")

    up.process.send_signal(signal.SIGINT)
    wait_for(lambda: "worker stop" in up.journal())
    up.process.send_signal(signal.SIGINT)
    # This returns long before the components' time to stop has passed.
    code, _, _ = up.finish()

    assert code == 130


def test_ctrl_c_stops_unready_components(start: Callable[..., Up]) -> None:
    up = start(queue="plain", worker="plain")
    wait_for((up.data / "up.json").exists)

    up.process.send_signal(signal.SIGINT)
    code, _, errors = up.finish()

    assert code == 0, errors


def test_all_processes_end_with_the_supervisor(start: Callable[..., Up]) -> None:
    up = start_ready(start, queue="plain", worker="parent")
    family = psutil.Process(up.process.pid).children(recursive=True)
    assert len(family) == 4, "expected two components, a child of the worker, and the reaper"

    up.process.kill()

    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert len(gone) == 4


def test_children_of_a_dead_component_are_killed(start: Callable[..., Up]) -> None:
    up = start_ready(start, worker="parent")
    first = up.pid("worker")
    [left_behind] = psutil.Process(first).children()

    os.kill(first, signal.SIGKILL)

    psutil.wait_procs([left_behind], timeout=30)
    assert not left_behind.is_running()


def test_data_directory_is_locked(start: Callable[..., Up]) -> None:
    up = start_ready(start, worker="plain")

    code, _, errors = start(worker="plain").finish()

    assert code == 98
    assert f"another `loosely up` (process {up.process.pid}) uses {up.data}" in errors
    assert up.is_ready("worker")


def test_killed_supervisor_unlocks_the_directory(start: Callable[..., Up]) -> None:
    first = start_ready(start, worker="plain")
    first.process.kill()
    first.process.wait()

    second = start(worker="plain")

    wait_for(lambda: second.is_ready("worker"))
    second.process.terminate()
    assert second.finish()[0] == 0
    assert (second.data / "logs" / "worker.log.1").exists()


def test_state_file_is_readable_only_by_its_owner(start: Callable[..., Up]) -> None:
    up = start_ready(start, worker="plain")

    record = up.data / "up.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert json.loads(record.read_text()) == {
        "pid": up.process.pid,
        "url": "http://127.0.0.1:1",
        "parts": {
            "worker": {
                "pid": up.pid("worker"),
                "ports": {"worker": up.ports["worker"]},
                "log": str(up.data / "logs" / "worker.log"),
                "ready": True,
            }
        },
    }
