"""The routes under /openai/v1/uploads, to which clients send a large file in parts.

https://platform.openai.com/docs/api-reference/uploads
"""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contract.messages import Json
from gateway import problems
from gateway.batches.intake import FILE_TOO_LARGE, MAX_FILE_BYTES
from gateway.http.openai.calls import read_object
from gateway.http.openai.files import check_lifetime, check_name, check_purpose, show_file
from gateway.http.openai.forms import read_body
from gateway.http.requests import TextRoute, caller_of, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.openai.calls import refused
from gateway.problems import HttpProblem
from gateway.storage.files import FileUpload, StoredFile

MAX_PARTS: Final = 10_000

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/uploads")
async def create_upload(request: Request) -> Response:
    """Create an upload, whose file exists when it is completed."""
    asked = await _read(request, ("bytes", "expires_after", "filename", "mime_type", "purpose"))
    services, tenant = services_of(request), caller_of(request).tenant
    purpose, size_bytes, name = (asked.get(each) for each in ("purpose", "bytes", "filename"))
    purpose = check_purpose(purpose)
    if not isinstance(name, str | None):
        raise refused("filename", "expected a text")
    if not isinstance(size_bytes, int) or isinstance(size_bytes, bool) or size_bytes < 1:
        raise refused("bytes", "expected the size of the file in bytes")
    most = max(model.max_upload_bytes for model in services.catalogue.values())
    if size_bytes > (MAX_FILE_BYTES if purpose == "batch" else most):
        detail = f"the file has more than {most} bytes, the most that any model here accepts"
        detail = FILE_TOO_LARGE if purpose == "batch" else detail
        raise HttpProblem(problems.PAYLOAD_TOO_LARGE, detail, param="bytes")
    upload = await services.files.create_upload(
        tenant, check_name(name), purpose, size_bytes, read_lifetime("expires_after", asked)
    )
    return json_response(_show(upload, "pending"))


@router.post("/openai/v1/uploads/{upload_id}/parts")
async def add_part(request: Request, upload_id: str) -> Response:
    """Store a part of the file. Parts may come in any order, also at the same time."""
    refuse_unknown_query(request)
    services, tenant = services_of(request), caller_of(request).tenant
    upload = await services.files.find_upload(tenant, upload_id)
    now = int(services.clock().timestamp())
    if now >= upload.expires_at:
        raise HttpProblem(problems.NOT_FOUND, f"the upload {upload_id} has expired")
    with services.bodies.counting(tenant) as held:
        data = (await read_body(request, held)).take_file("data").data
        if not data:
            raise refused("data", "the part is empty")
        part_id = await services.files.add_part(tenant, upload, data)
    part = {"id": part_id, "object": "upload.part", "created_at": now, "upload_id": upload_id}
    return json_response(part)


@router.post("/openai/v1/uploads/{upload_id}/complete")
async def complete_upload(request: Request, upload_id: str) -> Response:
    """Make the file of its parts, in the order of their ids in the request."""
    asked = await _read(request, ("md5", "part_ids"))
    if asked.get("md5") is not None:
        raise refused("md5", "the gateway does not check it; omit it")
    parts: Any = asked.get("part_ids")
    is_list = isinstance(parts, list) and all(isinstance(each, str) for each in parts)
    if not is_list or not 1 <= len(parts) <= MAX_PARTS:
        raise refused("part_ids", f"expected a list of 1 to {MAX_PARTS} ids of parts")
    files, tenant = services_of(request).files, caller_of(request).tenant
    upload = await files.find_upload(tenant, upload_id)
    stored = await files.complete(tenant, upload, parts)
    return json_response(_show(upload, "completed", stored))


@router.post("/openai/v1/uploads/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str) -> Response:
    """Forget an upload that is not completed."""
    refuse_unknown_query(request)
    files, tenant = services_of(request).files, caller_of(request).tenant
    upload = await files.find_upload(tenant, upload_id)
    await files.cancel(tenant, upload)
    return json_response(_show(upload, "cancelled"))


async def _read(request: Request, known: tuple[str, ...]) -> dict[str, Json]:
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, _ = await read_object(request, held)
    refuse_unknown_members(asked, known)
    return asked


def refuse_unknown_members(asked: dict[str, Json], known: tuple[str, ...]) -> None:
    """Raise the problem `malformed-request` if a request has a member that is not known."""
    if unknown := sorted(asked.keys() - set(known)):
        raise refused(unknown[0][:100], f"unknown member; the members are {', '.join(known)}")


def read_lifetime(member: str, asked: dict[str, Json]) -> int | None:
    """Return after how many seconds a file expires; None if the request does not say it."""
    given = asked.get(member)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise refused(member, "expected a JSON object")
    return check_lifetime(given.get("anchor"), given.get("seconds"))


def _show(upload: FileUpload, status: str, stored: StoredFile | None = None) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.file.size_bytes,
        "created_at": upload.file.created_at,
        "expires_at": upload.expires_at,
        "filename": upload.file.name,
        "purpose": upload.file.purpose,
        "status": status,
        "file": stored and show_file(stored),
    }
