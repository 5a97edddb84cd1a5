"""Read requests: the caller, the job, the body and the options.

RFC 9110 defines the choice of a media type, and RFC 7240 the Prefer header.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from contract import media
from contract.catalogue import Catalogue, ModelEntry
from contract.media import essence
from contract.messages import Json
from gateway import problems
from gateway.batches.ids import is_batch_id
from gateway.batches.model import BatchSpec
from gateway.bodies import HeldBytes, IncomingBody
from gateway.durable import Durable, InstanceSnapshot
from gateway.jobs.lifecycle import caller_gone
from gateway.jobs.model import JobResource, Record, job_resource, tenant_of
from gateway.jobs.search import JOB_ID
from gateway.json_text import parse_json
from gateway.keys import Caller, Scope
from gateway.problems import HttpProblem, malformed, missing_scope
from gateway.services import Services
from gateway.settings import MAX_WAIT_SECONDS
from gateway.submission.parse import RequestParts, find_model
from gateway.telemetry import traceparent_of

MAX_SMALL_BYTES: Final = 16 * 1024


def services_of(request: Request) -> Services:
    """Return the components of the gateway that serves this request."""
    services: Services = request.app.state.services
    return services


def durable_of(request: Request) -> Durable:
    """Return the Durable Functions client that belongs to this request."""
    durable: Durable = request.scope["durable"]
    return durable


def caller_of(request: Request) -> Caller:
    """Return the caller that the authentication middleware has found for this request."""
    caller: Caller = request.scope["gateway.caller"]
    return caller


def charge_jobs(request: Request, job_count: int) -> None:
    """Count the jobs of a request, except the first, against the caller's rate limit."""
    charge: Callable[[int], None] = request.scope["gateway.charge"]
    charge(max(0, job_count - 1))


def require_scope(request: Request, *sufficient: Scope) -> None:
    """Raise the problem `forbidden` if the caller does not have at least one of these scopes."""
    if caller_of(request).scopes.isdisjoint(sufficient):
        raise missing_scope(*sufficient)


def check_operator(
    request: Request,
    options: Collection[str] = (),
    scopes: Collection[Scope] = (Scope.ADMIN, Scope.OPS_READ),
) -> Services:
    """Return the components, after checking an operator's request with these query parameters."""
    require_scope(request, *scopes)
    refuse_unknown_query(request, options)
    return services_of(request)


def visible_tenant(request: Request, given: str | None = None) -> str | None:
    """Return the tenant whose jobs the caller may see; None for all tenants.

    `given` is the query parameter `tenant`. Raises the problem `forbidden`.
    """
    caller = caller_of(request)
    if given is None and Scope.OPS_READ in caller.scopes:
        return None
    if given is None or (given == caller.tenant and not caller.is_operator):
        require_scope(request, Scope.JOBS_READ)
        return caller.tenant
    require_scope(request, Scope.OPS_READ, Scope.ADMIN)
    return None if given == "*" else given


def find_versions(catalogue: Catalogue, name: str) -> tuple[ModelEntry, ...]:
    """Return the version with this name, or all versions of the model with this name."""
    find_model(catalogue, name)
    return catalogue.matching(name)


async def find_own_job(request: Request, job_id: str) -> Record:
    """Return a job of the caller's tenant. Raises `unknown-job` for jobs of other tenants too."""
    jobs = services_of(request).jobs
    found = await jobs.find(durable_of(request), check_job_id(job_id))
    if found is None or tenant_of(found) != caller_of(request).tenant:
        raise unknown_job(job_id)
    return found


async def find_visible_instance(
    request: Request, job_id: str, tenant: str | None = None
) -> tuple[InstanceSnapshot, Record]:
    """Return the orchestration and the record of a job that the caller may see."""
    visible = visible_tenant(request, tenant)
    jobs = services_of(request).jobs
    instance = await jobs.snapshot(durable_of(request), check_job_id(job_id))
    found = await jobs.record_of(job_id, instance) if instance else None
    if instance is None or found is None or visible not in {None, tenant_of(found)}:
        raise unknown_job(job_id)
    return instance, found


