"""Operations on one container, and on the account."""

from __future__ import annotations

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.index import reads, writes
from emulator.blobs.operations.context import Context, metadata_headers, version_headers
from emulator.blobs.response import Response, xml_response


async def get_account(context: Context) -> Response:
    """Get Account Information."""
    return Response(
        200,
        {
            "Content-Length": "0",
            "x-ms-sku-name": "Standard_LRS",
            "x-ms-account-kind": "StorageV2",
            "x-ms-is-hns-enabled": "false",
        },
    )


async def create_container(context: Context) -> Response:
    """Create Container."""
    request = context.request
    if "x-ms-blob-public-access" in request.headers:
        raise StorageError(ErrorCode.PUBLIC_ACCESS_NOT_PERMITTED)
    container = await context.store.change(
        writes.create_container, request.container, context.metadata, context.now_us
    )
    return Response(201, {"Content-Length": "0", **version_headers(container)})


async def get_container(context: Context) -> Response:
    """Get Container Properties, and Get Container Metadata."""
    container = context.store.read(reads.find_container, context.request.container)
    headers = {
        "Content-Length": "0",
        **version_headers(container),
        **metadata_headers(container.metadata),
    }
    if context.request.comp != "metadata":
        headers |= {
            "x-ms-lease-status": "unlocked",
            "x-ms-lease-state": "available",
            "x-ms-has-immutability-policy": "false",
            "x-ms-has-legal-hold": "false",
        }
    return Response(200, headers)


async def set_container_metadata(context: Context) -> Response:
    """Set Container Metadata."""
    container = await context.store.change(
        writes.set_container_metadata,
        context.request.container,
        context.metadata,
        context.conditions,
        context.now_us,
    )
    return Response(200, {"Content-Length": "0", **version_headers(container)})


async def delete_container(context: Context) -> Response:
    """Delete Container: at once, where Azure takes half a minute."""
    orphans = await context.store.change(
        writes.delete_container, context.request.container, context.conditions
    )
    context.store.streams.release(orphans)
    return Response(202, {"Content-Length": "0"})


async def get_container_acl(context: Context) -> Response:
    """Get Container ACL: there are no stored access policies."""
    container = context.store.read(reads.find_container, context.request.container)
    document = '<?xml version="1.0" encoding="utf-8"?><SignedIdentifiers />'
    return xml_response(document, version_headers(container))
