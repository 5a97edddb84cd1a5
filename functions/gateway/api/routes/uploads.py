"""/v1/uploads: slots for inputs that are too large for a request."""

from typing import Final

from fastapi import APIRouter, Request, Response

from contract.codec import format_time
from contract.fields import Json
from contract.media import essence
from gateway import problems
from gateway.api.context import body_of, caller_of, refuse_unknown_query, services_of
from gateway.api.openapi.operations import UPLOAD_BODY, UPLOAD_RESPONSES
from gateway.api.responses import json_response
from gateway.api.routes.models import found_model
from gateway.api.submitting.checks import check_accepted
from gateway.problems import Problem
from gateway.storage import uploads
from gateway.strict_json import parse

_MAX_BODY_BYTES: Final = 16 * 1024
_MEMBERS: Final = ("model", "media_type")

router = APIRouter(tags=["uploads"])


@router.post(
    "/v1/uploads",
    summary="Get a slot for a large input",
    status_code=201,
    responses=UPLOAD_RESPONSES,
    openapi_extra={"requestBody": UPLOAD_BODY},
    response_model=None,
)
async def create_upload(request: Request) -> Response:
    """A URL that takes one PUT of the input's bytes, and the id to name in a job."""
    refuse_unknown_query(request)
    services = services_of(request)
    name, announced = _asked(await body_of(request))
    model, media_type = found_model(services, name), essence(announced)
    check_accepted(model, media_type)
    upload_id = uploads.new_upload(services.clock())
    expires_at = uploads.expiry(upload_id)
    assert expires_at is not None, "it was just made"
    blob = uploads.blob_of(upload_id, caller_of(request).tenant)
    return json_response(
        {
            "upload": upload_id,
            "method": "PUT",
            "url": await services.links.to_write(blob, expires_at),
            "headers": {"content-type": media_type, "x-ms-blob-type": "BlockBlob"},
            "max_bytes": model.max_upload_bytes,
            "media_types": list(model.media_types),
            "expires_at": format_time(expires_at),
        },
        201,
        # The URL is leave to write: no cache may keep it.
        {"Cache-Control": "no-store"},
    )


def _asked(body: bytes) -> tuple[str, str]:
    if len(body) > _MAX_BODY_BYTES:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE,
            "this asks for a slot; the input itself goes to the slot's URL",
            limit_bytes=_MAX_BODY_BYTES,
        )
    try:
        value: Json = parse(body)
    except ValueError as error:
        raise Problem(problems.MALFORMED_REQUEST, f"the body is not JSON: {error}") from None
    if not isinstance(value, dict) or set(value) != set(_MEMBERS):
        raise Problem(problems.MALFORMED_REQUEST, 'expected {"model": …, "media_type": …}')
    model, media_type = (value[name] for name in _MEMBERS)
    if not isinstance(model, str) or not isinstance(media_type, str):
        raise Problem(problems.MALFORMED_REQUEST, "model and media_type: expected texts")
    return model, media_type