def shown_job(request: Request, job_id: str, record: Record) -> JobResource:
    """Return what the caller may see: operators the tenant, and the tenant's readers the result."""
    job, caller, tenant = job_resource(job_id, record), caller_of(request), tenant_of(record)
    if caller.is_operator and tenant:
        job["tenant"] = tenant
    if tenant != caller.tenant or Scope.JOBS_READ not in caller.scopes:
        job["result"] = None
        for named in job["results"].values():
            named.pop("json", None)
    return job


def check_job_id(job_id: str) -> str:
    """Return `job_id` if it has the form of a job id. Otherwise raise the problem `unknown-job`."""
    # The SDK does not escape an id in its URLs, so an id with "?" or "/" could request something
    # else, for example all instances.
    if not JOB_ID.fullmatch(job_id):
        raise unknown_job(job_id)
    return job_id


def unknown_job(job_id: str) -> HttpProblem:
    """Return the problem `unknown-job` for this job id."""
    return HttpProblem(
        problems.UNKNOWN_JOB, f"there is no job {job_id[:100]!r}, or it has been deleted"
    )


async def find_batch(request: Request, batch_id: str, tenant: str | None) -> BatchSpec:
    """Return a batch of this tenant, or of any if None. Raises the problem `unknown-batch`."""
    store = services_of(request).batch_store
    spec = await store.spec(batch_id) if is_batch_id(batch_id) else None
    if spec is None or tenant not in {None, spec.tenant}:
        raise HttpProblem(
            problems.UNKNOWN_BATCH, f"there is no batch {batch_id[:100]!r}, or it has been deleted"
        )
    return spec


def announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """Return the value of the Content-Length header; 0 if it is missing or not a number."""
    text = next((value for name, value in headers if name == b"content-length"), b"")
    return int(text[:15]) if text.isdigit() else 0


def body_of(request: Request, held: HeldBytes | None = None) -> IncomingBody:
    """Return the body of a request, whose memory is counted by `held`."""
    # `Request.body` is not used, because it would keep the body as long as the request.
    return IncomingBody(request.stream(), announced_bytes(request.headers.raw), held)


async def read_limited(request: Request, limit_bytes: int, too_large: str) -> bytes:
    """Return the body of a request. Raises `payload-too-large` with the detail `too_large`."""

    def check(size_bytes: int) -> None:
        if size_bytes > limit_bytes:
            raise HttpProblem(problems.PAYLOAD_TOO_LARGE, too_large, limit_bytes=limit_bytes)

    body = body_of(request)
    body.limit(check)
    return await body.read()


async def read_small_json(request: Request, hint: str = "") -> Json:
    """Return the JSON in a body of up to MAX_SMALL_BYTES. `hint` is advice for a larger one."""
    too_large = f"the body has more than {MAX_SMALL_BYTES} bytes, the most that is allowed{hint}"
    body = await read_limited(request, MAX_SMALL_BYTES, too_large)
    try:
        return parse_json(body)
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None


def read_parts(
    request: Request,
    options: Mapping[str, str | None],
    held: HeldBytes,
    *,
    is_pinned: bool,
    wants_stream: bool = False,
) -> RequestParts:
    """Return what a request, with these options in its query, says about its jobs."""
    content_type = request.headers.get("content-type", "")
    return RequestParts(
        content_type=content_type,
        content_encoding=request.headers.get("content-encoding", ""),
        body=body_of(request, held),
        options={name: value for name, value in options.items() if value is not None},
        tenant=caller_of(request).tenant,
        is_pinned=is_pinned,
        traceparent=traceparent_of(request.scope),
        media_type=essence(content_type),
        wants_stream=wants_stream,
    )


@contextmanager
def noticing_hang_up(request: Request) -> Iterator[None]:
    """End the waits for jobs in the `with` block if the caller disconnects.

    Then ClientDisconnect is raised at the end of the block. A wait may begin only when the body has
    been read, because it reads what follows the body.
    """
    watching: list[asyncio.Task[None]] = []

    def watch() -> asyncio.Task[None]:
        if not watching:
            watching.append(asyncio.create_task(wait_for_hang_up(request.receive)))
        return watching[0]

    token = caller_gone.set(watch)
    try:
        yield
    finally:
        caller_gone.reset(token)
        for task in watching:
            task.cancel()
    if any(task.done() for task in watching):
        raise ClientDisconnect


