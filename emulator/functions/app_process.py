"""Start the app in a process of its own, and send invocations to it (`--isolated`).

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.functions.app.frames import FrameConnection
from emulator.functions.errors import AppLoadError, AppUnavailable
from emulator.functions.loaded_app import AppSource, InvocationResponse, require_functions

if TYPE_CHECKING:
    from emulator.functions.durable.direct import DurableBinding
    from emulator.functions.exchange import Exchange
    from emulator.functions.web_proxy import WebProxy

_log = logging.getLogger("functions.host")
_ENTRY = Path(__file__).parent / "app" / "__main__.py"
_INDEX_SECONDS = 120.0


class _EndedEarlyError(AppLoadError):
    """The app process ended before it reported its functions."""


class AppProcess:
    """One run of the app process, which implements LoadedApp. `start_app` creates this object.

    `ended` is set when the process has ended or the connection to the process is lost.
    """

    def __init__(self, child: asyncio.subprocess.Process, host_pipe: int) -> None:
        loop = asyncio.get_running_loop()
        self.functions: list[dict[str, Any]] = []
        self.has_web_extension = False
        self._web: WebProxy | None = None
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
    def has_ended(self) -> bool:
        """Whether the process has ended, or the connection to it is lost."""
        return self.ended.is_set()

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

    async def invoke_web(self, call: list[Any], exchange: "Exchange") -> InvocationResponse:
        """Send an invocation, and forward its request to the server of the web extension."""
        if self._web is None:
            return await self.invoke(call, b"")  # as in Azure, the function waits for its request
        from emulator.functions.exchange import invoke_and_forward  # noqa: PLC0415 - for few apps

        return await invoke_and_forward(self._web, exchange, call[-1], self.invoke(call, b""))

    def begin(self, durable: "DurableBinding | None") -> None:
        """Send the JSON of the durable client, or None, before the first `invoke`."""
        self.connection.send(["begin", durable and durable.text])

    def kill(self) -> None:
        """Kill the process. Invocations in flight raise AppUnavailable."""
        if self._child.returncode is None:
            self._child.kill()

    def give_up(self, function: str) -> None:
        """Kill the process, because a running function cannot be stopped in another way."""
        _log.debug("the app process is killed because the function %s has hung", function)
        self.kill()

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
                self._set_web(head[2])
                self.indexed.set_result(head[1])
        elif number == "refused":
            if not self.indexed.done():
                _log.error("%s", str(head[2]).rstrip())
                self.indexed.set_exception(AppLoadError(str(head[1])))
        else:
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_result((head[1:], body))

    def _set_web(self, address: str | None) -> None:
        self.has_web_extension = address is not None
        if address:
            from emulator.functions.web_proxy import WebProxy  # noqa: PLC0415 - for few apps

            self._web = WebProxy(address)

    def _on_lost(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("the connection to the app process is lost: %s", error)
        self.ended.set()
        if self._web is not None:
            self._web.close()
        if not self.indexed.done():
            self.indexed.set_exception(_EndedEarlyError())
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(AppUnavailable("the app process ended"))
        self._waiting.clear()


async def start_app(source: AppSource) -> AppProcess:
    """Start an app process, and wait until it has reported its functions.

    Raises AppLoadError if the process cannot be started, if it does not load the app within 120 s,
    or if the app does not have functions.
    """
    ours, theirs = socket.socketpair()
    host_pipe_read, host_pipe_write = os.pipe()
    descriptors = ["--socket", str(theirs.fileno()), "--host-pipe", str(host_pipe_read)]
    try:
        child = await asyncio.create_subprocess_exec(
            source.python,
            str(_ENTRY),
            *_arguments(source),
            *descriptors,
            cwd=source.folder,
            env=dict(source.settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            pass_fds=(theirs.fileno(), host_pipe_read),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        os.close(host_pipe_write)
        raise AppLoadError(f"{source.python} cannot be started: {error}") from error
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
    require_functions(process.functions)
    return process


def _arguments(source: AppSource) -> list[str]:
    threads = source.read_thread_count()
    return [
        *("--folder", str(source.folder), "--script", source.script),
        *(() if threads is None else ("--threads", str(threads))),
        *("--log-level", source.log_level),
    ]


def describe_status(status: int) -> str:
    """Return an exit status in words, for example `exited with status 1`."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"
