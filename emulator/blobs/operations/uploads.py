"""Operations that write a blob or its blocks, and the operation that lists the blocks."""

from __future__ import annotations

import base64
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec, TypeVar

from emulator.blobs.content import Uploaded
from emulator.blobs.errors import ErrorCode, StorageError, invalid_header, not_implemented
from emulator.blobs.headers import (
    DEFAULT_CONTENT_TYPE,
    WritePrecondition,
    read_blob_properties,
)
from emulator.blobs.index import queries, writes
from emulator.blobs.index.schema import (
    APPEND_BLOB,
    BLOCK_BLOB,
    CURRENT,
    AppendedBlock,
    Blob,
    NewBlob,
    Segment,
    UncommittedBlock,
    WriteResult,
)
from emulator.blobs.names import read_block_id_length
from emulator.blobs.operations.context import (
    BlobResponse,
    OperationContext,
    build_version_headers,
    build_xml_response,
)
from emulator.blobs.operations.copies import copy_blob, open_body
from emulator.blobs.xml import build_block_list, parse_block_list

P = ParamSpec("P")
T = TypeVar("T")

_MIB = 1024 * 1024
PUT_BLOB_BYTES_MAX = 5000 * _MIB
PUT_BLOCK_BYTES_MAX = 4000 * _MIB
# The largest block that Append Block accepts, since and before API version 2022-11-02.
APPEND_BLOCK_BYTES_MAX = 100 * _MIB
_OLD_APPEND_BLOCK_BYTES_MAX = 4 * _MIB
_LARGE_APPEND_VERSION = "2022-11-02"
# Small blocks at the beginning of an append blob are stored in the index, which is faster. A read
# has them all in memory.
_INLINE_APPENDS_BYTES_MAX = 4 * _MIB
_SIZE_DIGITS_MAX = 18
_BLOCK_LIST_BYTES_MAX = 8 * _MIB
_ENCRYPTED = {"x-ms-request-server-encrypted": "true"}


async def put_blob(context: OperationContext) -> BlobResponse:
    """Put Blob: store a whole block blob, or create an empty append blob."""
    request, store = context.request, context.store
    kind = request.headers.get("x-ms-blob-type")
    if kind is None and "x-ms-copy-source" in request.headers:
        return await copy_blob(context)
    if kind == APPEND_BLOB:
        return await _create_append_blob(context)
    if kind == "PageBlob":
        raise not_implemented(kind)
    if kind is None:
        raise StorageError(ErrorCode.MISSING_REQUIRED_HEADER, HeaderName="x-ms-blob-type")
    if kind != BLOCK_BLOB:
        raise invalid_header("x-ms-blob-type", kind)
    new = _new_blob(context, single_put=True)
    _refuse_early(context)
    with open_body(context) as (body, source):
        uploaded = await store.streams.receive(body, PUT_BLOB_BYTES_MAX, inline=True)
    if source is not None:
        new = _keep_properties(context, new, source)
    digest = base64.b64encode(uploaded.md5).decode()
    new.properties.setdefault("Content-MD5", digest)
    content = (
        uploaded.data if uploaded.data is not None else Segment(0, uploaded.size, uploaded.content)
    )
    written = await _commit(
        context, uploaded, writes.put_blob, new, content, _read_precondition(context)
    )
    return _created(context, written, {"Content-MD5": digest})


async def _create_append_blob(context: OperationContext) -> BlobResponse:
    length = context.request.headers.get("content-length", "0")
    if length != "0":
        raise invalid_header("Content-Length", length)
    new = replace(_new_blob(context, single_put=True), kind=APPEND_BLOB)
    written = await context.store.change(
        writes.create_append_blob, new, _read_precondition(context)
    )
    return _created(context, written, {})


async def append_block(context: OperationContext) -> BlobResponse:
    """Append Block: add a block at the end of an append blob."""
    request, store = context.request, context.store
    is_large = _read_version(context) >= _LARGE_APPEND_VERSION
    maximum = APPEND_BLOCK_BYTES_MAX if is_large else _OLD_APPEND_BLOCK_BYTES_MAX
    with open_body(context) as (body, _):
        size = body.required_length(maximum)
        if size == 0:
            raise invalid_header("Content-Length", "0")
        block = AppendedBlock(
            size,
            "",
            _read_size(context, "x-ms-blob-condition-appendpos"),
            _read_size(context, "x-ms-blob-condition-maxsize"),
        )
        # Refuse the request before its body is received. The transaction checks this again.
        current = store.read(queries.find_blob, request.container, request.blob)
        writes.check_append(current, block, context.conditions)
        is_short = current.size < _INLINE_APPENDS_BYTES_MAX
        uploaded = await store.streams.receive(body, maximum, inline=is_short)
    blob = await _commit(
        context,
        uploaded,
        writes.append_block,
        request.container,
        request.blob,
        replace(block, content=uploaded.content, data=uploaded.data),
        context.conditions,
    )
    return BlobResponse(
        201,
        {
            "Content-Length": "0",
            "Content-MD5": base64.b64encode(uploaded.md5).decode(),
            **build_version_headers(blob),
            "x-ms-blob-append-offset": str(blob.size - size),
            "x-ms-blob-committed-block-count": str(blob.append_blocks),
            **_ENCRYPTED,
        },
    )


def _read_version(context: OperationContext) -> str:
    request = context.request
    return request.headers.get("x-ms-version") or request.parameter("sv") or ""


def _read_size(context: OperationContext, name: str) -> int | None:
    value = context.request.headers.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()) or len(value) > _SIZE_DIGITS_MAX:
        raise invalid_header(name, value)
    return int(value)


