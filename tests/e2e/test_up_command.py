"""Test `loosely up` as a process, with the blob storage as the only component."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from loosely.local.ports import free_base

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
READY_SECONDS = 30.0


def command(data: Path, port: int, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "loosely", "up", "--only", "blobs"),
        *("--data", str(data), "--port", str(port), *more),
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def port() -> int:
    # Different for each test process, so that parallel runs do not use the same ports.
    return free_base(20000 + os.getpid() % 97 * 100)


@pytest.fixture
def up(data: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        command(data, port), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until_ready(data, process)
            yield process
        finally:
            process.kill()


def wait_until_ready(data: Path, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + READY_SECONDS
    while not is_ready(data):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until, "the components were not ready in time"
        time.sleep(0.02)


def is_ready(data: Path) -> bool:
    try:
        record = json.loads((data / "up.json").read_text())
    except FileNotFoundError:
        return False
    return all(part["ready"] for part in record["parts"].values())


def test_component_runs_until_ctrl_c(up: "subprocess.Popen[str]", data: Path, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port + 3), timeout=5):
        pass
    [blobs] = [
        child
        for child in psutil.Process(up.pid).children()
        if "emulator.blobs" in " ".join(child.cmdline())
    ]

    up.send_signal(signal.SIGINT)
    output, errors = up.communicate(timeout=20)

    assert up.returncode == 0, errors
    assert not blobs.is_running()
    assert f"http://127.0.0.1:{port + 3}/devstoreaccount1" in output
    assert "Ready in " in output
    assert "curl" not in output, "an example for the gateway is printed, but no gateway runs"
    assert sorted(path.name for path in data.iterdir()) == [
        *("blobs", "logs", "models.toml", "reply-token.key", "up.lock")
    ]


@pytest.mark.usefixtures("up")
def test_busy_port_names_process_and_free_port(tmp_path: Path, port: int) -> None:
    done = subprocess.run(
        command(tmp_path / "other", port),
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 98
    assert re.search(
        rf"port {port + 3} \(blobs\) is taken by process \d+ \(python[\d.]*\): \S+ -P -m emulator",
        done.stderr,
    )
    assert re.search(r"loosely up --port \d+", done.stderr)


def test_ctrl_c_in_a_terminal_stops_components(data: Path, port: int) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(data, port))
    shown = b""
    until = time.monotonic() + READY_SECONDS
    while b"Ctrl-C stops all components" not in shown:
        assert time.monotonic() < until, shown.decode()
        shown += os.read(terminal, 65536)
    os.write(terminal, b"\x03")
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # raised once the last process of the terminal has ended
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert "✓  blobs" in text
    assert "Stopping all components. Press Ctrl-C again to kill them." in text
    assert "blobs  stopped after" in text
