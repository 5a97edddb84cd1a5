"""The lines of a batch of the OpenAI API: https://platform.openai.com/docs/guides/batch."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from contract.catalogue import Catalogue, Priority
from contract.errors import PayloadCorrupt
from contract.messages import Json
from gateway.batches.model import BatchSpec
from gateway.jobs.model import (
    JobStatus,
    Record,
    job_resource,
    problem_of_job,
    result_path,
)
from gateway.openai.calls import CallResult, Shown, no_result, read_call, read_result, refused
from gateway.openai.errors import error_document
from gateway.openai.operations import OPERATIONS
from gateway.problems import HttpProblem
from gateway.storage.payloads import PayloadStore
from gateway.submission.parse import NewJob

ID_PREFIX: Final = "batch_req_"

_MEMBERS: Final = frozenset({"body", "custom_id", "method", "url"})
_UNENDED: Final = {
    JobStatus.EXPIRED: {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    JobStatus.CANCELLED: {
        "code": "batch_cancelled",
        "message": "This request was not executed before the batch was cancelled.",
    },
}


_URL: Final = re.compile("(?:/openai)?/v1(/[a-z/]+)")
_BY_PATH: Final[Mapping[str, str]] = {each.path: each.name for each in OPERATIONS.values()}


def operation_at(url: Json) -> str | None:
    """Return the operation at a path, such as `/v1/embeddings`; None if there is none."""
    found = _URL.fullmatch(url) if isinstance(url, str) else None
    return _BY_PATH.get(found[1]) if found else None


class OpenAiLines:
    """Reads the lines of batches of the OpenAI API, and writes the lines of their output."""

    def __init__(self, catalogue: Catalogue, payloads: PayloadStore) -> None:
        self._catalogue = catalogue
        self._payloads = payloads

    def parse(self, spec: BatchSpec, value: dict[str, Json]) -> NewJob:
        """Return the job of a line, whose `custom_id` was checked. Raises HttpProblem."""
        if unknown := sorted(value.keys() - _MEMBERS):
            raise refused(
                unknown[0][:100],
                f"unknown member of the line; the members are {', '.join(sorted(_MEMBERS))}",
            )
        if value.get("method") != "POST":
            raise refused("method", "expected POST")
        if operation_at(value.get("url")) != spec.operation:
            raise refused("url", f"expected the endpoint of the batch, {spec.extra['endpoint']}")
        body = value.get("body")
        if not isinstance(body, dict):
            raise refused("body", "expected a JSON object")
        if body.get("stream"):
            raise refused("stream", "the lines of a batch are not streamed; omit it")
        if spec.model and body.get("model") != spec.model:
            raise refused("model", f"expected {spec.model}, because the first line names it")
        job = read_call(
            self._catalogue,
            OPERATIONS[spec.operation or ""],
            body,
            tenant=spec.tenant,
            traceparent=spec.traceparent or "",
        )
        return replace(job, priority=Priority.LOW)

    async def result_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return the line of a job that succeeded. Raises Unavailable if the storage fails."""
        try:
            result = await read_result(self._payloads, job_id, record)
            shown = OPERATIONS[spec.operation or ""].show(line["body"], result)
            return _line(line, job_id, response=_response(200, job_id, _body_of(shown)))
        except HttpProblem as problem:
            return _failed(line, job_id, problem)
        except PayloadCorrupt:
            return _failed(line, job_id, no_result("the result of the model cannot be read"))

    def error_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return the line of a job that has no result."""
        if (error := _UNENDED.get(JobStatus(record["status"]))) is not None:
            return _line(line, job_id, error=error)
        problem = problem_of_job(job_resource(job_id, record))
        assert problem is not None, "the job has not succeeded"
        return _failed(line, job_id, problem)


def _line(
    line: dict[str, Json], job_id: str, *, response: Json = None, error: Json = None
) -> dict[str, Json]:
    return {
        "id": ID_PREFIX + job_id.replace("-", ""),
        "custom_id": line["custom_id"],
        "response": response,
        "error": error,
    }


def _failed(line: dict[str, Json], job_id: str, problem: HttpProblem) -> dict[str, Json]:
    response = _response(problem.kind.status, job_id, error_document(problem))
    return _line(line, job_id, response=response)


def _response(status: int, job_id: str, body: Any) -> dict[str, Json]:
    return {"status_code": status, "request_id": job_id, "body": body}


def _body_of(shown: Shown) -> Any:
    """Return what a call returns as JSON; bytes as the path of the job's result."""
    if not isinstance(shown, CallResult):
        return shown
    if (found := shown.json()) is not None:
        return found
    return {"result_link": result_path(shown.job_id), "media_type": shown.media_type}
