"""Run the worker from a copy of worker/ and functions/contract/, without the repository."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conformance.worker.worker_services import ROOT, wait_until
from tests.ports import free_port


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "worker", tmp_path / "worker", ignore=without)
    shutil.copytree(ROOT / "functions/contract", tmp_path / "contract", ignore=without)
    return tmp_path


def environment(**settings: str) -> dict[str, str]:
    least = {
        "SERVICE_BUS": "Endpoint=sb://localhost:9;SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0;"
        "UseDevelopmentEmulator=true;",
        "PAYLOAD_STORAGE": "UseDevelopmentStorage=true",
        "REPLY_HOSTS": "127.0.0.1:7071",
        "WORKER_MODELS": "noop",
        "PATH": os.environ["PATH"],
    }
    return least | settings


def test_copy_of_the_code_starts(copied: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "worker"],
        cwd=copied,
        env=environment(HEALTH_PORT=str(port)),
        stderr=subprocess.PIPE,
    )
    try:

        def is_loaded() -> bool:
            assert process.poll() is None
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=5)
            except httpx.TransportError:
                return False
            # Without a Service Bus the worker never gets ready.
            return answer.status_code == 503 and answer.json()["models"]["noop"]["loaded"] is True

        wait_until(is_loaded, "the model is loaded")
        assert httpx.get(f"http://127.0.0.1:{port}/live", timeout=5).json()["ok"]
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=5).status_code == 404
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert b"Traceback" not in errors
        assert b"c2VjcmV0" not in errors
    finally:
        process.kill()
        process.wait(10)


def run(copied: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker"],
        cwd=copied,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"WORKER_MODELS": "nop"}, "did you mean noop"),
        ({"MODEL_CATALOGUE": "/nowhere.toml"}, "/nowhere.toml"),
        ({"PAYLOAD_STORAGE": "nonsense"}, "PAYLOAD_STORAGE"),
        ({"SERVICE_BUS": "nonsense"}, "SERVICE_BUS"),
    ],
)
def test_wrong_setting_is_a_one_line_error(
    copied: Path, settings: dict[str, str], says: str
) -> None:
    ended = run(copied, **settings)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert says in ended.stderr


def test_health_port_in_use_exits_with_98(copied: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(copied, HEALTH_PORT=str(port))
    assert ended.returncode == 98
    assert str(port) in ended.stderr