async def wait_for_hang_up(receive: Receive) -> None:
    """Return when the caller has disconnected. The body of the request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def refuse_unknown_query(request: Request, known: Collection[str] = ()) -> None:
    """Raise the problem `malformed-request` if a query parameter is unknown or repeated."""
    for name in request.query_params:
        if name not in known:
            wanted = f"; expected one of {', '.join(sorted(known))}" if known else ""
            raise malformed(f"unknown query parameter {name[:100]!r}{wanted}")
        if len(request.query_params.getlist(name)) > 1:
            raise malformed(f"{name}: this option is given more than once; give it only once")


DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
"""The largest number of items on a page of a list."""


def parse_limit(text: str | None) -> int:
    """Return the largest number of items on a page, from the query parameter `limit`."""
    return parse_whole("limit", text, DEFAULT_LIMIT, MAX_LIMIT)


def parse_whole(name: str, text: str | None, default: int, highest: int) -> int:
    """Return the number from 1 to `highest` in a query parameter; the default if it is absent."""
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest:
        return int(text)
    raise malformed(f"{name}: expected a whole number from 1 to {highest}")


_TIME: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII
)


# No job is older. Calculations with much earlier times could fail.
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_time(name: str, text: str | None) -> datetime | None:
    """Return the RFC 3339 time in the query parameter `name`; None if it is absent."""
    if text is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):  # there is no such day or hour
        if _TIME.fullmatch(text):
            return max(_EPOCH, datetime.fromisoformat(text.upper()).astimezone(UTC))
    raise malformed(f"{name}: expected a time with a time zone, for example 2026-03-01T12:00:00Z")


KEY_HEADER: Final = "Idempotency-Key"

_MAX_KEY_CHARACTERS: Final = 255
# A quoted String of RFC 9651 section 3.3.3, or characters that a header allows without quotes.
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE_KEY: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]+")


def idempotency_key_of(request: Request) -> str | None:
    """Return the Idempotency-Key of a request; None if it has none."""
    try:
        return parse_key(request.headers.getlist(KEY_HEADER))
    except ValueError as error:
        raise malformed(f"{KEY_HEADER}: {error}") from None


def parse_key(values: Sequence[str]) -> str | None:
    """Return the only value of the Idempotency-Key header. Raises ValueError if it is malformed."""
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("the request contains this header more than once; send it only once")
    text = values[0].strip(" \t")
    quoted = _QUOTED_KEY.fullmatch(text)
    if quoted is None and not _BARE_KEY.fullmatch(text):
        raise ValueError("expected a key in double quotes, or a key without spaces or commas")
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not 1 <= len(key) <= _MAX_KEY_CHARACTERS:
        raise ValueError(f"expected 1 to {_MAX_KEY_CHARACTERS} characters")
    return key


LABEL_HEADER: Final = "Loosely-Label"


def label_option_of(request: Request) -> str | None:
    """Return the label in the header or in the query, whose length is checked later."""
    given = request.headers.getlist(LABEL_HEADER)
    if not given:
        return request.query_params.get("label")
    if len(given) > 1 or "label" in request.query_params:
        raise malformed("label: this option is given more than once; give it once")
    if not given[0].isascii():
        raise malformed(
            f"{LABEL_HEADER}: the label contains characters that are not ASCII; send it in the "
            "query parameter label instead"
        )
    return given[0].strip(" \t")


# The text up to the next comma that is not inside quotes.
_PART: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')


@dataclass(frozen=True, slots=True)
class Preference:
    """The preferences in a Prefer header. `wait_seconds` is at most MAX_WAIT_SECONDS."""

    wait_seconds: int | None = None
    respond_async: bool = False
    stream: bool = False

    def wait_or(self, default_seconds: int) -> int:
        """Return how many seconds to wait: `wait`, or 0 with `respond-async`, or the default."""
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default_seconds

    def applied(self, *, answered_async: bool, streams: bool = False) -> str | None:
        """Return the value of the Preference-Applied header; None if no preference was applied."""
        parts = ["stream"] if self.stream and streams else []
        if self.respond_async and answered_async:
            parts.append("respond-async")
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds}")
        return ", ".join(parts) or None


def parse_prefer(values: Iterable[str]) -> Preference:
    """Read the Prefer headers of a request.

    RFC 7240 ignores unknown and invalid preferences, and those after the first of a name.
    """
    wait_seconds: int | None = None
    respond_async = stream = False
    for part in _PART.findall(",".join(values)):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async" and not value:
            respond_async = True
        elif name == "stream" and not value:
            stream = True
        elif name == "wait" and wait_seconds is None and value.isascii() and value.isdigit():
            # Nine digits always exceed the limit, and int() raises for thousands of digits.
            wait_seconds = min(int(value.lstrip("0")[:9] or "0"), MAX_WAIT_SECONDS)
    return Preference(wait_seconds, respond_async, stream)


_RANGE: Final = re.compile(r"\s*([\w!#$&^.+*-]+)/([\w!#$&^.+*-]+)\s*(?:;(.*))?", re.ASCII)
_WEIGHT: Final = re.compile(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", re.ASCII | re.IGNORECASE)
_MAX_RANGES: Final = 50


def choose_media_type(header: str, offers: Sequence[str]) -> str:
    """Return the offer that the Accept header prefers, and the first of several equal ones.

    If the header accepts no offer, the first is returned, which RFC 9110 allows instead of 406.
    """
    ranges = [found for part in header.split(",")[:_MAX_RANGES] if (found := _parse_range(part))]
    return max(offers, key=lambda offer: _weight(offer, ranges)) if ranges else offers[0]


EVENT_STREAM: Final = "text/event-stream"


def wants_events(request: Request) -> bool:
    """Return whether the Accept header of a request prefers server-sent events to JSON."""
    accept = ",".join(request.headers.getlist("accept"))
    return choose_media_type(accept, (media.JSON, EVENT_STREAM)) == EVENT_STREAM


def _parse_range(part: str) -> tuple[str, float] | None:
    match = _RANGE.fullmatch(part)
    if match is None:
        return None
    weights = [_WEIGHT.fullmatch(parameter) for parameter in (match[3] or "").split(";")]
    weight = next((float(found[1]) for found in weights if found), 1.0)
    return f"{match[1]}/{match[2]}".lower(), min(weight, 1.0)


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight (`q`) of the most specific media range for `offer`; 0 without one."""
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        weights = [weight for found, weight in ranges if found == name]
        if weights:
            return max(weights)
    return 0.0


