"""Authenticate requests by an API key, or by a header of Azure App Service.

Workers send the reply token of their job, which their routes check. Every route needs a key unless
`_OPEN` lists its path, so a new route is protected by default.
"""

import base64
import binascii
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from fastapi import Request
from starlette import types
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Send

from gateway import problems
from gateway.clock import Clock
from gateway.http.responses import problem_response
from gateway.keys import ANONYMOUS, OPEN_CALLER, Caller, KeyRing, Scope
from gateway.problems import HttpProblem, missing_scope
from gateway.rates import RateLimiter
from gateway.settings import GatewaySettings
from gateway.telemetry import GatewayTracing, ReportStatus, traceparent_of

# Workers send a reply token to their routes. Health probes and readers of the documentation
# have no key.
_OPEN: Final = re.compile(
    r"/"
    r"|/openapi\.json"
    r"|/docs(?:/[^/]+)?"
    r"|/ops"
    r"|/play"
    r"|/pages/.+"
    r"|/schemas/[^/]+"
    r"|/v[12]/health/[^/]+"
    r"|/v1/jobs/[^/]+/(?:reply|progress|children)"
    r"|/v1/replies"
)
_ANY_KEY: Final = re.compile(r"/v1/models(?:/[^/]+)?|/v2(?:/models/[^/]+(?:/.+)?)?")
# Routes that show operators the jobs and batches of all tenants, but not what these contain.
_OPERATED: Final = re.compile(
    r"/v1/jobs(?:/[^/]+(?:/(?:timeline|webhook))?)?|/v1/batches(?:/[^/]+)?"
)
_CANCELLED: Final = re.compile(r"/v1/(?:jobs|batches)/[^/]+")
_ADMIN: Final = re.compile(r"/metrics|/v1/(?:admin|dead-letters|ops)(?:/.*)?", re.DOTALL)


def is_open(method: str, path: str) -> bool:
    """Return whether a request with this method and path is allowed without a key."""
    return method == "OPTIONS" or _OPEN.fullmatch(path) is not None


def sufficient_scopes(method: str, path: str) -> tuple[Scope, ...]:
    """Return the scopes of which a key needs one for this request; empty if any key is sufficient.

    With a scope for operators, the route itself must check which tenants the caller may see.
    """
    if _ADMIN.fullmatch(path):
        return (Scope.ADMIN, Scope.OPS_READ) if method == "GET" else (Scope.ADMIN,)
    if method == "DELETE" and _CANCELLED.fullmatch(path):
        return (Scope.JOBS_WRITE, Scope.ADMIN)
    if method != "GET":
        return (Scope.JOBS_WRITE,)
    if _ANY_KEY.fullmatch(path):
        return ()
    if _OPERATED.fullmatch(path):
        return (Scope.JOBS_READ, Scope.OPS_READ, Scope.ADMIN)
    return (Scope.JOBS_READ,)


PRINCIPAL_HEADER: Final = b"x-ms-client-principal"

# Each claim has a short and a long name, and the platform may send either of them.
_TENANT_CLAIM: Final = ("tid", "http://schemas.microsoft.com/identity/claims/tenantid")
_OBJECT_CLAIM: Final = ("oid", "http://schemas.microsoft.com/identity/claims/objectidentifier")
_ROLES_CLAIM: Final = ("roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role")
_SCOPES_CLAIM: Final = ("scp", "http://schemas.microsoft.com/identity/claims/scope")


def read_principal(header: bytes) -> Caller | None:
    """Return the caller in the header `x-ms-client-principal`; None if it is not valid.

    The header contains the JSON object {"claims": [{"typ", "val"}, …], "role_typ": …} in base64.
    App Service sets it after it has checked a Microsoft Entra token, and removes it from incoming
    requests. An app role or a delegated scope with the name of a Scope gives this Scope.
    """
    try:
        principal = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(principal, Mapping):
        return None
    claims = list(_read_claims(principal))
    tenant = next(_claim_values(claims, _TENANT_CLAIM), "")
    name = next(_claim_values(claims, _OBJECT_CLAIM), "")
    if not tenant or not name:
        return None
    granted = {*_claim_values(claims, (*_ROLES_CLAIM, str(principal.get("role_typ"))))}
    for several in _claim_values(claims, _SCOPES_CLAIM):
        granted |= set(several.split())
    return Caller(name, tenant, frozenset(scope for scope in Scope if scope in granted))


