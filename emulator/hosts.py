"""Refuse requests that a web page sends to a local service under another name (DNS rebinding).

A page's own name can resolve to 127.0.0.1. The browser then treats the service as the page's own
server, and lets the page read its answers. Such a request has the page's name in its Host header.
So a service answers only requests for loopback names, and for names that the user allowed.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Application = Callable[[_Scope, _Receive, _Send], Awaitable[None]]

_AUTHORITY = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{0,5})?")
_REFUSAL = (
    b"HostNotAllowed: this service answers only requests for localhost and other loopback names. "
    b"To allow another name, start it with --allow-host NAME.\n"
)


def parse_host(authority: str) -> str | None:
    """Return the name in a Host header, in lower case and without the port.

    The result is None if the header is not `name` or `name:port`.
    """
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else (found[1] or found[2]).lower().removesuffix(".")


def is_loopback(name: str) -> bool:
    """Return whether a name always means this machine: localhost, *.localhost, 127.0.0.1, ::1."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        # Browsers and resolvers do not look up names under localhost (RFC 6761, section 6.3).
        return name == "localhost" or name.endswith(".localhost")


class HostRules:
    """Decides under which names a service answers."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Allow the loopback names, and the names in `allowed`, which have no port."""
        self._allowed = frozenset(name.lower().removesuffix(".") for name in allowed)
        # A service is asked for few names, and once for each request.
        self.allows = lru_cache(maxsize=64)(self._allows)

    def allows_origin(self, origin: str) -> bool:
        """Return whether a page of this origin, for example `http://localhost:3000`, is allowed."""
        try:
            return self.allows(urlsplit(origin).netloc)
        except ValueError:
            return False

    def _allows(self, authority: str) -> bool:
        name = parse_host(authority)
        return name is not None and (is_loopback(name) or name in self._allowed)


class HostFilter:
    """ASGI middleware that answers 421 to requests for a host that the rules do not allow.

    A request without a Host header goes to the application. Browsers always send the header.
    """

    def __init__(self, application: _Application, rules: HostRules) -> None:
        self._application = application
        self._rules = rules

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass the request to the application, or refuse it."""
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"host" and not self._rules.allows(value.decode("latin-1")):
                    await _refuse(send, value)
                    return
        await self._application(scope, receive, send)


class OriginFilter:
    """ASGI middleware that answers 403 to requests that a page of a forbidden origin sends.

    Browsers name the page's origin in each request that is not a plain GET, and other clients send
    no Origin header. The middleware is for routes that change something and need no key.
    """

    def __init__(self, application: _Application, rules: HostRules) -> None:
        self._application = application
        self._rules = rules

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass the request to the application, or refuse it."""
        for name, value in scope["headers"]:
            if name == b"origin" and not self._rules.allows_origin(value.decode("latin-1")):
                await _respond(send, 403, b"OriginNotAllowed: a page of this origin is refused.\n")
                return
        await self._application(scope, receive, send)


async def _refuse(send: _Send, host: bytes) -> None:
    if parse_host(host.decode("latin-1")) is None:
        await _respond(send, 400, b"InvalidHost: the Host header is not valid.\n")
    else:
        await _respond(send, 421, _REFUSAL)


async def _respond(send: _Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