_TEXT_TYPES = (str, str | None)


class TextRoute(APIRoute):
    """A route that calls its endpoint directly if all path and query parameters are strings.

    FastAPI needs twice the processor time to read them. The OpenAPI document stays the same.

    All endpoints return responses, so only the document needs the models of the responses.
    `documented` builds them, which takes an eighth of the app's start.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        response_model: Any = None,
        responses: dict[int | str, dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        """Check whether the endpoint can be called directly."""
        super().__init__(path, endpoint, response_model=None, **options)
        self._make_documented = partial(
            APIRoute,
            path,
            endpoint,
            response_model=response_model,
            responses=responses,
            **options,
        )
        dependant = self.dependant
        self._queries = {field.alias: field.name for field in dependant.query_params}
        self.is_direct = dependant.request_param_name == "request" and not any(
            (
                dependant.dependencies,
                dependant.body_params,
                dependant.header_params,
                dependant.cookie_params,
                any(
                    field.field_info.annotation not in _TEXT_TYPES
                    for field in (*dependant.path_params, *dependant.query_params)
                ),
            )
        )

    def documented(self) -> APIRoute:
        """Return the same route with the models of its responses, for the OpenAPI document."""
        route = self._make_documented()
        route.unique_id = self.unique_id
        return route

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Call the endpoint, and send its response."""
        if not self.is_direct or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        query = request.query_params
        arguments = {name: query[alias] for alias, name in self._queries.items() if alias in query}
        response = await self.endpoint(request=request, **scope["path_params"], **arguments)
        await response(scope, receive, send)
