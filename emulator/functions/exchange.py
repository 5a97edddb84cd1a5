"""A request that passes through an app's web extension, and why that can fail."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from emulator.functions.asgi import Headers, Receive, Scope, Send, declared_bytes
from emulator.http_server import TRANSPORT

SILENCE_SECONDS = 240.0
"""The host cuts an exchange in which neither side has sent anything for this time."""


class ForwardError(Exception):
    """A request could not be forwarded. `name` is a value of YARP's enumeration ForwarderError.

    `status` is the status for a client that has not received a response yet. `has_arrived` is
    whether the extension has received the request, so that the function has it.
    """

    def __init__(self, name: str, status: int = 500, *, has_arrived: bool = True) -> None:
        super().__init__(f"Failed to proxy request with ForwarderError: {name}")
        self.status = status
        self.has_arrived = has_arrived


class ForwardedBodyTooLarge(ForwardError):
    """The body of the request is larger than the limit of the host."""

    def __init__(self) -> None:
        super().__init__("RequestBodyClient")


@dataclass(slots=True)
class Exchange:
    """A client's request and the response to it. Both bodies pass in pieces."""

    scope: Scope
    client_receive: Receive
    send: Send
    max_body_bytes: int
    is_started: bool = False
    is_complete: bool = False
    first: MutableMapping[str, Any] | None = None
    """The first message of the request, if it has been received and not been passed on."""

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next message of the client: a piece of the body, or that it is gone."""
        if self.first is not None:
            message, self.first = self.first, None
            return message
        return await self.client_receive()

    async def wait_for_body(self) -> bool:
        """Wait for the first piece of a body with Content-Length; return false without one.

        Azure's host, too, invokes the function of such a request only with its body.
        """
        if declared_bytes(self.scope):
            self.first = await self.client_receive()
            return bool(self.first["type"] == "http.request")
        return True

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the response to the client."""
        self.is_started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more_body: bool) -> None:
        """Send a piece of the response's body to the client, who may be slow to read it."""
        self.is_complete = not more_body
        await self.send({"type": "http.response.body", "body": body, "more_body": more_body})

    @property
    def is_client_gone(self) -> bool:
        """Return whether the client has disconnected before the response was complete."""
        return bool(self.scope["extensions"][TRANSPORT].is_closing())

    async def abort(self) -> None:
        """Close the client's connection, so that the response does not look complete."""
        self.scope["extensions"][TRANSPORT].abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass


class ActivityTimer:
    """Calls a function if nothing has happened for a time.

    There is one timer of the event loop at most, which `extend` does not restart.
    """

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._on_silence = on_silence
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def extend(self) -> None:
        """Start the time again, because something has happened."""
        self._deadline = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._look)

    def stop(self) -> None:
        """Do not call the function."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._look)
        else:
            self._on_silence()


class Forwarder(Protocol):
    """Passes requests to the web extension of an app."""

    async def forward(
        self, exchange: Exchange, invocation_id: str, is_over: Callable[[], bool]
    ) -> None:
        """Pass on a request, and the response to the client. Raises ForwardError.

        While the extension is not ready, try again, until `is_over` returns true.
        """
        ...


async def invoke_and_forward(
    forwarder: Forwarder,
    exchange: Exchange,
    invocation_id: str,
    invocation: Coroutine[Any, Any, tuple[list[Any], bytes]],
) -> tuple[list[Any], bytes]:
    """Forward a request while its function runs, and return the response to the invocation.

    As in Azure's host, the invocation lasts until both have ended. Raises ForwardError.
    """
    running = asyncio.create_task(invocation)
    try:
        try:
            await forwarder.forward(exchange, invocation_id, running.done)
        except ForwardError as error:
            # The function would wait for ever for a request that has not arrived.
            if error.has_arrived or running.done():
                answer = await running
                if answer[0][0] == "error":
                    return answer
            raise
        return await running
    finally:
        running.cancel()
