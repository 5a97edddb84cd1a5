"""Build responses: JSON, problem documents (RFC 9457), ETags (RFC 9110 section 13), Retry-After.

`CompressionMiddleware` compresses large responses, because Azure's host compresses none. A
compressed response has an ETag of its own, which ends in `-gzip`. In a condition of a request, it
means the same as the ETag without this suffix. From the size of a compressed response an attacker
could guess a secret in it, if the response also contains text of the attacker (BREACH). The only
secrets in responses are signed links, and a response with a link is smaller than MIN_BYTES.
"""

import asyncio
import base64
import gzip
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, NotRequired

from fastapi import Request, Response
from pydantic import Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import TypedDict

from contract.catalogue import Catalogue, join_name
from contract.messages import Stage
from gateway import problems
from gateway.jobs.model import JobResource, JobStatus, Record, priority_of, tenant_of
from gateway.openai import errors as openai
from gateway.problems import HttpProblem
from gateway.queues.estimates import NO_POSITION, WaitEstimates, retry_after_seconds
from gateway.shares.gate import Gate
from gateway.telemetry import trace_id, traceparent_of

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

_log = logging.getLogger(__name__)


class ProblemDetails(TypedDict):
    """A problem document (RFC 9457). `/docs/problems` lists the members that some kinds add."""

    type: Annotated[str, Field(examples=["/docs/problems#unknown-model"])]
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Field(examples=["unknown-model"])]
    retryable: bool
    stage: Stage
    attempt: int | None
    trace_id: str | None


class JobProblem(ProblemDetails):
    """A problem document that may contain the job to which the problem applies."""

    job: NotRequired[JobResource | None]


class OipError(TypedDict):
    """The body of an error response of the Open Inference Protocol."""

    error: Annotated[
        str, Field(examples=["there is no model 'clasifier'; did you mean classifier?"])
    ]
    ran: NotRequired[
        Annotated[
            bool | None,
            Field(description="With 504: whether a worker had received the job; null if unknown."),
        ]
    ]


RETRY_AFTER_SECONDS: Final = 1
"""The Retry-After in seconds for a job whose wait cannot be estimated."""

LONGEST_RETRY_AFTER_SECONDS: Final = 30

# The headers of a 200 response that a 304 response must repeat (RFC 9110, 15.4.5).
_HEADERS_OF_304: Final = frozenset(
    {"cache-control", "content-location", "etag", "preference-applied", "retry-after", "vary"}
)
_TAG: Final = re.compile(r'(W/)?("[^"]*")')

# Shared caches must not store a job, and private caches must revalidate it.
_CACHING: Final = "private, no-cache"

MIN_BYTES: Final = 8 * 1024
"""The size in bytes from which a response is compressed."""

# Compressing more than this blocks the event loop for more than about a millisecond.
_THREAD_BYTES: Final = 128 * 1024
_LEVEL: Final = 5
_SUFFIX: Final = b'-gzip"'
_TEXT: Final = re.compile(r"text/.*|application/(?:.*\+)?json\b.*", re.IGNORECASE)
_GZIP: Final = re.compile(
    r"\s*gzip\s*(?:;\s*q=(?P<weight>[01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII | re.IGNORECASE
)


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response that contains `content`."""
    return Response(_encode(content), status, headers, media_type="application/json")


def problem_response(request: Request, problem: HttpProblem) -> Response:
    """Return the response that reports a problem, and log it unless it is that of a failed job.

    Under /v2, the body is an error of the Open Inference Protocol, and under /openai/v1 one of the
    OpenAI API. Elsewhere it is a problem document.
    """
    if "job" not in problem.extra:
        _log.info(
            "the request %.20r %.500r was refused: %s: %.500r [traceparent %s]",
            *(request.method, request.url.path, problem.kind.code, problem.detail),
            traceparent_of(request.scope),
        )
    if request.url.path == "/v2" or request.url.path.startswith("/v2/"):
        error: OipError = {"error": problem.detail}
        if "ran" in problem.extra:
            error["ran"] = problem.extra["ran"]
        return json_response(error, problem.kind.status, problem.headers)
    if request.url.path.startswith(f"{openai.PREFIX}/"):
        return json_response(
            openai.error_document(problem), problem.kind.status, openai.error_headers(problem)
        )
    document = problem.document(request.url.path, trace_id(traceparent_of(request.scope)))
    return Response(
        _encode(document), problem.kind.status, problem.headers, media_type=PROBLEM_MEDIA_TYPE
    )


def answer_conditionally(
    request: Request, response: Response, caching: str = _CACHING, tag: str | None = None
) -> Response:
    """Return the response with its ETag, or 304 if If-None-Match has it; check If-Match.

    The ETag is `tag`, or a digest of the body.
    """
    tag = tag or _make_etag(bytes(response.body))
    _check_tag(request, tag)
    response.headers["ETag"] = tag
    response.headers["Cache-Control"] = caching
    if not _has_tag(request.headers.getlist("if-none-match"), tag):
        return response
    kept = {name: value for name, value in response.headers.items() if name in _HEADERS_OF_304}
    return Response(status_code=304, headers=kept)


def check_match(request: Request, response: Response) -> None:
    """Raise the problem `precondition-failed` if If-Match does not contain the response's ETag."""
    _check_tag(request, _make_etag(bytes(response.body)))


