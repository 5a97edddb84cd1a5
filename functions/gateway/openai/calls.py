"""Read the calls of the OpenAI API, and the results of their jobs.

A call is a request to a route, or a line of a batch. Its members are a JSON object. A member with a
file is a part of a form, or in JSON the id of a stored file or a URL, which may be a `data:` URI.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from contract import media
from contract.catalogue import Catalogue, ModelEntry
from contract.messages import Fields, InlineBytes, InlineJson, Json, PayloadRef, payload_from_json
from gateway import problems
from gateway.errors import MissingPayload
from gateway.jobs.model import Record, is_final, job_path, job_resource, problem_of_job
from gateway.json_text import encode_json
from gateway.problems import HttpProblem
from gateway.settings import MAX_WAIT_SECONDS
from gateway.storage.payloads import PayloadStore
from gateway.submission.forms import FormPart
from gateway.submission.parse import (
    NewJob,
    SubmittedInput,
    check_accepted,
    check_media_type,
    check_required_inputs,
    check_size,
    find_model,
    has_surrogate,
    names_version,
    naming_input,
    parse_options,
    read_url,
    refuse_unknown_inputs,
)

JOB_HEADER: Final = "x-loosely-job"

MAX_PAIRS: Final = 16
MAX_NAME: Final = 64
MAX_VALUE: Final = 512
_MAX_ID_CHARACTERS: Final = 100

Members = dict[str, Any]
"""The members of a call."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of a call's job, as bytes of this media type."""

    job_id: str
    record: Record
    media_type: str
    data: bytes

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response."""
        return {JOB_HEADER: self.job_id}

    @property
    def created(self) -> int:
        """When the job was created, in seconds since 1970."""
        return created_of(self.record)

    def json(self) -> Any:
        """Return the result as a JSON value; text as a string, and None for anything else."""
        if self.media_type == media.JSON:
            try:
                return json.loads(self.data)
            except (ValueError, RecursionError):
                raise no_result("the model returned no JSON, but its result says so") from None
        return self.data.decode("utf-8", "replace") if self.is_a("text") else None

    def is_a(self, kind: str) -> bool:
        """Return whether the media type is of this kind, such as `image`."""
        return self.media_type.startswith(f"{kind}/")


Shown = Members | str | CallResult
"""What a call returns: a JSON object, a text, or the result as it is."""


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """An operation of the API, by its name in the catalogue.

    `check` raises HttpProblem if the members are invalid, and returns those that the model gets.
    `show` turns a result into what the call returns, by the members that `kept` returns.

    If the call has `files`, the job's input is the first of these members, and the others are its
    named inputs; if it `takes_several`, so are `image_2` and so on. All other members are the job's
    parameters. Without `files`, the input is the JSON object.
    """

    name: str
    check: Callable[[ModelEntry, Members], Members]
    show: Callable[[Members, CallResult], Shown]
    files: tuple[str, ...] = ()
    takes_several: bool = False
    has_metadata: bool = False

    @property
    def path(self) -> str:
        """The path of its route below the base URL."""
        return "/" + self.name.replace(".", "/")


_KEPT: Final = (
    *("background", "dimensions", "encoding_format", "model", "response_format", "stream"),
    "stream_options",
)


def kept(members: Members) -> Members:
    """Return the small members, which are needed when the job has ended."""
    return {name: members[name] for name in _KEPT if name in members}


def created_of(record: Record) -> int:
    """Return when a job was created, in seconds since 1970."""
    return int(datetime.fromisoformat(record["created_at"]).timestamp())


def refused(param: str, detail: str) -> HttpProblem:
    """Return the problem `malformed-request` that names a member of the call."""
    return HttpProblem(problems.MALFORMED_REQUEST, f"{param}: {detail}", param=param)


def no_result(what: str) -> HttpProblem:
    """Return the problem of a call whose model returned something else than the API needs."""
    return HttpProblem(problems.INFERENCE_FAILED, what, retryable=False)


def read_call(  # noqa: PLR0913 - a call, and whose it is
    catalogue: Catalogue,
    operation: ApiOperation,
    members: Members,
    *,
    tenant: str,
    traceparent: str,
    body: bytes | None = None,
) -> NewJob:
    """Return the job of a call. Raises HttpProblem if the call is not valid.

    `body` is the text of the members, if they came as JSON in a request.
    """
    name = members.get("model")
    model = _find_model(catalogue, operation, name)
    if operation.files:
        inputs, others = _take_inputs(operation, model, members)
        parameters = operation.check(model, others)
    else:
        check_accepted(model, media.JSON)
        given, parameters = operation.check(model, members), {}
        if body is None or given is not members:
            body = _encode(given)
        check_size(model, len(body))
        inputs = {None: SubmittedInput(media.JSON, body)}
    check_required_inputs(model, inputs)
    checked, deadline_seconds = parse_options(model, {"parameters": parameters})
    return NewJob(
        model,
        tenant,
        traceparent,
        inputs,
        checked,
        deadline_seconds,
        is_pinned=names_version(str(name)),
        operation=operation.name,
        metadata=parse_metadata(members.get("metadata")) if operation.has_metadata else None,
    )


def _find_model(catalogue: Catalogue, operation: ApiOperation, name: Json) -> ModelEntry:
    if not isinstance(name, str):
        raise refused("model", "expected the name of a model")
    try:
        model = find_model(catalogue, name)
    except HttpProblem as problem:
        problem.extra["param"] = "model"
        raise
    if operation.name not in model.openai:
        offered = ", ".join(model.openai) or "no operation of the OpenAI API"
        raise refused("model", f"{name} does not offer {operation.name}; it offers {offered}")
    return model


def _encode(members: Members) -> bytes:
    try:
        return encode_json(members)
    except ValueError as error:
        raise refused("body", str(error)) from None


def _take_inputs(
    operation: ApiOperation, model: ModelEntry, members: Members
) -> tuple[dict[str | None, SubmittedInput], Members]:
    """Return the inputs in the files of a call, and its other members."""
    inputs: dict[str | None, SubmittedInput] = {}
    others = {name: each for name, each in members.items() if name != "model"}
    first, *_ = operation.files
    for member in operation.files:
        given = others.pop(member, None)
        files = given if isinstance(given, list) else [] if given is None else [given]
        if not files and member == first:
            raise refused(member, "expected a file")
        if len(files) > 1 and not (operation.takes_several and member == first):
            raise refused(member, "expected only one file")
        for number, file in enumerate(files, 1):
            name = None if member == first else member
            name = name if number == 1 else f"{member}_{number}"
            with naming_input(name):
                inputs[name] = _read_file(model, name, member, file)
    return inputs, others


def _read_file(model: ModelEntry, name: str | None, member: str, file: Any) -> SubmittedInput:
    if name is not None:
        refuse_unknown_inputs(model, [name])
    entry = model.entry_of_input(name)
    if isinstance(file, FormPart):
        return _read_part(entry, member, file)
    if isinstance(file, dict) and len(file) == 1:  # as in images.edits
        file = file.get("file_id") or file.get("image_url")
    if not isinstance(file, str):
        raise refused(member, "expected the id of a file, a data: URI or a URL")
    if ":" in file[:10]:
        return read_url(entry, member, None, file)
    if len(file) > _MAX_ID_CHARACTERS:
        raise refused(member, "expected the id of a file, a data: URI or a URL")
    return SubmittedInput("", file=file)


def _read_part(entry: ModelEntry, member: str, part: FormPart) -> SubmittedInput:
    if not part.is_file:
        raise refused(member, "expected a file")
    check_size(entry, len(part.data))
    announced = media.essence(part.media_type)
    if announced not in entry.media_types:  # clients guess it from the file's name
        announced = media.sniff(part.data) or announced
    return SubmittedInput(check_media_type(entry, announced or None, part.data), part.data)


def parse_metadata(given: Json) -> dict[str, str] | None:
    """Check metadata, whose limits are those of OpenAI."""
    if given is None:
        return None
    if not isinstance(given, dict) or len(given) > MAX_PAIRS:
        raise refused("metadata", f"expected a JSON object with at most {MAX_PAIRS} members")
    for name, value in given.items():
        is_text = isinstance(value, str) and not has_surrogate(name + value)
        if not is_text or len(name) > MAX_NAME or len(value) > MAX_VALUE:
            raise refused(
                "metadata",
                f"expected names of at most {MAX_NAME} characters, and texts of at most "
                f"{MAX_VALUE} characters as values",
            )
    return given


async def read_result(payloads: PayloadStore, job_id: str, record: Record) -> CallResult:
    """Return the result of a job. Raises HttpProblem, which names the job, if it has none."""
    try:
        return await _read_result(payloads, job_id, record)
    except HttpProblem as problem:
        problem.headers[JOB_HEADER] = job_id
        raise


async def _read_result(payloads: PayloadStore, job_id: str, record: Record) -> CallResult:
    if not is_final(record):
        raise HttpProblem(
            problems.EXPIRED,
            f"job {job_id} has not ended after {MAX_WAIT_SECONDS} s, and goes on: its status is at "
            f"{job_path(job_id)}; for a job that takes long, use the Responses API with background",
            retryable=False,  # a repeated request would be another job
        )
    if problem := problem_of_job(job_resource(job_id, record), has_run=record.get("ran")):
        problem.detail = f"{problem.detail} (job {job_id})"
        raise problem
    payload = payload_from_json(Fields(record["result"]))
    match payload:
        case InlineJson(value):
            data = encode_json(value)
        case InlineBytes(_, data):
            pass
        case PayloadRef():
            try:
                data = await payloads.get(payload)
            except MissingPayload:
                raise HttpProblem(
                    problems.UNKNOWN_JOB, "the result was deleted after its retention"
                ) from None
    return CallResult(job_id, record, media.essence(payload.media_type), data)