async def put_block(context: OperationContext) -> BlobResponse:
    """Put Block: store an uncommitted block, which Put Block List can commit later."""
    request, store = context.request, context.store
    block_id = request.parameter("blockid")
    if not block_id:
        raise StorageError(ErrorCode.MISSING_REQUIRED_QUERY_PARAMETER, QueryParameterName="blockid")
    read_block_id_length(block_id)
    store.read(queries.find_container_id, request.container)
    conditions = context.conditions  # refuse a malformed header before the body is received
    with open_body(context) as (body, _):
        if body.required_length(PUT_BLOCK_BYTES_MAX) == 0:
            raise invalid_header("Content-Length", "0")
        uploaded = await store.streams.receive(body, PUT_BLOCK_BYTES_MAX, inline=False)
    unreferenced = await _commit(
        context,
        uploaded,
        writes.put_block,
        request.container,
        request.blob,
        UncommittedBlock(block_id, uploaded.size, uploaded.content),
        conditions,
    )
    store.streams.release(unreferenced)
    digest = base64.b64encode(uploaded.md5).decode()
    return BlobResponse(201, {"Content-Length": "0", "Content-MD5": digest, **_ENCRYPTED})


async def put_block_list(context: OperationContext) -> BlobResponse:
    """Put Block List: create or replace a blob from the blocks that the request lists."""
    request, store = context.request, context.store
    new = _new_blob(context)
    _refuse_early(context)
    document = await request.body.read(_BLOCK_LIST_BYTES_MAX)
    digest = hashlib.md5(document, usedforsecurity=False).digest()
    context.check_md5(digest)
    entries = await store.streams.run(parse_block_list, document)
    written = await store.change(writes.commit_blocks, new, entries, _read_precondition(context))
    return _created(context, written, {"Content-MD5": base64.b64encode(digest).decode()})


async def get_block_list(context: OperationContext) -> BlobResponse:
    """Get Block List: return a blob's committed blocks, uncommitted blocks, or both."""
    request, store = context.request, context.store
    kind = (request.parameter("blocklisttype") or "committed").lower()
    if kind not in {"committed", "uncommitted", "all"}:
        raise StorageError(
            ErrorCode.INVALID_QUERY_PARAMETER_VALUE, QueryParameterName="blocklisttype"
        )
    container = store.read(queries.find_container_id, request.container)
    blob = store.read(queries.look_up_blob, container, request.blob, context.snapshot)
    staged = []
    if context.snapshot == CURRENT:
        staged = await store.read_long(queries.find_uncommitted_blocks, container, request.blob)
    if blob is None and not staged:
        raise StorageError(ErrorCode.BLOB_NOT_FOUND)
    if blob is not None:
        writes.check_kind(blob, BLOCK_BLOB)
    context.conditions.check_lease(blob, requires_id=False)
    headers = {}
    committed = []
    if blob is not None:
        headers = {**build_version_headers(blob), "x-ms-blob-content-length": str(blob.size)}
        parts = await store.read_long(queries.find_segments, blob.id, 0, blob.size)
        committed = [(part.block_id, part.size) for part in parts if part.block_id]
    document = build_block_list(
        committed if kind != "uncommitted" else None,
        [(block.block_id, block.size) for block in staged] if kind != "committed" else None,
    )
    return build_xml_response(document, headers)


def _new_blob(context: OperationContext, *, single_put: bool = False) -> NewBlob:
    request = context.request
    properties = read_blob_properties(request.headers, single_put=single_put)
    properties.setdefault("Content-Type", DEFAULT_CONTENT_TYPE)
    return NewBlob(
        request.container,
        request.blob,
        properties,
        context.metadata,
        context.now_us,
        tags=context.tags,
    )


def _keep_properties(context: OperationContext, new: NewBlob, source: Blob) -> NewBlob:
    """Return `new` with those properties of `source`, except the MD5, that it does not set."""
    headers = context.request.headers
    if headers.get("x-ms-copy-source-blob-properties", "true").lower() != "true":
        return new
    kept = {name: value for name, value in source.properties.items() if name != "Content-MD5"}
    return replace(new, properties=kept | read_blob_properties(headers))


def _read_precondition(context: OperationContext) -> WritePrecondition:
    return WritePrecondition(context.conditions, context.grant.may_overwrite)


def _refuse_early(context: OperationContext) -> None:
    """Raise StorageError before the body is received; the transaction checks again."""
    request, store = context.request, context.store
    container = store.read(queries.find_container_id, request.container)
    current = store.read(queries.look_up_blob, container, request.blob)
    _read_precondition(context).check(current)


async def _commit(
    context: OperationContext,
    uploaded: Uploaded,
    change: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Check the MD5 digest of an uploaded body, and add the body to the index with `change`.

    Remove its content file if this is refused; after another error the index may use the file.
    """
    try:
        context.check_md5(uploaded.md5, _digest_header(context))
        return await context.store.change(change, *args, **kwargs)
    except StorageError:
        context.store.streams.discard(uploaded)
        raise


def _digest_header(context: OperationContext) -> str:
    is_copy = "x-ms-copy-source" in context.request.headers
    return "x-ms-source-content-md5" if is_copy else "content-md5"


def _created(
    context: OperationContext, written: WriteResult, headers: dict[str, str]
) -> BlobResponse:
    context.store.streams.release(written.unreferenced)
    fixed = {"Content-Length": "0", **build_version_headers(written.blob), **_ENCRYPTED}
    return BlobResponse(201, {**fixed, **headers})
