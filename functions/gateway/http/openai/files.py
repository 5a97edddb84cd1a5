"""The routes under /openai/v1/files, which store, list and return files of the caller's tenant.

https://platform.openai.com/docs/api-reference/files
"""

from collections.abc import AsyncIterator
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse
from typing_extensions import TypedDict

from contract.errors import PayloadCorrupt
from contract.media import OCTET_STREAM
from contract.messages import Json
from gateway import problems
from gateway.errors import MissingPayload
from gateway.http.openai.forms import Form, read_body
from gateway.http.requests import (
    TextRoute,
    caller_of,
    parse_whole,
    refuse_unknown_query,
    services_of,
)
from gateway.http.responses import json_response
from gateway.problems import HttpProblem, invalid_input, malformed
from gateway.storage.files import StoredFile

LONGEST_PAGE: Final = 100
"""The largest number of files on a page. A client may ask for 10,000, as in the OpenAI API."""

_PURPOSES: Final = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
_SHORTEST_SECONDS: Final = 3600
_LONGEST_SECONDS: Final = 30 * 24 * 3600
_MAX_NAME_CHARACTERS: Final = 255

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


class FileObject(TypedDict):
    """A file, as the OpenAI API shows it."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


@router.post("/openai/v1/files")
async def create_file(request: Request) -> Response:
    """Store the file of a form."""
    services, tenant = services_of(request), caller_of(request).tenant
    refuse_unknown_query(request)
    with services.bodies.counting(tenant) as held:
        form = await read_body(request, held)
        file, purpose = form.take_file("file"), form.take_text("purpose")
        seconds = _take_lifetime(form)
        if unknown := form.names():
            raise malformed(f"unknown part {unknown[0][:100]!r} in the form; remove it")
        if not file.data:
            raise invalid_input("file: the file is empty", param="file")
        name, purpose = check_name(file.file_name), check_purpose(purpose)
        stored = await services.files.create(tenant, name, purpose, file.data, seconds)
    return json_response(show_file(stored))


def check_name(name: str | None) -> str:
    """Return the name of a file."""
    return (name or "file")[:_MAX_NAME_CHARACTERS]


def check_purpose(purpose: Json) -> str:
    """Return the purpose of a file. Raises the problem `invalid-input`."""
    if purpose not in _PURPOSES:
        raise invalid_input(f"purpose: expected {', '.join(_PURPOSES)}", param="purpose")
    return str(purpose)


def _take_lifetime(form: Form) -> int | None:
    """Return after how many seconds the file expires; None if the form does not say it."""
    anchor = form.take_text("expires_after[anchor]")
    text = form.take_text("expires_after[seconds]")
    if anchor is None and text is None:
        return None
    seconds = int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else 0
    return check_lifetime(anchor, seconds)


def check_lifetime(anchor: Json, seconds: Json) -> int:
    """Return after how many seconds a file expires. Raises the problem `invalid-input`."""
    is_whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if anchor == "created_at" and is_whole and _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS:
        return int(seconds)
    raise invalid_input(
        "expires_after: expected the anchor created_at, and from "
        f"{_SHORTEST_SECONDS} to {_LONGEST_SECONDS} seconds",
        param="expires_after",
    )


@router.get("/openai/v1/files")
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: str | None = None,
    order: str | None = None,
) -> Response:
    """Return a page of files, the newest first unless `order` is `asc`."""
    refuse_unknown_query(request, ("purpose", "after", "limit", "order"))
    if order not in {None, "asc", "desc"}:
        raise malformed("order: expected asc or desc")
    count = min(parse_whole("limit", limit, LONGEST_PAGE, 10_000), LONGEST_PAGE)
    found, has_more = await services_of(request).files.list_page(
        caller_of(request).tenant, purpose, after, count, newest_first=order != "asc"
    )
    page = {
        "object": "list",
        "data": [show_file(stored) for stored in found],
        "first_id": found[0].id if found else None,
        "last_id": found[-1].id if found else None,
        "has_more": has_more,
    }
    return json_response(page)


@router.get("/openai/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """Return what is known of a file."""
    stored = await services_of(request).files.find(caller_of(request).tenant, file_id)
    return json_response(show_file(stored))


@router.get("/openai/v1/files/{file_id}/content")
async def download_file(request: Request, file_id: str) -> Response:
    """Return the content of a file."""
    files, tenant = services_of(request).files, caller_of(request).tenant
    stored = await files.find(tenant, file_id)
    pieces = files.content(tenant, stored)
    try:
        first = await anext(pieces)
    except (MissingPayload, PayloadCorrupt):  # it was deleted a moment ago
        raise HttpProblem(problems.NOT_FOUND, f"the file {file_id} has been deleted") from None
    headers = {
        "Content-Length": str(stored.size_bytes),
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(_chain(first, pieces), media_type=OCTET_STREAM, headers=headers)


async def _chain(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in pieces:
        yield piece


@router.delete("/openai/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Delete a file."""
    await services_of(request).files.delete(caller_of(request).tenant, file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


def show_file(stored: StoredFile) -> FileObject:
    """Return a file as the API shows it."""
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.size_bytes,
        "created_at": stored.created_at,
        "expires_at": stored.expires_at,
        "filename": stored.name,
        "purpose": stored.purpose,
        "status": "processed",
    }
