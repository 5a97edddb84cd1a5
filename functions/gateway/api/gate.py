"""The gate in front of all routes: who asks, may they, and not too often.

Plain ASGI rather than Starlette's BaseHTTPMiddleware, which runs each request in a task of its own.
"""

from collections.abc import Iterable
from typing import Final

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problems
from gateway.access import principal
from gateway.access.callers import NOBODY_IN_PARTICULAR, STRANGER, Caller
from gateway.access.keys import KeyRing
from gateway.access.rates import Decision, Limiter
from gateway.api.access import is_open, wanted_scope
from gateway.api.context import traceparent_of
from gateway.api.responses import problem_response
from gateway.problems import Problem
from gateway.services import Services
from gateway.tracing import Answered

_CHALLENGE: Final = 'Bearer realm="loosely"'


class Gate:
    """Lets requests through to the app with their caller in `scope["gateway.caller"]`."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        settings = services.settings
        self._is_closed = not settings.is_open
        self._trusts_principals = settings.trust_principal_header
        self._keys = KeyRing(settings.api_keys)
        self._limiter = Limiter(services.clock)
        self._tracing = services.tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on. The body of an answer to HEAD is left out by the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        with self._tracing.request(scope) as answered:
            await self._serve(scope, receive, _telling(answered, send) if answered else send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        headers = {"traceresponse": traceparent_of(request)}
        send = _adding(headers, send)
        try:
            scope["gateway.caller"] = self._admit(scope, headers)
        except Problem as problem:
            await problem_response(request, problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope, headers: dict[str, str]) -> Caller:
        """The caller; raises Problem. Adds to `headers` what its answer has to say of its rate."""
        method, path = scope["method"], scope["path"]
        if not self._is_closed:
            return NOBODY_IN_PARTICULAR
        if is_open(method, path):
            return STRANGER
        caller = self._caller(scope["headers"])
        if caller.rate is not None:
            decision = self._limiter.take(caller.name, caller.rate)
            headers |= {"RateLimit": decision.header, "RateLimit-Policy": caller.rate.policy}
            if not decision.is_allowed:
                raise _rate_limited(decision)
        wanted = wanted_scope(method, path)
        if wanted is not None and wanted not in caller.scopes:
            raise Problem(problems.FORBIDDEN, f"the key does not have the scope {wanted}")
        return caller

    def _caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        given = dict(headers)
        key = _key(given)
        found = self._keys.caller(key) if key else None
        if found is None and self._trusts_principals:
            found = principal.caller(given.get(principal.HEADER, b""))
        if found is None:
            detail = "the key is not valid" if key else "there is no key with the request"
            error = ', error="invalid_token"' if key else ""
            raise Problem(
                problems.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": _CHALLENGE + error}
            )
        return found


def _key(headers: dict[bytes, bytes]) -> bytes:
    kind, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return credentials.strip()
    return headers.get(b"x-api-key", b"").strip()


def _rate_limited(decision: Decision) -> Problem:
    seconds = decision.retry_after_seconds
    return Problem(
        problems.RATE_LIMITED,
        f"the key's rate is used up; the next request may come in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )


def _telling(answered: Answered, send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered(message["status"])
        await send(message)

    return sending


def _adding(headers: dict[str, str], send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = MutableHeaders(scope=message)
            for name, value in headers.items():
                fields[name] = value
        await send(message)

    return sending
