"""Functions with which a route reads its request: the caller, the job, the body and the options.

They follow RFC 9110 for the choice of a media type, RFC 7240 for the Prefer header, and RFC 8259
for JSON.
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from contract.catalogue import Catalogue, ModelEntry
from contract.errors import UnknownModel
from contract.messages import Json
from gateway.durable import Durable, InstanceSnapshot
from gateway.http import problems
from gateway.http.keys import Caller, Scope
from gateway.http.problems import HttpProblem
from gateway.jobs.model import Record, tenant_of
from gateway.settings import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    from gateway.services import Services

# The form of the ids that we create. The SDK does not escape an id in its URLs, so an id with "?"
# or "/" could request something else, for example all instances.
_JOB_ID: Final = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def services_of(request: Request) -> "Services":
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


def require_scope(request: Request, scope: Scope) -> None:
    """Raise the problem `forbidden` if the caller does not have this scope."""
    if scope not in caller_of(request).scopes:
        raise HttpProblem(problems.FORBIDDEN, f"the API key does not have the scope {scope}")


def find_model(catalogue: Catalogue, name: str) -> ModelEntry:
    """Return the model with this name. Raises the problem `unknown-model` if there is none."""
    try:
        return catalogue.model(name)
    except UnknownModel as error:
        raise HttpProblem(problems.UNKNOWN_MODEL, str(error), nearest=list(error.nearest)) from None


async def find_own_job(request: Request, job_id: str) -> Record:
    """Return the record of a job that belongs to the caller's tenant.

    Raises the problem `unknown-job` if the job does not exist or belongs to another tenant. The
    response is the same in both cases. Therefore a caller cannot find out that another tenant has a
    job with this id.
    """
    _, found = await find_own_instance(request, job_id)
    return found


async def find_own_instance(request: Request, job_id: str) -> tuple[InstanceSnapshot, Record]:
    """Return the orchestration and the record of a job that belongs to the caller's tenant.

    Raises the problem `unknown-job` as `find_own_job` does.
    """
    instance = await durable_of(request).status(check_job_id(job_id))
    found = await services_of(request).jobs.record_of(job_id, instance) if instance else None
    if instance is None or found is None or tenant_of(found) != caller_of(request).tenant:
        raise unknown_job(job_id)
    return instance, found


def check_job_id(job_id: str) -> str:
    """Return `job_id` if it has the form of a job id. Otherwise raise the problem `unknown-job`."""
    if not _JOB_ID.fullmatch(job_id):
        raise unknown_job(job_id)
    return job_id


def unknown_job(job_id: str) -> HttpProblem:
    """Return the problem `unknown-job` for this job id."""
    return HttpProblem(
        problems.UNKNOWN_JOB, f"there is no job {job_id[:100]!r}, or it has been deleted"
    )


async def read_body(request: Request) -> bytes:
    """Return the body of a request.

    Azure's Functions host drops the body of a request without a Content-Length. This function then
    raises the problem `malformed-request`.
    """
    body = await request.body()
    if not body and "transfer-encoding" in request.headers:
        raise HttpProblem(
            problems.MALFORMED_REQUEST,
            "the body is missing; send a Content-Length, and not Transfer-Encoding: chunked",
        )
    return body


def announced_size_bytes(request: Request) -> int:
    """Return the value of the Content-Length header; 0 if it is missing or not a number."""
    text = request.headers.get("content-length", "")
    return int(text[:15]) if text.isascii() and text.isdigit() else 0


def refuse_unknown_query(request: Request, known: Collection[str] = ()) -> None:
    """Raise the problem `malformed-request` if a query parameter is unknown or repeated.

    `known` contains the names of the parameters that the route uses. Without this check, a caller
    would not notice a misspelt name.
    """
    for name in request.query_params:
        if name not in known:
            wanted = f"; expected one of {', '.join(sorted(known))}" if known else ""
            raise HttpProblem(
                problems.MALFORMED_REQUEST, f"unknown query parameter {name[:100]!r}{wanted}"
            )
        if len(request.query_params.getlist(name)) > 1:
            raise HttpProblem(
                problems.MALFORMED_REQUEST,
                f"{name}: this option is given more than once; give it only once",
            )


DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
"""The largest number of items on a page of a list."""


def parse_limit(text: str | None) -> int:
    """Return the largest number of items on a page, from the query parameter `limit`.

    Returns DEFAULT_LIMIT if `text` is None. Raises the problem `malformed-request` if `text` is not
    a whole number from 1 to MAX_LIMIT.
    """
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise HttpProblem(
        problems.MALFORMED_REQUEST, f"limit: expected a whole number from 1 to {MAX_LIMIT}"
    )


KEY_HEADER: Final = "Idempotency-Key"

_MAX_KEY_CHARACTERS: Final = 255
# A quoted String of RFC 9651 section 3.3.3, or characters that a header allows without quotes.
_QUOTED_KEY: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_BARE_KEY: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x7e]+")


def idempotency_key_of(request: Request) -> str | None:
    """Return the Idempotency-Key of a request; None if the request has no such header.

    Raises the problem `malformed-request` if the header is not valid.
    """
    try:
        return parse_key(request.headers.getlist(KEY_HEADER))
    except ValueError as error:
        raise HttpProblem(problems.MALFORMED_REQUEST, f"{KEY_HEADER}: {error}") from None


def parse_key(values: Sequence[str]) -> str | None:
    """Return the key from the values of the Idempotency-Key header; None if there is no value.

    Raises ValueError if the value is malformed, or if there are several values.
    """
    if not values:
        return None
    if len(values) > 1:
        raise ValueError("the header is given more than once")
    text = values[0].strip(" \t")
    quoted = _QUOTED_KEY.fullmatch(text)
    if quoted is None and not _BARE_KEY.fullmatch(text):
        raise ValueError("expected a key in double quotes, or a key without spaces and commas")
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else text
    if not 1 <= len(key) <= _MAX_KEY_CHARACTERS:
        raise ValueError(f"expected 1 to {_MAX_KEY_CHARACTERS} characters")
    return key


# The text up to the next comma that is not inside quotes.
_PART: Final = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)+')


@dataclass(frozen=True, slots=True)
class Preference:
    """The preferences in a Prefer header. `wait_seconds` is at most MAX_WAIT_SECONDS."""

    wait_seconds: int | None = None
    respond_async: bool = False

    def wait_or(self, default_seconds: int) -> int:
        """Return how many seconds the request waits for its job.

        This is the value of `wait` if the header contains `wait`. A header with only
        `respond-async` means 0 seconds. Without both preferences, the number is `default_seconds`.
        """
        if self.wait_seconds is not None:
            return self.wait_seconds
        return 0 if self.respond_async else default_seconds

    def applied(self, *, answered_async: bool) -> str | None:
        """Return the value of the Preference-Applied header; None if no preference was applied.

        `answered_async` is true if the response is sent before the job has ended.
        """
        parts = []
        if self.respond_async and answered_async:
            parts.append("respond-async")
        if self.wait_seconds is not None:
            parts.append(f"wait={self.wait_seconds}")
        return ", ".join(parts) or None


def parse_prefer(values: Iterable[str]) -> Preference:
    """Read the Prefer headers of a request.

    Unknown and invalid preferences are ignored, as RFC 7240 requires. If a preference occurs twice,
    only its first occurrence counts.
    """
    wait_seconds: int | None = None
    respond_async = False
    for part in _PART.findall(",".join(values)):
        name, _, value = part.partition(";")[0].partition("=")
        name, value = name.strip().lower(), value.strip().strip('"')
        if name == "respond-async" and not value:
            respond_async = True
        elif name == "wait" and wait_seconds is None and value.isascii() and value.isdigit():
            # Nine digits always exceed the limit, and int() raises for thousands of digits.
            wait_seconds = min(int(value.lstrip("0")[:9] or "0"), MAX_WAIT_SECONDS)
    return Preference(wait_seconds, respond_async)


_RANGE: Final = re.compile(r"\s*([\w!#$&^.+*-]+)/([\w!#$&^.+*-]+)\s*(?:;(.*))?", re.ASCII)
_WEIGHT: Final = re.compile(r"\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*", re.ASCII | re.IGNORECASE)
_MAX_RANGES: Final = 50


def choose_media_type(header: str, offers: Sequence[str]) -> str:
    """Return the media type in `offers` that the Accept header `header` prefers.

    If the header prefers several offers equally, the first of these offers is returned. If the
    header accepts no offer, `offers[0]` is returned, which RFC 9110 allows instead of status 406.
    """
    ranges = [found for part in header.split(",")[:_MAX_RANGES] if (found := _parse_range(part))]
    return max(offers, key=lambda offer: _weight(offer, ranges)) if ranges else offers[0]


def _parse_range(part: str) -> tuple[str, float] | None:
    match = _RANGE.fullmatch(part)
    if match is None:
        return None
    weights = [_WEIGHT.fullmatch(parameter) for parameter in (match[3] or "").split(";")]
    weight = next((float(found[1]) for found in weights if found), 1.0)
    return f"{match[1]}/{match[2]}".lower(), min(weight, 1.0)


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific media range that matches `offer`.

    Returns 0 if no media range matches.
    """
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        weights = [weight for found, weight in ranges if found == name]
        if weights:
            return max(weights)
    return 0.0


