"""Refuse requests for host names that are not allowed, to prevent DNS rebinding.

The owner of a web page can make the page's host name resolve to 127.0.0.1. The browser then treats
a local service as the page's own server, and lets the page read the responses. The Host header of
such a request contains the page's host name. Therefore a service serves only requests for loopback
names, and for names that the user has allowed.
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
    """Return the host name in a Host header, in lower case and without the port."""
    found = _AUTHORITY.fullmatch(authority)
    return None if found is None else (found[1] or found[2]).lower().removesuffix(".")


def is_loopback(name: str) -> bool:
    """Return whether a host name always means this machine, such as localhost or 127.0.0.1."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        # Browsers and resolvers do not look up names under localhost (RFC 6761, section 6.3).
        return name == "localhost" or name.endswith(".localhost")


class HostRules:
    """The host names for which a service serves requests."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Allow the loopback names, and the names in `allowed`, which must not contain a port."""
        self._allowed = frozenset(name.lower().removesuffix(".") for name in allowed)
        # Each request is checked, but requests contain only a few different names.
        self.allows = lru_cache(maxsize=64)(self._allows)

    def allows_origin(self, origin: str) -> bool:
        """Return whether a page's origin, such as `http://localhost:3000`, is allowed."""
        try:
            return self.allows(urlsplit(origin).netloc)
        except ValueError:
            return False

    def _allows(self, authority: str) -> bool:
        name = parse_host(authority)
        return name is not None and (is_loopback(name) or name in self._allowed)


class HostFilter:
    """ASGI middleware that refuses a request for a host that the rules do not allow.

    The response has status 421, or 400 if the Host header is not valid. A request without a Host
    header is passed to the application, because it cannot come from a browser.
    """

    def __init__(self, application: _Application, rules: HostRules) -> None:
        self._application = application
        self._rules = rules

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass the request to the application if the host is allowed, otherwise refuse it."""
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"host" and not self._rules.allows(value.decode("latin-1")):
                    await _refuse(send, value)
                    return
        await self._application(scope, receive, send)


class OriginFilter:
    """ASGI middleware that responds with 403 if the origin of a page is not allowed.

    The middleware protects routes that change data but need no key. A browser sends the page's
    origin in the Origin header of each request except a plain GET. Other clients do not send this
    header.
    """

    def __init__(self, application: _Application, rules: HostRules) -> None:
        self._application = application
        self._rules = rules

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass the request to the application, or respond with 403 if the origin is not allowed."""
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
