"""Run the Functions host in a separate process for tests."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

IN_PROCESS, ISOLATED = "in-process", "isolated"
BOTH_FORMS = pytest.mark.parametrize(
    "form",
    [IN_PROCESS, pytest.param(ISOLATED, marks=pytest.mark.thorough)],
    indirect=True,
    scope="module",
)
"""Runs a test with the app in the process of its host, and thoroughly in a process of its own."""
ISOLATED_FORM = pytest.mark.parametrize("form", [ISOLATED], indirect=True, scope="module")
"""Runs a test with the app in a process of its own."""

APPS = Path(__file__).parent / "apps"
_LISTENING = re.compile(r"listening on (http://\S+)")
_TIMEOUT_SECONDS = 40.0


@dataclass
class RunningHost:
    """A host process, and the lines that it has logged."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    url: str = ""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _listener: asyncio.Task[None] | None = None

    async def logged(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Wait until the host logs a line that matches `pattern`, and return the match.

        Skip the first `after` lines of the log. Raises AssertionError if the host ends before such
        a line, and TimeoutError after 40 s.
        """
        async with asyncio.timeout(_TIMEOUT_SECONDS), self._changed:
            while True:
                for line in self.lines[after:]:
                    if found := re.search(pattern, line):
                        return found
                assert not self._at_end(), "\n".join(self.lines)
                await self._changed.wait()

    def app_pid(self) -> int:
        """Return the process id of the app process, which is the only child of the host."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = children.read_text().split()
        assert len(pids) == 1
        return int(pids[0])

    def start_listening(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def stop(self) -> int:
        """Stop the host with SIGTERM, and return the exit status of the host."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                status = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            raise
        assert self._listener is not None
        await self._listener
        return status

    def _at_end(self) -> bool:
        return self._listener is not None and self._listener.done()

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            async with self._changed:
                self.lines.append(line.decode().rstrip())
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()


def copy_app(name: str, to: Path) -> Path:
    """Copy a sample app to the folder `to`, and return this folder."""
    return shutil.copytree(APPS / name, to, ignore=shutil.ignore_patterns("__pycache__"))


def write_app(folder: Path, source: str, host: str = '{"version": "2.0"}') -> Path:
    """Write an app that consists of function_app.py and host.json, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "function_app.py").write_text(source)
    (folder / "host.json").write_text(host)
    return folder


class Form:
    """The form in which hosts run the app: the fixture `form` sets it for each test."""

    options: tuple[str, ...] = ()

    @classmethod
    def choose(cls, name: str) -> None:
        cls.options = ("--isolated",) if name == ISOLATED else ()


async def start_host(
    folder: Path,
    data: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    is_reloading: bool = False,
    chooses_port: bool = True,
) -> RunningHost:
    """Start a host process for the app in `folder`, with its data directory `data`.

    `options` are added to the host's command line. If they contain no port, and `chooses_port` is
    true, an option that makes the host listen on a free port is added, too. The host gets the
    environment variables of this process and those in `environment`. If `is_reloading` is false,
    the host ignores changes of the app's files.
    """
    command = [sys.executable, "-m", "emulator.functions", "--app", str(folder)]
    command += ["--data", str(data), *Form.options, *options]
    command += [*(() if is_reloading else ("--no-reload",))]
    if chooses_port and "--port" not in options:
        command += ["--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **(environment or {})},
        stderr=asyncio.subprocess.PIPE,
    )
    host = RunningHost(process)
    host.start_listening()
    return host


@asynccontextmanager
async def running_host(
    folder: Path,
    data: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    is_reloading: bool = False,
) -> AsyncIterator[RunningHost]:
    """Run a host during the `with` block, which begins when the host listens."""
    host = await start_host(
        folder, data, *options, environment=environment, is_reloading=is_reloading
    )
    try:
        host.url = (await host.logged(_LISTENING.pattern))[1]
        yield host
    finally:
        await host.stop()


async def failed_start(
    folder: Path,
    data: Path,
    *options: str,
    environment: Mapping[str, str] | None = None,
    chooses_port: bool = True,
) -> tuple[int, str]:
    """Start a host that must fail. Return its exit status and the last line of its log."""
    host = await start_host(
        folder, data, *options, environment=environment, chooses_port=chooses_port
    )
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            status = await host.process.wait()
    finally:
        await host.stop()
    return status, host.lines[-1] if host.lines else ""


async def finished(client: httpx.AsyncClient, links: dict[str, str]) -> dict[str, Any]:
    """Poll the status URL until the instance has ended, and return its status."""
    async with asyncio.timeout(30):
        while True:
            response = await client.get(links["statusQueryGetUri"])
            status: dict[str, Any] = response.json()
            if response.status_code != 202:
                return status
            await asyncio.sleep(0.02)
