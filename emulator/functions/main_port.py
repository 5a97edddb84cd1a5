"""The main port of the host, which stays open while the app is reloaded."""

import asyncio
import socket
from collections.abc import Sequence

from emulator.functions.asgi import (
    Application,
    Listener,
    Receive,
    Scope,
    Send,
    respond,
)
from emulator.program import HttpLimits

# As in Azure's host, which then responds with the same text.
_HOLD_SECONDS = 30.0
_NOT_RUNNING = b"Function host is not running."


async def respond_not_running(send: Send) -> None:
    """Respond with status 503 and Azure's text for a Functions host that is not running."""
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(_NOT_RUNNING)),
    ]
    await respond(send, 503, headers, _NOT_RUNNING)


class MainPort:
    """Listens on the main port, and passes each request to the current ASGI application.

    After `hold`, new requests wait until `serve` sets the next application. A request that has
    waited for 30 s gets status 503.
    """

    def __init__(self, bound: Sequence[socket.socket], limits: HttpLimits) -> None:
        self.sockets = bound
        self._limits = limits
        self._listener: Listener | None = None
        self._application: Application | None = None
        self._is_open = asyncio.Event()
        self._is_stopping = False
        self._running = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def serve(self, application: Application) -> None:
        """From now on, pass all requests to `application`, including the requests that wait."""
        self._application = application
        self._is_open.set()

    async def start(self) -> None:
        """Start to listen on the main port. If the port is already open, do nothing.

        Raises PortInUse if another program listens on the port.
        """
        if self._listener is None:
            self._listener = Listener(self, self.sockets, self._limits)
            await self._listener.start()

    def hold(self) -> None:
        """Make new requests wait. The requests in flight continue."""
        self._application = None
        self._is_open.clear()

    async def drain(self, timeout_seconds: float) -> None:
        """Wait until no request is in flight, but not longer than `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._is_idle.wait()
        except TimeoutError:
            return

    async def stop(self) -> None:
        """Stop listening, and wait up to 5 s for requests in flight.

        Requests that wait for an application get status 503.
        """
        self._is_stopping = True
        self._is_open.set()
        if self._listener is not None:
            await self._listener.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the current application."""
        application = await self._wait_for_application()
        if application is None:
            await respond_not_running(send)
            return
        self._running += 1
        self._is_idle.clear()
        try:
            await application(scope, receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self._is_idle.set()

    async def _wait_for_application(self) -> Application | None:
        if self._application is None:
            try:
                async with asyncio.timeout(_HOLD_SECONDS):
                    while self._application is None and not self._is_stopping:
                        await self._is_open.wait()
            except TimeoutError:
                return None
        return self._application