def _read_claims(principal: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    claims = principal.get("claims")
    for claim in claims if isinstance(claims, list) else ():
        if isinstance(claim, Mapping):
            name, value = claim.get("typ"), claim.get("val")
            if isinstance(name, str) and isinstance(value, str):
                yield name, value


def _claim_values(claims: list[tuple[str, str]], names: tuple[str, ...]) -> Iterator[str]:
    return (value for name, value in claims if name in names)


_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


def is_from_foreign_page(
    headers: Iterable[tuple[bytes, bytes]], allowed_origins: Collection[str]
) -> bool:
    """Return whether a web page from an origin that is not allowed sent this request.

    A page may send a form or plain text to any site without a preflight request, so it could run
    jobs on a gateway without API keys. Browsers add headers that name the origin of the page, which
    the page cannot change. Pages of the gateway itself are always allowed.
    """
    given = dict(headers)
    origin = given.get(b"origin", b"").decode("latin-1")
    if "*" in allowed_origins or (origin and origin in allowed_origins):
        return False
    if (site := given.get(b"sec-fetch-site")) is not None:
        return site not in {b"same-origin", b"none"}
    # Browsers that do not send Sec-Fetch-Site send at least the origin. It may be `null`.
    return bool(origin) and origin.partition("://")[2] != given.get(b"host", b"").decode("latin-1")


_CHALLENGE: Final = 'Bearer realm="loosely"'


class AuthenticationMiddleware:
    """ASGI middleware that refuses unauthenticated requests.

    It stores the caller in `scope["gateway.caller"]`. In `scope["gateway.charge"]` it stores a
    function that counts further jobs against the caller's rate limit, because each request is
    counted as one job. Starlette's BaseHTTPMiddleware would create a task for each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: GatewaySettings,
        tracing: GatewayTracing,
        clock: Clock,
    ) -> None:
        self._app = app
        self._is_closed = not settings.is_open
        self._trusts_principals = settings.trust_principal_header
        self._allowed_origins = settings.cors_origins
        self._keys = KeyRing(settings.api_keys)
        self._limiter = RateLimiter(clock)
        self._tracing = tracing

    async def __call__(self, scope: types.Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request to the app, and answer any other with a problem document."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        with self._tracing.request(scope) as report_status:
            headers = {"traceresponse": traceparent_of(scope)}
            send = _completing(headers, report_status, send)
            await self._serve(scope, receive, send, headers)

    async def _serve(
        self, scope: types.Scope, receive: Receive, send: Send, headers: dict[str, str]
    ) -> None:
        try:
            caller = scope["gateway.caller"] = self._authenticate(scope, headers)
        except HttpProblem as problem:
            await problem_response(Request(scope), problem)(scope, receive, send)
            return
        scope["gateway.charge"] = partial(self._charge, caller, headers)
        await self._app(scope, receive, send)

    def _authenticate(self, scope: types.Scope, headers: dict[str, str]) -> Caller:
        """Return the caller of a request, and add the headers of its rate limit to `headers`."""
        method, path = scope["method"], scope["path"]
        if method not in _SAFE_METHODS and is_from_foreign_page(
            scope["headers"], self._allowed_origins
        ):
            raise HttpProblem(
                problems.CROSS_ORIGIN,
                "the request comes from a web page whose origin is not in the setting CORS_ORIGINS",
            )
        if not self._is_closed:
            return OPEN_CALLER
        if is_open(method, path):
            return ANONYMOUS
        caller = self._find_caller(scope["headers"])
        if caller.rate is not None:
            decision = self._limiter.take(caller.name, caller.rate)
            headers |= {"RateLimit": decision.header, "RateLimit-Policy": caller.rate.policy}
            if not decision.is_allowed:
                seconds = decision.retry_after_seconds
                raise HttpProblem(
                    problems.RATE_LIMITED,
                    f"the rate limit of the API key is exceeded; try again in {seconds} s",
                    headers={"Retry-After": str(seconds)},
                )
        sufficient = sufficient_scopes(method, path)
        if sufficient and caller.scopes.isdisjoint(sufficient):
            raise missing_scope(*sufficient)
        return caller

    def _charge(self, caller: Caller, headers: dict[str, str], count: int) -> None:
        """Count `count` more jobs against the caller's rate limit, even if they exceed it."""
        if caller.rate is not None and count:
            decision = self._limiter.charge(caller.name, caller.rate, count)
            headers["RateLimit"] = decision.header

    def _find_caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        given = dict(headers)
        key = _read_key(given)
        found = self._keys.caller(key) if key else None
        if found is None and self._trusts_principals:
            found = read_principal(given.get(PRINCIPAL_HEADER, b""))
        if found is None:
            detail = "the API key is not valid" if key else "the request has no API key"
            error = ', error="invalid_token"' if key else ""
            raise HttpProblem(
                problems.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": _CHALLENGE + error}
            )
        return found


def _read_key(headers: dict[bytes, bytes]) -> bytes:
    kind, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return credentials.strip()
    return headers.get(b"x-api-key", b"").strip()


def _completing(headers: dict[str, str], report_status: ReportStatus | None, send: Send) -> Send:
    """Add the headers to the response, and report its status."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = MutableHeaders(scope=message)
            for name, value in headers.items():
                fields[name] = value
            if report_status is not None:
                report_status(message["status"])
        await send(message)

    return sending