def _check_tag(request: Request, tag: str) -> None:
    fields = request.headers.getlist("if-match")
    if fields and not _has_tag(fields, tag, is_strong=True):
        raise HttpProblem(
            problems.PRECONDITION_FAILED, "If-Match: the resource has changed; read it again"
        )


async def add_queue_position(
    job: JobResource, record: Record, catalogue: Catalogue, estimates: WaitEstimates, gate: Gate
) -> dict[str, str]:
    """Add the position of a queued or held job to `job`; return the Retry-After header.

    The line of a batch has none: most of them are not in the queue yet.
    """
    model = catalogue.get(join_name(job["model"], job["version"]))
    position = NO_POSITION
    if model is not None and job["status"] == JobStatus.QUEUED and "batch" not in job:
        created_at = datetime.fromisoformat(job["created_at"])
        held = await gate.find_queue(model, job["id"], tenant_of(record))
        position = held or await estimates.estimate_position(model, created_at, priority_of(record))
        job["queue"] = position
    seconds = retry_after_seconds(position, RETRY_AFTER_SECONDS, LONGEST_RETRY_AFTER_SECONDS)
    return {"Retry-After": str(seconds)}


def accepts_gzip(headers: Headers) -> bool:
    """Return whether the Accept-Encoding of a request permits gzip."""
    accepted = ",".join(headers.getlist("accept-encoding"))
    found = [_GZIP.fullmatch(part) for part in accepted.split(",")]
    return any(float(match["weight"] or 1) > 0 for match in found if match)


class CompressionMiddleware:
    """ASGI middleware that compresses responses in one part, of text or JSON, from MIN_BYTES."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the app, and send the app's response, compressed if possible."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        conditions = b",".join([value for name, value in scope["headers"] if name[:3] == b"if-"])
        if _SUFFIX in conditions:
            scope["headers"] = [
                (name, value.replace(_SUFFIX, b'"') if name.startswith(b"if-") else value)
                for name, value in scope["headers"]
            ]
        start: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if message["status"] == 304:
                    _add_suffix(headers, conditions)
                elif "content-encoding" not in headers and _TEXT.match(
                    headers.get("content-type", "")
                ):
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) >= MIN_BYTES and not message.get("more_body", False):
                    headers = MutableHeaders(raw=start["headers"])
                    headers.add_vary_header("Accept-Encoding")
                    if accepts_gzip(Headers(scope=scope)):
                        message = {**message, "body": await _compress(body)}
                        headers["content-length"] = str(len(message["body"]))
                        headers["content-encoding"] = "gzip"
                        _add_suffix(headers)
                held, start = start, None
                await send(held)
            await send(message)

        await self._app(scope, receive, send_compressed)


def _add_suffix(headers: MutableHeaders, conditions: bytes | None = None) -> None:
    """Add the suffix to an ETag; with `conditions`, only if these contain it with the suffix."""
    if (tag := headers.get("etag")) is not None:
        marked = tag.encode("latin-1").removesuffix(b'"') + _SUFFIX
        if conditions is None or marked in conditions:
            headers["etag"] = marked.decode("latin-1")


async def _compress(body: bytes) -> bytes:
    if len(body) < _THREAD_BYTES:
        return gzip.compress(body, _LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, body, _LEVEL, mtime=0)


def _encode(content: object) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A request path can contain half of a surrogate pair, which UTF-8 cannot encode.
    return text.encode("utf-8", "replace")


def _make_etag(body: bytes) -> str:
    digest = hashlib.blake2b(body, digest_size=15).digest()
    return f'"{base64.urlsafe_b64encode(digest).decode()}"'


def _has_tag(fields: list[str], tag: str, *, is_strong: bool = False) -> bool:
    """Return whether the header fields contain this ETag (not as a weak one), or `*`."""
    named = [found for field in fields for found in _TAG.findall(field)]
    return any(field.strip() == "*" for field in fields) or any(
        value == tag and not (weak and is_strong) for weak, value in named
    )
