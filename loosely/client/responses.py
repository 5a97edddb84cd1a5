"""Read the gateway's HTTP responses. This module opens no connections."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loosely.client.errors import LooselyError, PayloadTooLarge, UnexpectedAnswer, read_problem
from loosely.client.resources import (
    Job,
    JobPage,
    Model,
    Timeline,
    UploadTarget,
    decode_json,
)

_MAX_RETRY_AFTER_SECONDS = 3600.0
# The lowest limit of a gateway's host for the body of a request.
_SURELY_ACCEPTED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An HTTP response with its whole body. The names in ``headers`` are in lower case.

    ``shown_url`` is the part of the request's URL that error messages may show.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    shown_url: str

    @property
    def retry_after_seconds(self) -> float | None:
        """The number of seconds in the header ``Retry-After``, limited to one hour.

        ``None`` if the header is absent or is not a number.
        """
        value = self.headers.get("retry-after", "").strip()
        if not (value.isascii() and value.isdigit()):
            return None
        return min(float(value[:9]), _MAX_RETRY_AFTER_SECONDS)


def read_job(response: HttpResponse) -> Job:
    """Return the job in a response. Raises UnexpectedAnswer if the body is not a job."""
    job = Job.from_body(response.body, response.retry_after_seconds)
    if job is None:
        raise _unexpected(response, "the body is not a job in Loosely's format")
    return job


def read_timeline(response: HttpResponse) -> Timeline:
    """Return the timeline in a response.

    Raises UnexpectedAnswer if the body is not a timeline.
    """
    timeline = Timeline.from_body(response.body)
    if timeline is None:
        raise _unexpected(response, "the body is not a timeline in Loosely's format")
    return timeline


def read_job_page(response: HttpResponse) -> JobPage:
    """Return the page of jobs in a response.

    Raises UnexpectedAnswer if the body is not a page of jobs.
    """
    page = JobPage.from_body(response.body)
    if page is None:
        raise _unexpected(response, "the body is not a list of jobs in Loosely's format")
    return page


def read_models(response: HttpResponse) -> tuple[Model, ...]:
    """Return the models in a response.

    Raises UnexpectedAnswer if the body is not a list of models.
    """
    document = decode_json(response.body)
    listed = document.get("models") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise _unexpected(response, "the body is not a list of models in Loosely's format")
    return tuple(model for one in listed if (model := Model.from_document(one)))


def read_model(response: HttpResponse) -> Model:
    """Return the model in a response. Raises UnexpectedAnswer if the body is not a model."""
    model = Model.from_document(decode_json(response.body))
    if model is None:
        raise _unexpected(response, "the body is not a model in Loosely's format")
    return model


def read_upload_slot(response: HttpResponse) -> UploadTarget:
    """Return the upload target in a response.

    Raises UnexpectedAnswer if the body is not an upload target.
    """
    slot = UploadTarget.from_body(response.body)
    if slot is None:
        raise _unexpected(response, "the body is not an upload target in Loosely's format")
    return slot


def read_error(response: HttpResponse, sent_bytes: int = 0) -> LooselyError:
    """Return the exception for a response that reports an error.

    The exception is a Problem if the body is a problem document, otherwise an UnexpectedAnswer. The
    Functions host refuses a body that is too large for it with status 500 and no problem document,
    so the exception is PayloadTooLarge if the request had a large body of ``sent_bytes``.
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


def _unexpected(response: HttpResponse, reason: str) -> UnexpectedAnswer:
    return UnexpectedAnswer(response.shown_url, response.status, reason)
