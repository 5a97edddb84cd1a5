"""A request that passes through an app's web extension, and why that can fail."""

from dataclasses import dataclass

from emulator.functions.asgi import Headers, Receive, Scope, Send
from emulator.http_server import ABORT


class ForwardError(Exception):
    """A request could not be forwarded. The error's text is the name of YARP's ForwarderError.

    `status` is the status for a client that has not received a response yet. `has_arrived` is
    whether the server has received the request, so that the function has it.
    """

    def __init__(self, name: str, status: int = 500, *, has_arrived: bool = True) -> None:
        super().__init__(f"Failed to proxy request with ForwarderError: {name}")
        self.status = status
        self.has_arrived = has_arrived


class RequestTooLarge(ForwardError):
    """The body of the request is larger than the limit of the host."""

    def __init__(self) -> None:
        super().__init__("RequestBodyClient")


@dataclass(slots=True)
class Exchange:
    """A client's request and the response to it, which passes to the client in pieces."""

    scope: Scope
    receive: Receive
    send: Send
    max_body_bytes: int
    is_started: bool = False
    is_complete: bool = False

    async def start(self, status: int, headers: Headers) -> None:
        """Send the head of the response to the client."""
        self.is_started = True
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, body: bytes, *, more_body: bool) -> None:
        """Send a piece of the response's body to the client."""
        self.is_complete = not more_body
        await self.send({"type": "http.response.body", "body": body, "more_body": more_body})

    async def abort(self) -> None:
        """Close the client's connection, so that the response does not look complete."""
        self.scope["extensions"][ABORT]()
        while (await self.receive())["type"] != "http.disconnect":
            pass
