"""Run the console commands of the emulator as processes."""

import contextlib
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

_START_SECONDS = 90.0


def command(name: str, module: str) -> list[str]:
    """Return the command line that starts the console command `name`."""
    script = Path(sysconfig.get_path("scripts")) / name
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


@contextlib.contextmanager
def running(name: str, module: str, url: str, *options: str) -> Iterator[None]:
    """Run a console command during the `with` block. See `running_program`."""
    with running_program([*command(name, module), *options], url):
        yield


@contextlib.contextmanager
def running_program(
    command: list[str],
    url: str,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a program during the `with` block. Then stop it, and expect exit status 0.

    The block begins when the program responds to a request to `url`. The program is stopped with
    SIGTERM.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=folder, env=environment)
    try:
        wait_until_listening(process, url)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert process.returncode == 0


def wait_until_listening(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a service responds to a request to `url`. Fails if the process ends."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended during its start"
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return
        time.sleep(0.05)
    raise AssertionError(f"no service responds at {url}")
