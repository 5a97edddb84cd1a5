"""List Containers and List Blobs."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Collection

from emulator.blobs.errors import ErrorCode, StorageError, invalid_query, not_implemented
from emulator.blobs.index import listing
from emulator.blobs.operations.context import Context
from emulator.blobs.request import Request
from emulator.blobs.response import Response, xml_response
from emulator.blobs.xml import blob_item, container_item
from emulator.blobs.xml import listing as listing_document

_PAGE_MAX = 5000
# Of the last ones there are never any here, so that including them is done by doing nothing.
_BLOB_INCLUDES = frozenset({"metadata", "copy", "deleted", "snapshots", "versions", "tags"})
_CONTAINER_INCLUDES = frozenset({"metadata", "deleted", "system"})
_UNSUPPORTED = ("startfrom", "endbefore", "showonly")


async def list_containers(context: Context) -> Response:
    """One page of the account's containers."""
    request = context.request
    prefix = request.parameter("prefix") or ""
    limit = _page_size(request)
    include = _include(request, _CONTAINER_INCLUDES)
    start = _start(request)

    def document(db: sqlite3.Connection) -> str:
        found, next_name = listing.list_containers(db, prefix, start, limit)
        return listing_document(
            {"ServiceEndpoint": _endpoint(request)},
            _echoes(request, ("Prefix", "Marker", "MaxResults")),
            "Containers",
            [container_item(item, with_metadata="metadata" in include) for item in found],
            _marker(next_name),
        )

    return xml_response(await context.store.read_long(document))


async def list_blobs(context: Context) -> Response:
    """One page of a container's blobs, folded at the delimiter if one is given."""
    request = context.request
    for name in _UNSUPPORTED:
        if request.parameter(name) is not None:
            raise not_implemented(name)
    include = _include(request, _BLOB_INCLUDES)
    query = listing.BlobQuery(
        request.parameter("prefix") or "",
        request.parameter("delimiter") or "",
        _start(request),
        _page_size(request),
    )

    def document(db: sqlite3.Connection) -> str:
        page = listing.list_blobs(db, request.container, query)
        return listing_document(
            {"ServiceEndpoint": _endpoint(request), "ContainerName": request.container},
            _echoes(request, ("Prefix", "Marker", "MaxResults", "Delimiter")),
            "Blobs",
            [blob_item(entry, with_metadata="metadata" in include) for entry in page.entries],
            _marker(page.next_name),
        )

    return xml_response(await context.store.read_long(document))


def _endpoint(request: Request) -> str:
    return f"http://{request.headers.get('host', '')}/{request.account}"


def _echoes(request: Request, names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: request.parameter(name.lower()) for name in names}


def _page_size(request: Request) -> int:
    value = request.parameter("maxresults")
    if value is None:
        return _PAGE_MAX
    if not (value.isascii() and value.isdigit()) or len(value) > 10:
        raise invalid_query("maxresults", value)
    if int(value) == 0:
        raise StorageError(
            ErrorCode.OUT_OF_RANGE_QUERY_PARAMETER,
            QueryParameterName="maxresults",
            QueryParameterValue=value,
            MinimumAllowed="1",
            MaximumAllowed=str(_PAGE_MAX),
        )
    return min(int(value), _PAGE_MAX)


def _include(request: Request, known: Collection[str]) -> set[str]:
    value = request.parameter("include") or ""
    wanted = {part.strip().lower() for part in value.split(",") if part.strip()}
    if "uncommittedblobs" in wanted:
        raise not_implemented("include=uncommittedblobs")
    if not wanted <= set(known):
        raise invalid_query("include", value)
    return wanted


def _marker(next_name: str | None) -> str:
    if next_name is None:
        return ""
    return base64.urlsafe_b64encode(next_name.encode()).decode()


def _start(request: Request) -> str:
    """The name at which a marker of ours says that the page begins."""
    value = request.parameter("marker") or ""
    try:
        return base64.b64decode(value, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid_query("marker", value, "It was not returned by a listing.") from None
