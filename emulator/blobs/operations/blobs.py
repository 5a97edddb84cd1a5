"""Operations that read a blob, change its properties or metadata, or delete it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header
from emulator.blobs.headers import (
    DEFAULT_CONTENT_TYPE,
    ByteRange,
    read_blob_properties,
    read_requested_range,
)
from emulator.blobs.index import queries, writes
from emulator.blobs.index.schema import APPEND_BLOB, CURRENT, Blob
from emulator.blobs.operations.context import (
    BlobResponse,
    OperationContext,
    build_lease_headers,
    build_metadata_headers,
    build_version_headers,
    build_xml_response,
)
from emulator.blobs.tags import parse_tags
from emulator.blobs.times import format_http_date
from emulator.blobs.xml import build_tags

_TAGS_BYTES_MAX = 64 * 1024
_RANGE_MD5_BYTES_MAX = 4 * 1024 * 1024


async def get_blob(context: OperationContext) -> BlobResponse:
    """Get Blob: return the whole blob or the byte range that the request asks for."""
    request, store = context.request, context.store
    blob = store.read(
        queries.find_blob, request.container, request.blob, context.snapshot, with_data=True
    )
    context.conditions.check_read(blob)
    requested = read_requested_range(request.headers, blob.size)
    byte_range = requested or ByteRange(0, blob.size)
    headers = _blob_headers(context, blob)
    headers["Content-Length"] = str(byte_range.size)
    if requested is not None:
        headers["Content-Range"] = requested.content_range(blob.size)
        if digest := headers.pop("Content-MD5", None):
            headers["x-ms-blob-content-md5"] = digest
    wants_md5 = _wants_range_md5(context, requested)
    response = BlobResponse(200 if requested is None else 206, headers)
    if blob.data is not None:
        response.body = (
            blob.data if requested is None else blob.data[byte_range.start : byte_range.stop]
        )
    elif blob.size:
        segments = store.read(queries.find_segments, blob.id, byte_range.start, byte_range.stop)
        response.stream = store.streams.open(segments, byte_range)
        if wants_md5:
            # Read the whole range, at most 4 MiB: the digest is in a header, which precedes the
            # content.
            response.body = await response.stream.read()
            response.stream = None
    if wants_md5:
        headers["Content-MD5"] = _encoded_md5(response.body)
    return response


async def get_blob_properties(context: OperationContext) -> BlobResponse:
    """Get Blob Properties: return the blob's properties and metadata as headers."""
    request = context.request
    blob = context.store.read(queries.find_blob, request.container, request.blob, context.snapshot)
    context.conditions.check_read(blob)
    headers = _blob_headers(context, blob)
    headers["Content-Length"] = str(blob.size)
    return BlobResponse(200, headers)


async def get_blob_metadata(context: OperationContext) -> BlobResponse:
    """Get Blob Metadata: return the blob's metadata as headers."""
    request = context.request
    blob = context.store.read(queries.find_blob, request.container, request.blob, context.snapshot)
    context.conditions.check_read(blob)
    headers = {
        "Content-Length": "0",
        **build_version_headers(blob),
        **build_metadata_headers(blob.metadata),
    }
    return BlobResponse(200, headers)


async def set_blob_properties(context: OperationContext) -> BlobResponse:
    """Set Blob Properties: replace all; those that the request lacks are cleared."""
    properties = read_blob_properties(context.request.headers)
    blob = await _describe(context, lambda blob: replace(blob, properties=properties, copy=None))
    return BlobResponse(200, {"Content-Length": "0", **build_version_headers(blob)})


async def set_blob_metadata(context: OperationContext) -> BlobResponse:
    """Set Blob Metadata: replace all metadata of a blob."""
    metadata = context.metadata
    blob = await _describe(context, lambda blob: replace(blob, metadata=metadata))
    headers = {"Content-Length": "0", **build_version_headers(blob)}
    return BlobResponse(200, {**headers, "x-ms-request-server-encrypted": "true"})


async def get_blob_tags(context: OperationContext) -> BlobResponse:
    """Get Blob Tags: return the blob's tags as an XML document."""
    request = context.request
    blob = context.store.read(queries.find_blob, request.container, request.blob, context.snapshot)
    context.conditions.check_lease(blob, requires_id=False)
    return build_xml_response(f'<?xml version="1.0" encoding="utf-8"?>{build_tags(blob.tags)}')