MAX_DEPTH: Final = 256
"""The largest nesting depth of accepted JSON.

Python's own limits differ for reading and writing JSON.
"""

_CONTAINERS: Final = (dict, list)
_TOO_DEEP: Final = f"the value is nested deeper than {MAX_DEPTH} levels"


def parse_json(data: bytes | str) -> Json:
    """Decode JSON text, and accept only what RFC 8259 allows.

    Raises ValueError if the syntax or the encoding is wrong, if the text contains NaN or infinity,
    or if a value is nested deeper than MAX_DEPTH.
    """
    try:
        value: Json = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # A value with few brackets cannot be too deep, so its depth is not measured.
    if _count_brackets(data) > MAX_DEPTH:
        _check_depth(value)
    return value


def encode_json(value: Json) -> bytes:
    """Return a value as compact JSON in UTF-8.

    Raises ValueError for a value that JSON or UTF-8 cannot represent, for example infinity or half
    of a surrogate pair.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _count_brackets(data: bytes | str) -> int:
    if isinstance(data, str):
        return data.count("[") + data.count("{")
    return data.count(b"[") + data.count(b"{")


def _check_depth(value: Json) -> None:
    level: list[Any] = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) in _CONTAINERS
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not allowed in JSON")


_TEXT_TYPES = (str, str | None)


class TextRoute(APIRoute):
    """A route that calls its endpoint directly if all path and query parameters are strings.

    Strings need no conversion. A direct call takes half of the processor time that FastAPI needs to
    resolve the dependencies of the endpoint. The OpenAPI document is the same. FastAPI calls an
    endpoint that has other parameters.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the route as APIRoute does, and check whether a direct call is possible."""
        super().__init__(*arguments, **options)
        dependant = self.dependant
        self._queries = {field.alias: field.name for field in dependant.query_params}
        self._is_direct = dependant.request_param_name == "request" and not any(
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

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Call the endpoint, and send its response."""
        if not self._is_direct or scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        query = request.query_params
        arguments = {name: query[alias] for alias, name in self._queries.items() if alias in query}
        response = await self.endpoint(request=request, **scope["path_params"], **arguments)
        await response(scope, receive, send)
