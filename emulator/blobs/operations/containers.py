"""Operations on the account and on containers, including the listings of containers and blobs."""

from __future__ import annotations

import base64
import binascii
import sqlite3
from collections.abc import Collection

from emulator.blobs.errors import ErrorCode, StorageError, invalid_query, not_implemented
from emulator.blobs.index import queries, writes
from emulator.blobs.operations.context import (
    BlobResponse,
    OperationContext,
    build_lease_headers,
    build_metadata_headers,
    build_version_headers,
    build_xml_response,
)
from emulator.blobs.request import BlobRequest
from emulator.blobs.xml import build_blob_item, build_container_item, build_listing


async def get_account(context: OperationContext) -> BlobResponse:
    """Get Account Information: return the account's SKU and kind as headers."""
    return BlobResponse(
        200,
        {
            "Content-Length": "0",
            "x-ms-sku-name": "Standard_LRS",
            "x-ms-account-kind": "StorageV2",
            "x-ms-is-hns-enabled": "false",
        },
    )


async def create_container(context: OperationContext) -> BlobResponse:
    """Create Container: create an empty container with the request's metadata."""
    request = context.request
    if "x-ms-blob-public-access" in request.headers:
        raise StorageError(ErrorCode.PUBLIC_ACCESS_NOT_PERMITTED)
    container = await context.store.change(
        writes.create_container, request.container, context.metadata, context.now_us
    )
    return BlobResponse(201, {"Content-Length": "0", **build_version_headers(container)})


async def get_container(context: OperationContext) -> BlobResponse:
    """Get Container Properties, or Get Container Metadata if the parameter `comp` is `metadata`.

    While the data directory cannot be written, the former fails with ServerBusy, so that a
    readiness probe can detect this state.
    """
    if context.request.comp != "metadata" and context.store.disk.find_problem():
        raise StorageError(ErrorCode.SERVER_BUSY)
    container = context.store.read(queries.find_container, context.request.container)
    context.conditions.check_lease(container, requires_id=False)
    headers = {
        "Content-Length": "0",
        **build_version_headers(container),
        **build_metadata_headers(container.metadata),
    }
    if context.request.comp != "metadata":
        headers |= {
            **build_lease_headers(container.lease, context.now_us),
            "x-ms-has-immutability-policy": "false",
            "x-ms-has-legal-hold": "false",
        }
    return BlobResponse(200, headers)


async def set_container_metadata(context: OperationContext) -> BlobResponse:
    """Set Container Metadata: replace all metadata of a container."""
    container = await context.store.change(
        writes.set_container_metadata,
        context.request.container,
        context.metadata,
        context.conditions,
        context.now_us,
    )
    return BlobResponse(200, {"Content-Length": "0", **build_version_headers(container)})


async def delete_container(context: OperationContext) -> BlobResponse:
    """Delete Container. Unlike in Azure, its name is free at once."""
    unreferenced = await context.store.change(
        writes.delete_container, context.request.container, context.conditions
    )
    context.store.streams.release(unreferenced)
    return BlobResponse(202, {"Content-Length": "0"})


async def get_container_acl(context: OperationContext) -> BlobResponse:
    """Get Container ACL: return an empty list, because access policies are not supported."""
    container = context.store.read(queries.find_container, context.request.container)
    context.conditions.check_lease(container, requires_id=False)
    document = '<?xml version="1.0" encoding="utf-8"?><SignedIdentifiers />'
    return build_xml_response(document, build_version_headers(container))


_PAGE_MAX = 5000
# The known values of the parameter `include`. Only `metadata`, `snapshots` and `tags` are
# supported. The other values are accepted and do not change a listing.
_BLOB_INCLUDES = frozenset({"metadata", "copy", "deleted", "snapshots", "versions", "tags"})
_CONTAINER_INCLUDES = frozenset({"metadata", "deleted", "system"})
_UNSUPPORTED = ("startfrom", "endbefore", "showonly")


async def list_containers(context: OperationContext) -> BlobResponse:
    """List Containers: return one page of the account's containers."""
    request = context.request
    prefix = request.parameter("prefix") or ""
    limit = _page_size(request)
    include = _include(request, _CONTAINER_INCLUDES)
    start = _start(request)

    def document(db: sqlite3.Connection) -> str:
        found, next_name = queries.list_containers(db, prefix, start, limit)
        return build_listing(
            {"ServiceEndpoint": _endpoint(request)},
            _echoes(request, ("Prefix", "Marker", "MaxResults")),
            "Containers",
            [
                build_container_item(item, context.now_us, with_metadata="metadata" in include)
                for item in found
            ],
            _marker(next_name),
        )

    return build_xml_response(await context.store.read_long(document))


async def list_blobs(context: OperationContext) -> BlobResponse:
    """List Blobs: return one page of a container's blobs, or of their common prefixes."""
    request = context.request
    for name in _UNSUPPORTED:
        if request.parameter(name) is not None:
            raise not_implemented(name)
    include = _include(request, _BLOB_INCLUDES)
    snapshot, _, name = _start(request).partition("/")
    query = queries.BlobQuery(
        request.parameter("prefix") or "",
        request.parameter("delimiter") or "",
        (name, snapshot),
        _page_size(request),
        with_snapshots="snapshots" in include,
    )

    def document(db: sqlite3.Connection) -> str:
        page = queries.list_blobs(db, request.container, query)
        # The time of a snapshot contains no slash.
        next_start = page.next_start and f"{page.next_start[1]}/{page.next_start[0]}"
        return build_listing(
            {"ServiceEndpoint": _endpoint(request), "ContainerName": request.container},
            _echoes(request, ("Prefix", "Marker", "MaxResults", "Delimiter")),
            "Blobs",
            [build_blob_item(entry, context.now_us, include) for entry in page.entries],
            _marker(next_start),
        )

    return build_xml_response(await context.store.read_long(document))


def _endpoint(request: BlobRequest) -> str:
    return f"http://{request.headers.get('host', '')}/{request.account}"


def _echoes(request: BlobRequest, names: tuple[str, ...]) -> dict[str, str | None]:
    return {name: request.parameter(name.lower()) for name in names}


def _page_size(request: BlobRequest) -> int:
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


def _include(request: BlobRequest, known: Collection[str]) -> set[str]:
    value = request.parameter("include") or ""
    wanted = {part.strip().lower() for part in value.split(",") if part.strip()}
    if "uncommittedblobs" in wanted:
        raise not_implemented("include=uncommittedblobs")
    if not wanted <= set(known):
        raise invalid_query("include", value)
    return wanted


def _marker(next_start: str | None) -> str:
    if next_start is None:
        return ""
    return base64.urlsafe_b64encode(next_start.encode()).decode()


def _start(request: BlobRequest) -> str:
    """Return the start of the page that the request's marker selects; empty without one."""
    value = request.parameter("marker") or ""
    try:
        return base64.b64decode(value, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid_query(
            "marker",
            value,
            "The query parameter marker must be a NextMarker from the response to a list request.",
        ) from None
