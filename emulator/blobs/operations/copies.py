"""Copy a blob from a URL of this account. The service sends no requests to other hosts.

Copy Blob is done before its response is sent, so the copy status is always `success`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from emulator.blobs.authorization import RequiredPermission
from emulator.blobs.content import ContentStream
from emulator.blobs.errors import (
    ErrorCode,
    StorageError,
    copy_source_not_verified,
    invalid_header,
    not_implemented,
)
from emulator.blobs.headers import (
    ByteRange,
    Conditions,
    WritePrecondition,
    read_requested_range,
)
from emulator.blobs.index import queries, writes
from emulator.blobs.index.schema import Blob, CopyState, NewBlob
from emulator.blobs.operations.context import (
    BlobResponse,
    OperationContext,
    build_version_headers,
    read_snapshot,
)
from emulator.blobs.request import Body, parse_url

_READ = RequiredPermission("r", "o", "r")
_PREFIX = "x-ms-source-"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class CopySource:
    """The blob or snapshot that a request copies."""

    container: str
    name: str
    snapshot: str
    url: str


async def copy_blob(context: OperationContext) -> BlobResponse:
    """Copy Blob (From URL): create or replace a blob that shares the other's content files."""
    request, store = context.request, context.store
    is_sync = request.headers.get("x-ms-requires-sync", "false").lower() == "true"
    source = _authorize_source(context, allows_key=not is_sync)
    copy = CopyState(str(uuid4()), source.url, context.now_us)
    new = NewBlob(
        request.container,
        request.blob,
        {},
        context.metadata,
        context.now_us,
        tags=context.tags,
        copy=copy,
    )
    written = await store.change(
        writes.copy_blob,
        (source.container, source.name, source.snapshot),
        _source_conditions(context),
        new,
        WritePrecondition(context.conditions, context.grant.may_overwrite),
    )
    store.streams.release(written.unreferenced)
    return BlobResponse(
        202,
        {
            "Content-Length": "0",
            **build_version_headers(written.blob),
            "x-ms-copy-id": copy.id,
            "x-ms-copy-status": "success",
        },
    )


@contextlib.contextmanager
def open_body(context: OperationContext) -> Iterator[tuple[Body, Blob | None]]:
    """Yield the content of an upload, and the blob that `x-ms-copy-source` names, if any.

    Raises StorageError if the source does not exist or the request may not read it.
    """
    request, store = context.request, context.store
    if "x-ms-copy-source" not in request.headers:
        yield request.body, None
        return
    if (length := request.headers.get("content-length", "0")) != "0":
        raise invalid_header("Content-Length", length)
    blob = _find_source(context, _authorize_source(context, allows_key=False))
    asked = request.headers.get("x-ms-source-range")
    wanted = None if asked is None else read_requested_range({"x-ms-range": asked}, blob.size)
    part = wanted or ByteRange(0, blob.size)
    if blob.data is not None:
        yield SourceBody(part.size, blob.data[part.start : part.stop]), blob
        return
    segments = (
        store.read(queries.find_segments, blob.id, part.start, part.stop) if blob.size else []
    )
    stream = store.streams.open(segments, part)
    try:
        yield SourceBody(part.size, stream), blob
    finally:
        stream.close()


class SourceBody:
    """The content of a source blob, with the same methods as the body of a request."""

    def __init__(self, size: int, content: bytes | ContentStream) -> None:
        self._size = size
        self._content = content

    def required_length(self, maximum: int) -> int:
        """Return the length in bytes. Raises StorageError if it exceeds `maximum`."""
        if self._size > maximum:
            raise StorageError(ErrorCode.REQUEST_BODY_TOO_LARGE, MaxLimit=str(maximum))
        return self._size

    async def read(self, maximum: int) -> bytes:
        """Return the whole content. Raises StorageError if it exceeds `maximum` bytes."""
        self.required_length(maximum)
        return b"".join([piece async for piece in self.buffers(1)])

    async def buffers(self, size: int) -> AsyncIterator[bytes]:
        """Yield the content in pieces."""
        if isinstance(self._content, bytes):
            yield self._content
            return
        async for piece in self._content:
            yield piece


def _authorize_source(context: OperationContext, *, allows_key: bool) -> CopySource:
    """Return the source of a copy. Raises StorageError if the request may not read it.

    The account key is enough if `allows_key`; otherwise the source's URL must contain a SAS.
    """
    request = context.request
    url = request.headers["x-ms-copy-source"]
    if request.headers.get("x-ms-copy-source-tag-option", "replace").lower() != "replace":
        raise not_implemented("x-ms-copy-source-tag-option")
    if not _is_own_host(url, request.headers.get("host", "")):
        raise not_implemented("a copy from another host (x-ms-copy-source)")
    source = parse_url(url, request.client_address)
    if source.account != request.account:
        raise not_implemented("a copy from another account (x-ms-copy-source)")
    if not source.blob:
        raise invalid_header("x-ms-copy-source")
    if not (allows_key and context.grant.has_key):
        try:
            context.authenticator.authenticate(source, _READ)
        except StorageError as refused:
            raise copy_source_not_verified(refused) from None
    snapshot = read_snapshot(source)
    without_query = url.partition("?")[0]
    return CopySource(source.container, source.blob, snapshot, without_query)


def _is_own_host(url: str, host: str) -> bool:
    try:
        source, own = urlsplit(url), urlsplit(f"http://{host}")
        has_same_port = source.port == own.port
    except ValueError:
        raise invalid_header("x-ms-copy-source") from None
    hosts = {source.hostname, own.hostname}
    is_same = len(hosts) == 1 or hosts <= _LOOPBACK
    return source.scheme == "http" and is_same and has_same_port


def _find_source(context: OperationContext, source: CopySource) -> Blob:
    try:
        blob = context.store.read(
            queries.find_blob, source.container, source.name, source.snapshot, with_data=True
        )
    except StorageError as refused:
        raise copy_source_not_verified(refused) from None
    writes.check_source(blob, _source_conditions(context))
    return blob


def _source_conditions(context: OperationContext) -> Conditions:
    headers = {
        name.removeprefix(_PREFIX): value
        for name, value in context.request.headers.items()
        if name.startswith(_PREFIX + "if-")
    }
    return Conditions.parse(headers, context.now_us)
