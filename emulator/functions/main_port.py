"""The ports of the host, which stay open while the app is reloaded."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.functions.asgi import (
    Application,
    Listener,
    Receive,
    Scope,
    Send,
    respond,
)
from emulator.program import HttpLimits

Respond = Callable[[Any], Awaitable[Any]]
# As in Azure's host, which then responds with the same text.
_HOLD_SECONDS = 30.0
NOT_RUNNING = b"Function host is not running."


async def respond_not_running(send: Send) -> None:
    """Respond with status 503 and Azure's text for a Functions host that is not running."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(NOT_RUNNING)),
    ]
    await respond(send, 503, headers, NOT_RUNNING)


class _Served:
    """An ASGI application that a port serves, and the number of its requests in flight."""

    def __init__(self, application: Application, respond: Respond | None = None) -> None:
        self.application = application
        self.respond = respond
        self.running = 0
        self.is_idle = asyncio.Event()
        self.is_idle.set()

    def add(self, count: int) -> None:
        """Count a request that begins (1) or ends (-1)."""
        self.running += count
        if self.running:
            self.is_idle.clear()
        else:
            self.is_idle.set()


class MainPort:
    """Listens on a port, and passes each request to the current ASGI application.

    After `hold`, new requests wait until `serve` sets the next application. A request that has
    waited for 30 s gets status 503.
    """

    def __init__(self, bound: Sequence[socket.socket], limits: HttpLimits) -> None:
        self.sockets = bound
        self._limits = limits
        self._listener: Listener | None = None
        self._served: _Served | None = None
        self._held: list[_Served] = []
        self._is_open = asyncio.Event()
        self._is_stopping = False

    def serve(self, application: Application, respond: Respond | None = None) -> None:
        """From now on, pass all requests to `application`, including the requests that wait.

        `respond` is for the requests of `call`.
        """
        self._served = _Served(application, respond)
        self._is_open.set()

    async def start(self) -> None:
        """Start to listen on the port. If the port is already open, do nothing."""
        if self._listener is None:
            self._listener = Listener(self, self.sockets, self._limits)
            await self._listener.start()

    def hold(self) -> asyncio.Event:
        """Make new requests wait; return an event that is set while none is in flight."""
        self._held = [served for served in self._held if served.running]
        if self._served is not None:
            self._held.append(self._served)
        self._served = None
        self._is_open.clear()
        return self._held[-1].is_idle if self._held else _Served(self).is_idle

    async def drain(self, timeout_seconds: float) -> None:
        """Wait at most `timeout_seconds` until no request is in flight, after `hold`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                for served in self._held:
                    await served.is_idle.wait()
        except TimeoutError:
            return

    async def stop(self) -> None:
        """Stop listening, wait up to 5 s for requests in flight, and refuse the others."""
        self._is_stopping = True
        self._is_open.set()
        if self._listener is not None:
            await self._listener.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the current application."""
        served = await self._wait_for_application()
        if served is None:
            await respond_not_running(send)
            return
        served.add(1)
        try:
            await served.application(scope, receive, send)
        finally:
            served.add(-1)

    async def call(self, request: Any) -> Any:
        """Pass a request that comes from this process; return None if no application responds."""
        served = await self._wait_for_application()
        if served is None or served.respond is None:
            return None
        served.add(1)
        try:
            return await served.respond(request)
        finally:
            served.add(-1)

    async def _wait_for_application(self) -> _Served | None:
        if self._served is None:
            try:
                async with asyncio.timeout(_HOLD_SECONDS):
                    while self._served is None and not self._is_stopping:
                        await self._is_open.wait()
            except TimeoutError:
                return None
        return self._served


@dataclass(frozen=True, slots=True)
class HostPorts:
    """The port of the HTTP triggers, and the port of the API for the durable client."""

    main: MainPort
    rpc: MainPort
