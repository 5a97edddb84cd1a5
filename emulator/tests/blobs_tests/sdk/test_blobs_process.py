"""Test the command line of the Blob service: options, exit status and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from blobs_tests.sdk.blob_servers import run_emulator


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emulator.blobs", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_with_status_0(tmp_path: Path, number: int) -> None:
    with run_emulator(tmp_path) as server, httpx.Client() as idle:
        idle.get(server.url)
        server.process.send_signal(number)
        assert server.process.wait(timeout=10) == 0


def test_busy_port_ends_the_service_with_status_98(tmp_path: Path) -> None:
    with run_emulator(tmp_path / "one") as server:
        ended = run("--port", str(server.port), "--data", str(tmp_path / "two"))
    assert ended.returncode == 98
    assert (
        ended.stderr.strip() == f"emulator.blobs: port {server.port} is in use by another program"
    )


def test_second_process_on_the_same_data_is_refused(
    tmp_path: Path,
) -> None:
    with run_emulator(tmp_path):
        ended = run("--port", "0", "--data", str(tmp_path))
    assert ended.returncode == 2
    assert "another process" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--host", "0.0.0.0"),
        ("--host", "example.org"),
        ("--account", "Not An Account"),
        ("--key", "not Base64"),
        ("--key-file", "/missing"),
        ("--key-file", sys.executable),
        ("--port", "99999"),
        ("--port", "http"),
        ("--log-level", "loud"),
        ("--cors-origin", "http://a b"),
        ("--data", "/dev/null/folder"),
    ],
)
def test_invalid_option_ends_the_service_with_status_2(
    tmp_path: Path, option: str, value: str
) -> None:
    ended = run("--port", "0", "--data", str(tmp_path), option, value)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.strip()


def test_cors_origin_option_allows_preflights(
    tmp_path: Path,
) -> None:
    options = ("--cors-origin", "http://one", "--cors-origin", "http://two:3000")
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "x-ms-a"}
    with run_emulator(tmp_path, options=options) as server:
        for origin, status in (("http://one", 200), ("http://two:3000", 200), ("http://two", 403)):
            answer = httpx.options(server.url, headers={"origin": origin, **asked})
            assert answer.status_code == status
    # The rules stay until they are replaced.
    with run_emulator(tmp_path) as server:
        answer = httpx.options(server.url, headers={"origin": "http://one", **asked})
        assert answer.status_code == 200
    with run_emulator(tmp_path, options=("--cors-origin", "*")) as server:
        answer = httpx.options(server.url, headers={"origin": "http://any", **asked})
        assert answer.status_code == 200
