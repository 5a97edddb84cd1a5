"""One run of the app process: started, indexed, spoken to over a socket pair, and ended."""

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.functions.app.frames import FrameConnection
from emulator.functions.errors import AppLoadError
from emulator.functions.runner import AppUnavailable

_log = logging.getLogger("functions.host")
_ENTRY = Path(__file__).parent / "app" / "__main__.py"
_INDEX_SECONDS = 120.0
_THREADS_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
_MOST_THREADS = 32

Answer = tuple[list[Any], bytes]


@dataclass(frozen=True, slots=True)
class AppCommand:
    """What the app process is started with."""

    folder: Path
    settings: Mapping[str, str]
    python: str = sys.executable
    log_level: str = "info"

    def arguments(self) -> list[str]:
        """Return the options that the app's own settings make."""
        script = self.settings.get("PYTHON_SCRIPT_FILE_NAME") or "function_app.py"
        arguments = ["--folder", str(self.folder), "--script", script]
        threads = self.settings.get(_THREADS_SETTING)
        if threads is not None:
            if threads.isdecimal() and 1 <= int(threads) <= _MOST_THREADS:
                arguments += ["--threads", threads]
            else:
                _log.warning("%s must be from 1 to %d", _THREADS_SETTING, _MOST_THREADS)
        return [*arguments, "--log-level", self.log_level]


class _EndedEarlyError(AppLoadError):
    """The process ended before it had told what the folder holds."""


class AppProcess:
    """A running app process. Made by `start_app`; once `ended` is set it stays so."""

    def __init__(self, child: asyncio.subprocess.Process, lifeline: int) -> None:
        loop = asyncio.get_running_loop()
        self.functions: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.connection = FrameConnection(self._on_frame, self._on_lost)
        self.indexed: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
        self._child = child
        self._lifeline = lifeline
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._create_future = loop.create_future
        # A grandchild may hold the stream open after its parent's death, so watch that, too.
        self._watcher = loop.create_task(self._watch())

    @property
    def pid(self) -> int:
        """Return the operating system's number of the process."""
        return self._child.pid

    async def invoke(self, call: list[Any], body: bytes) -> Answer:
        """Send an invocation (its head without the number) and return the answer's head and body.

        Raises AppUnavailable when the process is gone or goes before it answers.
        """
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = self._create_future()
        self._waiting[number] = answer
        try:
            await self.connection.drain()
            self.connection.send([number, *call], body)
            return await answer
        except ConnectionError as error:
            raise AppUnavailable("the app process is gone", not_started=True) from error
        finally:
            self._waiting.pop(number, None)

    def begin(self, client_binding: str | None) -> None:
        """Tell the app the durable client's JSON; invocations follow."""
        self.connection.send(["begin", client_binding])

    def kill(self) -> None:
        """End the process at once; invocations in flight end in AppUnavailable."""
        if self._child.returncode is None:
            self._child.kill()

    async def stop(self) -> None:
        """Close the connection, on which the process ends by itself, and wait for it."""
        self.connection.abort()
        try:
            async with asyncio.timeout(2.0):
                await self._child.wait()
        except TimeoutError:
            self.kill()
        await self._watcher
        self._close_lifeline()

    async def wait(self) -> int:
        """Wait for the process's end; return its exit status, negative for a signal."""
        await self.ended.wait()
        # The stream may break while the process lives on (it may have closed the descriptor).
        self.kill()
        await self._watcher
        self._close_lifeline()
        return await self._child.wait()

    async def _watch(self) -> None:
        await self._child.wait()
        self.connection.abort()

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _on_frame(self, head: list[Any], body: bytes) -> None:
        number = head[0]
        if number == "index":
            if not self.indexed.done():
                self.indexed.set_result(head[1])
        elif number == "refused":
            if not self.indexed.done():
                _log.error("%s", str(head[2]).rstrip())
                self.indexed.set_exception(AppLoadError(str(head[1])))
        else:
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result((head, body))

    def _on_lost(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("the connection to the app process broke: %s", error)
        self.ended.set()
        if not self.indexed.done():
            self.indexed.set_exception(_EndedEarlyError())
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(AppUnavailable("the app process ended"))
        self._waiting.clear()


async def start_app(command: AppCommand) -> AppProcess:
    """Start an app process and wait until it has indexed its folder. Raises AppLoadError."""
    ours, theirs = socket.socketpair()
    lifeline_read, lifeline_write = os.pipe()
    descriptors = ["--socket", str(theirs.fileno()), "--lifeline", str(lifeline_read)]
    try:
        child = await asyncio.create_subprocess_exec(
            command.python,
            str(_ENTRY),
            *command.arguments(),
            *descriptors,
            cwd=command.folder,
            env=dict(command.settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            pass_fds=(theirs.fileno(), lifeline_read),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        os.close(lifeline_write)
        raise AppLoadError(f"{command.python} cannot be started: {error}") from error
    finally:
        theirs.close()
        os.close(lifeline_read)
    process = AppProcess(child, lifeline_write)
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: process.connection, sock=ours)
    try:
        async with asyncio.timeout(_INDEX_SECONDS):
            process.functions = await process.indexed
    except _EndedEarlyError as error:
        status = describe_status(await process.wait())
        raise AppLoadError(f"the app process {status} while it loaded the app") from error
    except TimeoutError as error:
        raise AppLoadError(f"the app did not load within {_INDEX_SECONDS:.0f} s") from error
    finally:
        if not process.functions:
            process.kill()
            await process.stop()
    if not process.functions:
        raise AppLoadError("no functions were found in the app")
    return process


def describe_status(status: int) -> str:
    """Return what an exit status means, in words."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
