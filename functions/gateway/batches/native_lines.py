"""The lines of batches in our own form.

input    {"custom_id", "input" | "input_url" | "upload", "inputs", "parameters"}
result   {"custom_id", "job", "status", "result" | "result_link", "media_type", "results"}
error    {"custom_id", "job", "status", "error"}
"""

import json
from typing import Final

from contract import media
from contract.catalogue import Catalogue, Priority
from contract.errors import PayloadCorrupt
from contract.messages import (
    Fields,
    JobError,
    Json,
    PayloadRef,
    Stage,
    error_to_json,
    payload_from_json,
)
from gateway.batches.model import BatchSpec
from gateway.errors import MissingPayload
from gateway.jobs.model import Record, job_resource
from gateway.jobs.search import CANCELLED_CODE
from gateway.problems import malformed
from gateway.storage.payloads import PayloadStore
from gateway.submission.parse import (
    NewJob,
    check_required_inputs,
    find_model,
    parse_options,
    read_inputs,
    refuse_unknown,
)

MAX_RESULT_BYTES: Final = 1024 * 1024
"""The largest JSON or text result that is in the output itself."""

_CANCELLED: Final = error_to_json(
    JobError(
        CANCELLED_CODE,
        "the batch or this line was cancelled before the line ended",
        Stage.QUEUE,
        retryable=True,
    )
)

_SOURCES: Final = ("input", "input_url", "upload")
_MEMBERS: Final = {"custom_id", "inputs", "parameters", *_SOURCES}


class NativeLines:
    """Reads and writes lines in our own form."""

    def __init__(self, catalogue: Catalogue, payloads: PayloadStore) -> None:
        self._catalogue = catalogue
        self._payloads = payloads

    def parse(self, spec: BatchSpec, value: dict[str, Json]) -> NewJob:
        """Return the job of a line. Raises HttpProblem."""
        model = find_model(self._catalogue, spec.model)
        refuse_unknown("", value, _MEMBERS)
        inputs = read_inputs(model, _first_input(value), value.get("inputs"))
        check_required_inputs(model, inputs)
        own = value.get("parameters")
        if not isinstance(own, dict | None):
            raise malformed("parameters: expected a JSON object")
        given = {**spec.parameters, **(own or {})}
        parameters, deadline_seconds = parse_options(model, {"parameters": given})
        return NewJob(
            model,
            spec.tenant,
            spec.traceparent or "",
            inputs,
            parameters,
            deadline_seconds,
            priority=Priority.LOW,
            is_pinned=spec.is_pinned,
        )

    async def result_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return the result of a line: JSON or text itself, of any other result the link.

        Raises Unavailable if the storage fails.
        """
        job, result = job_resource(job_id, record), record["result"]
        found = _begin(line, job_id, record)
        if job["result"] is not None or "json" in result:
            found["result"] = job["result"]
        elif stored := await self._read_stored(result):
            (found["result"],) = stored
        else:
            found["result_link"] = job["links"]["result"]
        found["media_type"] = result["media_type"]
        if job["results"]:
            found["results"] = job["results"]
        return found

    def error_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return why a line has no result."""
        return {**_begin(line, job_id, record), "error": record["error"] or _CANCELLED}

    async def _read_stored(self, result: Json) -> tuple[Json] | None:
        """Return a JSON or text result in a blob; None if its link must be shown."""
        payload = payload_from_json(Fields(result))
        kind = media.essence(payload.media_type)
        if not isinstance(payload, PayloadRef) or payload.size_bytes > MAX_RESULT_BYTES:
            return None
        if kind != media.JSON and not kind.startswith("text/"):
            return None
        try:
            data = await self._payloads.get(payload)
            return (json.loads(data) if kind == media.JSON else data.decode(),)
        except (MissingPayload, PayloadCorrupt, ValueError):
            return None  # the link says why


def _begin(line: dict[str, Json], job_id: str, record: Record) -> dict[str, Json]:
    return {"custom_id": line["custom_id"], "job": job_id, "status": record["status"]}


def _first_input(value: dict[str, Json]) -> dict[str, Json]:
    """Return the first input of a line as the member `input` of a submit."""
    given = [name for name in _SOURCES if value.get(name) is not None]
    if len(given) != 1:
        raise malformed(f"expected exactly one of the members {', '.join(_SOURCES)}")
    (name,) = given
    if name == "input_url":
        return {"url": value[name]}
    if name == "upload":
        return {"upload": value[name]}
    if not isinstance(value[name], dict):
        raise malformed('input: expected a JSON object such as {"json": …} or {"text": …}')
    return dict(value[name])
