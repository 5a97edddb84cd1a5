"""Read the gateway's HTTP responses. This module opens no connections."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from loosely.client.errors import LooselyError, PayloadTooLarge, UnexpectedAnswer, read_problem
from loosely.client.resources import Job, decode_json

T = TypeVar("T")

_MAX_RETRY_AFTER_SECONDS = 3600.0
# The lowest limit of a gateway's host for the body of a request.
_SURELY_ACCEPTED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response with its whole body. The names in ``headers`` are in lower case.

    ``shown_url`` is the part of the request's URL that error messages may show. ``chunks`` has the
    body of an event stream, which is received while the caller iterates.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    shown_url: str
    chunks: AsyncGenerator[bytes, None] | None = field(default=None, repr=False)

    @property
    def retry_after_seconds(self) -> float | None:
        """The number of seconds in the header ``Retry-After``, limited to one hour."""
        value = self.headers.get("retry-after", "").strip()
        if not (value.isascii() and value.isdigit()):
            return None
        return min(float(value[:9]), _MAX_RETRY_AFTER_SECONDS)


def read_as(response: HttpResponse, parse: Callable[[Mapping[str, Any]], T | None], what: str) -> T:
    """Return what ``parse`` makes of the JSON object. Raises UnexpectedAnswer if not ``what``."""
    document = decode_json(response.body)
    found = parse(document) if isinstance(document, dict) else None
    if found is None:
        reason = f"the body is not {what} in Loosely's format"
        raise UnexpectedAnswer(response.shown_url, response.status, reason)
    return found


def read_job(response: HttpResponse) -> Job:
    """Return the job in a response. Raises UnexpectedAnswer if the body is not a job."""
    body, seconds = response.body, response.retry_after_seconds
    return read_as(response, lambda found: Job.from_document(found, body, seconds), "a job")


def read_error(response: HttpResponse, sent_bytes: int = 0) -> LooselyError:
    """Return the exception for a response that reports an error.

    The Functions host refuses a body that is too large for it with status 500 and no content.
    """
    problem = read_problem(response.status, response.body, response.retry_after_seconds)
    if problem is not None:
        return problem
    if response.status == 500 and not response.body and sent_bytes > _SURELY_ACCEPTED_BYTES:
        return PayloadTooLarge.by_host(sent_bytes)
    return UnexpectedAnswer(
        response.shown_url,
        response.status,
        "without a problem document; check that the URL is that of a Loosely gateway",
    )
