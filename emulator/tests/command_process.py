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
    """Return the command line that starts the console command `name`.

    If the command's script is not installed, return the command line that runs `module`.
    """
    script = Path(sysconfig.get_path("scripts")) / name
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


@contextlib.contextmanager
def running(name: str, module: str, url: str, *options: str) -> Iterator[None]:
    """Run a console command during the `with` block. Then stop it, and expect exit status 0.

    The block begins when the command responds to a request to `url`. The command is stopped with
    SIGTERM. If the command's script `name` is not installed, the module `module` is run instead.
    """
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
        assert process.poll() is None, "the service ended during its start"
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return
        time.sleep(0.05)
    raise AssertionError(f"no service responds at {url}")
