"""Start the app process, send invocations to it, and restart it if it ends.

AppProcess      one run of the app process, and the connection to it
AppSupervisor   starts the app process again each time it ends, with increasing delays

The host imports this module before it starts the app process. Therefore the module imports only
what is needed to start the app process.
"""

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
from emulator.functions.errors import AppLoadError, AppUnavailable

_log = logging.getLogger("functions.host")
_ENTRY = Path(__file__).parent / "app" / "__main__.py"
_INDEX_SECONDS = 120.0
_THREADS_SETTING = "PYTHON_THREADPOOL_THREAD_COUNT"
_MOST_THREADS = 32
InvocationResponse = tuple[list[Any], bytes]
_FIRST_DELAY_SECONDS = 0.1
_LONGEST_DELAY_SECONDS = 10.0
_SETTLED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class AppCommand:
    """The program, the folder and the app settings with which an app process is started."""

    folder: Path
    settings: Mapping[str, str]
    python: str = sys.executable
    log_level: str = "info"

    def arguments(self) -> list[str]:
        """Return the command-line options of the app process, also from app settings."""
        script = self.settings.get("PYTHON_SCRIPT_FILE_NAME") or "function_app.py"
        arguments = ["--folder", str(self.folder), "--script", script]
        threads = self.settings.get(_THREADS_SETTING)
        if threads is not None:
            if threads.isdecimal() and 1 <= int(threads) <= _MOST_THREADS:
                arguments += ["--threads", threads]
            else:
                _log.warning(
                    "the app setting %s is ignored: expected a whole number from 1 to %d, got %s",
                    _THREADS_SETTING,
                    _MOST_THREADS,
                    threads,
                )
        return [*arguments, "--log-level", self.log_level]


class _EndedEarlyError(AppLoadError):
    """The app process ended before it reported its functions."""


class AppProcess:
    """One run of the app process. `start_app` creates this object.

    `ended` is set when the process has ended or the connection to the process is lost.
    """

    def __init__(self, child: asyncio.subprocess.Process, host_pipe: int) -> None:
        loop = asyncio.get_running_loop()
        self.functions: list[dict[str, Any]] = []
        self.ended = asyncio.Event()
        self.connection = FrameConnection(self._on_frame, self._on_lost)
        self.indexed: asyncio.Future[list[dict[str, Any]]] = loop.create_future()
        self._child = child
        self._host_pipe = host_pipe
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[InvocationResponse]] = {}
        self._create_future = loop.create_future
        # A child of the app process may keep the socket open, so the process is also watched.
        self._watcher = loop.create_task(self._watch())

    @property
    def pid(self) -> int:
        """Return the process id of the app process."""
        return self._child.pid

    async def invoke(self, call: list[Any], body: bytes) -> InvocationResponse:
        """Send an invocation, and return the response. Raises AppUnavailable without one."""
        number = next(self._numbers)
        answer: asyncio.Future[InvocationResponse] = self._create_future()
        self._waiting[number] = answer
        try:
            await self.connection.drain()
            self.connection.send([number, *call], body)
            return await answer
        except ConnectionError as error:
            raise AppUnavailable("the app process has ended", not_started=True) from error
        finally:
            self._waiting.pop(number, None)

    def begin(self, client_binding: str | None) -> None:
        """Send the JSON of the durable client binding, or None, before the first `invoke`."""
        self.connection.send(["begin", client_binding])

    def kill(self) -> None:
        """Kill the process. Invocations in flight raise AppUnavailable."""
        if self._child.returncode is None:
            self._child.kill()

    async def stop(self) -> None:
        """Close the connection, which ends the process; kill it after 2 s."""
        self.connection.abort()
        try:
            async with asyncio.timeout(2.0):
                await self._child.wait()
        except TimeoutError:
            self.kill()
        await self._watcher
        self._close_host_pipe()

    async def wait(self) -> int:
        """Wait for the end, and return the exit status, negative after a signal.

        If the connection is lost but the process still runs, kill the process.
        """
        await self.ended.wait()
        # The process may still run if it has closed the socket.
        self.kill()
        await self._watcher
        self._close_host_pipe()
        return await self._child.wait()

    async def _watch(self) -> None:
        await self._child.wait()
        self.connection.abort()

    def _close_host_pipe(self) -> None:
        if self._host_pipe >= 0:
            os.close(self._host_pipe)
            self._host_pipe = -1

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
            _log.warning("the connection to the app process is lost: %s", error)
        self.ended.set()
        if not self.indexed.done():
            self.indexed.set_exception(_EndedEarlyError())
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(AppUnavailable("the app process ended"))
        self._waiting.clear()


