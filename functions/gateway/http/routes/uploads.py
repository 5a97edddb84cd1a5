"""The route POST /v1/uploads. It returns a URL for the upload of a large input, or of a batch."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import Catalogue
from contract.media import OCTET_STREAM, essence
from contract.messages import Json, format_time
from gateway import problems
from gateway.batches.intake import JSONL, MAX_FILE_BYTES
from gateway.http.openapi.operations import UPLOAD_BODY, problem_responses
from gateway.http.requests import (
    TextRoute,
    caller_of,
    read_small_json,
    refuse_unknown_query,
    services_of,
)
from gateway.http.responses import json_response
from gateway.jobs.model import Time
from gateway.problems import HttpProblem, malformed
from gateway.storage.uploads import new_upload, upload_blob_of, upload_expiry
from gateway.submission.parse import (
    check_accepted,
    find_model,
    naming_input,
    only_media_type,
    refuse_unknown_inputs,
)

_OPTIONAL: Final = ("media_type", "input")
_JSONL: Final = (JSONL, "application/x-ndjson", "application/octet-stream", "text/plain")

router = APIRouter(tags=["uploads"], route_class=TextRoute)


class UploadSlot(TypedDict):
    """A URL for the upload of an input that is too large for a request."""

    upload: Annotated[
        str,
        Field(
            description="The id of the upload, to be used as a job's input.",
            examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"],
        ),
    ]
    method: Literal["PUT"]
    url: Annotated[str, Field(description="The URL to which to upload the input. Keep it secret.")]
    headers: Annotated[dict[str, str], Field(description="The headers to send with the input.")]
    max_bytes: int
    media_types: list[str]
    expires_at: Time


@router.post(
    "/v1/uploads",
    summary="Get an upload URL for a large input or the file of a batch",
    status_code=201,
    response_model=UploadSlot,
    response_description="The URL accepts the input until `expires_at`",
    responses=problem_responses(400, 404, 413, 415, 422, 503),
    openapi_extra={"requestBody": UPLOAD_BODY},
)
async def create_upload(request: Request) -> Response:
    """Return the id of a new upload, and a URL that accepts the input in a PUT request."""
    refuse_unknown_query(request)
    services = services_of(request)
    hint = "; send the input to the URL that this route returns"
    body = await read_small_json(request, hint)
    if isinstance(body, dict) and "purpose" in body:
        media_type, media_types, max_bytes = _parse_batch_file(body)
    else:
        media_type, media_types, max_bytes = _parse_input(services.catalogue, body)
    upload_id = new_upload(services.clock())
    expires_at = upload_expiry(upload_id)
    assert expires_at is not None, "the id was just created"
    blob = upload_blob_of(upload_id, caller_of(request).tenant)
    slot: UploadSlot = {
        "upload": upload_id,
        "method": "PUT",
        "url": await services.links.to_write(blob, expires_at),
        "headers": {"content-type": media_type, **services.links.upload_headers},
        "max_bytes": max_bytes,
        "media_types": media_types,
        "expires_at": format_time(expires_at),
    }
    # The URL gives write access, so caches must not store it.
    return json_response(slot, 201, {"Cache-Control": "no-store"})


def _parse_batch_file(body: dict[str, Json]) -> tuple[str, list[str], int]:
    """Return the media type, the accepted ones, and the limit in bytes of a batch's file."""
    if body["purpose"] != "batch" or not set(body) <= {"purpose", "media_type"}:
        raise malformed(
            'for the file of a batch, the body must be the JSON object {"purpose": "batch"}'
        )
    media_type = JSONL if body.get("media_type") is None else body["media_type"]
    if not isinstance(media_type, str) or essence(media_type) not in _JSONL:
        detail = f"media_type: expected one of {', '.join(_JSONL)}"
        raise HttpProblem(problems.UNSUPPORTED_MEDIA_TYPE, detail, accepted=list(_JSONL))
    return media_type, list(_JSONL), MAX_FILE_BYTES


def _parse_input(catalogue: Catalogue, body: Json) -> tuple[str, list[str], int]:
    """Return the same for an input of a model."""
    name, announced, named_input = _parse_body(body)
    model = find_model(catalogue, name)
    if named_input is not None:
        refuse_unknown_inputs(model, [named_input])
    model = model.entry_of_input(named_input)
    media_type, only = essence(announced or OCTET_STREAM), only_media_type(model, None)
    accepted = list(model.media_types)
    if announced is None and only is None and OCTET_STREAM not in accepted:
        detail = f"media_type: expected one of {', '.join(accepted)}"
        raise HttpProblem(problems.UNSUPPORTED_MEDIA_TYPE, detail, accepted=accepted)
    if media_type == OCTET_STREAM and media_type not in accepted:
        media_type = only or media_type
    with naming_input(named_input):
        check_accepted(model, media_type)
    return media_type, accepted, model.max_upload_bytes


def _parse_body(value: Json) -> tuple[str, str | None, str | None]:
    """Return the name of the model, and the media type and the name of the named input, if any."""
    if not isinstance(value, dict) or not {"model"} <= set(value) <= {"model", *_OPTIONAL}:
        raise malformed(
            'the body must be the JSON object {"model": …, "media_type": …}; for a named input it '
            'may also have "input"'
        )
    model, media_type, named_input = (value.get(name) for name in ("model", *_OPTIONAL))
    if not isinstance(named_input, str | None):
        raise malformed("input: expected a string")
    if not isinstance(model, str) or not isinstance(media_type, str | None):
        raise malformed("model and media_type: expected strings")
    return model, media_type, named_input
