"""Run a console command of the emulator as a process."""

import contextlib
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

_START_SECONDS = 30.0


def command(name: str, module: str) -> list[str]:
    """Return the installed command, or the module if the package is not installed as a wheel."""
    script = Path(sysconfig.get_path("scripts")) / name
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


@contextlib.contextmanager
def running(name: str, module: str, url: str, *options: str) -> Iterator[None]:
    """Run a command until the block ends, and expect exit status 0 after SIGTERM."""
    process = subprocess.Popen([*command(name, module), *options], stdin=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, url)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert process.returncode == 0


def _wait_until_listening(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended while it started"
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {url}")