async def start_app(command: AppCommand) -> AppProcess:
    """Start an app process, and wait until it has reported its functions.

    Raises AppLoadError if the process cannot be started, if it does not load the app within 120 s,
    or if the app does not have functions.
    """
    ours, theirs = socket.socketpair()
    host_pipe_read, host_pipe_write = os.pipe()
    descriptors = ["--socket", str(theirs.fileno()), "--host-pipe", str(host_pipe_read)]
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
            pass_fds=(theirs.fileno(), host_pipe_read),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        os.close(host_pipe_write)
        raise AppLoadError(f"{command.python} cannot be started: {error}") from error
    finally:
        theirs.close()
        os.close(host_pipe_read)
    process = AppProcess(child, host_pipe_write)
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
        raise AppLoadError(
            "no functions were found in the app: define functions with the decorators of the "
            "object FunctionApp"
        )
    return process


def describe_status(status: int) -> str:
    """Return an exit status in words, for example `exited with status 1`."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"


class AppSupervisor:
    """Keeps an app process running.

    If the process ends, the supervisor starts a new process. If the functions of the new process
    differ from those of the first process, the supervisor stops the new process and starts another
    process after a delay.
    """

    def __init__(self, command: AppCommand) -> None:
        self.client_binding: str | None = None
        self.functions: list[dict[str, Any]] = []
        self._command = command
        self._process: AppProcess | None = None
        self._ready = asyncio.Event()
        self._restarter: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Return whether the app process accepts invocations now."""
        return self._ready.is_set()

    async def load(self) -> None:
        """Start the first app process, and set `functions` to the functions of the app."""
        self._process = await start_app(self._command)
        self.functions = self._process.functions

    def begin(self) -> None:
        """Start to accept invocations. From now on, the app process is restarted if it ends."""
        assert self._process is not None
        self._open(self._process)
        self._restarter = asyncio.create_task(self._restart_when_ended(self._process))

    async def stop(self) -> None:
        """Stop the process, and do not restart it."""
        self._ready.clear()
        if self._restarter is not None:
            self._restarter.cancel()
            await asyncio.gather(self._restarter, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def kill(self) -> None:
        """Kill the process because one of its functions hangs."""
        self._ready.clear()
        if self._process is not None:
            self._process.kill()

    async def wait_until_ready(self, timeout_seconds: float) -> AppProcess:
        """Return the app process, after its restart if there is one.

        Raises AppUnavailable after `timeout_seconds`, or if it is not restarted.
        """
        process = self._process
        if process is not None and process.ended.is_set():
            self._ready.clear()  # the process has ended, but the restarting task has not run yet
        if not self._ready.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._ready.wait()
            except TimeoutError:
                raise AppUnavailable("the app process is restarting", not_started=True) from None
        process = self._process
        if process is None:
            raise AppUnavailable("the app process has ended", not_started=True)
        return process

    def _open(self, process: AppProcess) -> None:
        self._process = process
        try:
            process.begin(self.client_binding)
        except ConnectionError:
            return  # the process has ended again, so the restarting task starts a new one
        self._ready.set()

    async def _restart_when_ended(self, process: AppProcess) -> None:
        loop = asyncio.get_running_loop()
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            opened = loop.time()
            status = await process.wait()
            self._ready.clear()
            self._process = None
            if loop.time() - opened > _SETTLED_SECONDS:
                delay_seconds = _FIRST_DELAY_SECONDS
            _log.error("the app process %s; the host starts it again", describe_status(status))
            process, delay_seconds = await self._restart(delay_seconds)
            self._open(process)
            _log.info("the app process is running again (pid %d)", process.pid)

    async def _restart(self, delay_seconds: float) -> tuple[AppProcess, float]:
        """Restart with doubling delays until an app process has the functions of the first one.

        Return the process, and the delay in seconds for the next restart.
        """
        while True:
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
            try:
                process = await start_app(self._command)
            except AppLoadError as error:
                _log.error("the app cannot be loaded; the host tries again: %s", error)
                continue
            if process.functions == self.functions:
                return process, delay_seconds
            _log.error("the functions of the app have changed: restart the host to load them")
            process.kill()
            await process.stop()
