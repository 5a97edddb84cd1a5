"""Operations that acquire, renew, change, release or break the lease of a blob or container."""

from __future__ import annotations

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.headers import VersionedResource
from emulator.blobs.index import writes
from emulator.blobs.lease import LeaseRequest
from emulator.blobs.operations.context import (
    BlobResponse,
    OperationContext,
    build_version_headers,
)

_STATUSES = {"acquire": 201, "break": 202}


async def lease_blob(context: OperationContext) -> BlobResponse:
    """Lease Blob: change the lease of a blob. The blob's ETag stays the same."""
    request, asked = context.request, _read(context)
    blob = await context.store.change(
        writes.lease_blob, request.container, request.blob, context.conditions, asked
    )
    return _respond(context, asked, blob)


async def lease_container(context: OperationContext) -> BlobResponse:
    """Lease Container: change the lease of a container. The container's ETag stays the same."""
    asked = _read(context)
    container = await context.store.change(
        writes.lease_container, context.request.container, context.conditions, asked
    )
    return _respond(context, asked, container)


def _read(context: OperationContext) -> LeaseRequest:
    asked = LeaseRequest.parse(context.request.headers)
    # A SAS with the permission to delete, but not to write, may only break a lease.
    if asked.action != "break" and not context.grant.may_overwrite:
        raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
    return asked


def _respond(
    context: OperationContext, asked: LeaseRequest, resource: VersionedResource
) -> BlobResponse:
    headers = {"Content-Length": "0", **build_version_headers(resource)}
    lease = resource.lease
    if asked.action == "break":
        headers["x-ms-lease-time"] = str(lease.remaining_seconds(context.now_us))
    elif asked.action != "release":
        headers["x-ms-lease-id"] = lease.id
    return BlobResponse(_STATUSES.get(asked.action, 200), headers)