async def set_blob_tags(context: OperationContext) -> BlobResponse:
    """Set Blob Tags: replace all tags of a blob."""
    request = context.request
    document = await request.body.read(_TAGS_BYTES_MAX)
    context.check_md5(hashlib.md5(document, usedforsecurity=False).digest())
    await context.store.change(
        writes.set_blob_tags,
        request.container,
        request.blob,
        context.conditions,
        parse_tags(document),
    )
    return BlobResponse(204)


async def create_snapshot(context: OperationContext) -> BlobResponse:
    """Snapshot Blob: create a read-only copy of a blob, identified by its creation time."""
    snapshot = await context.store.change(
        writes.create_snapshot,
        context.request.container,
        context.request.blob,
        context.conditions,
        context.metadata,
    )
    headers = {"Content-Length": "0", **build_version_headers(snapshot)}
    return BlobResponse(
        201,
        {
            **headers,
            "x-ms-snapshot": snapshot.snapshot,
            "x-ms-request-server-encrypted": "true",
        },
    )


async def delete_blob(context: OperationContext) -> BlobResponse:
    """Delete Blob: delete a blob with or without its snapshots, only these, or one snapshot."""
    request, store = context.request, context.store
    value = request.headers.get("x-ms-delete-snapshots", "").lower()
    try:
        snapshots = writes.DeletedSnapshots(value)
    except ValueError:
        raise invalid_header("x-ms-delete-snapshots", value) from None
    if context.snapshot == CURRENT:
        unreferenced = await store.change(
            writes.delete_blob, request.container, request.blob, context.conditions, snapshots
        )
    elif value:
        raise invalid_header("x-ms-delete-snapshots", value)
    else:
        unreferenced = await store.change(
            writes.delete_snapshot,
            request.container,
            request.blob,
            context.snapshot,
            context.conditions,
        )
    store.streams.release(unreferenced)
    return BlobResponse(202, {"Content-Length": "0", "x-ms-delete-type-permanent": "true"})


async def _describe(context: OperationContext, update: Callable[[Blob], Blob]) -> Blob:
    return await context.store.change(
        writes.describe_blob,
        context.request.container,
        context.request.blob,
        context.conditions,
        lambda blob: replace(update(blob), modified_us=context.now_us),
    )


def _blob_headers(context: OperationContext, blob: Blob) -> dict[str, str]:
    headers = {
        "Content-Type": DEFAULT_CONTENT_TYPE,
        **blob.properties,
        **context.grant.response_headers,
        **build_version_headers(blob),
        **build_metadata_headers(blob.metadata),
        "Accept-Ranges": "bytes",
        "x-ms-creation-time": format_http_date(blob.created_us),
        "x-ms-blob-type": blob.kind,
        # A snapshot has no lease.
        **(build_lease_headers(blob.lease, context.now_us) if blob.snapshot == CURRENT else {}),
        "x-ms-server-encrypted": "true",
    }
    if blob.kind == APPEND_BLOB:
        headers["x-ms-blob-committed-block-count"] = str(blob.append_blocks)
    if blob.copy is not None:
        headers |= {
            "x-ms-copy-id": blob.copy.id,
            "x-ms-copy-source": blob.copy.source,
            "x-ms-copy-status": "success",
            "x-ms-copy-progress": f"{blob.size}/{blob.size}",
            "x-ms-copy-completion-time": format_http_date(blob.copy.completed_us),
        }
    if blob.tags:
        headers["x-ms-tag-count"] = str(len(blob.tags))
    return headers


def _wants_range_md5(context: OperationContext, requested: ByteRange | None) -> bool:
    value = context.request.headers.get("x-ms-range-get-content-md5", "false").lower()
    if value not in {"true", "false"} or (value == "true" and requested is None):
        raise invalid_header("x-ms-range-get-content-md5", value)
    if value == "true" and requested is not None and requested.size > _RANGE_MD5_BYTES_MAX:
        raise StorageError(ErrorCode.OUT_OF_RANGE_INPUT)
    return value == "true"


def _encoded_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
