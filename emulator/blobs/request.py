"""Parse an HTTP request and read its body."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, unquote_plus

from emulator.blobs.errors import ClientGoneError, ErrorCode, StorageError, invalid_header
from emulator.blobs.names import check_blob_name, check_container_name, decode_path

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

METADATA_PREFIX = "x-ms-meta-"
SAS_HEADERS = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}
"""The parameters of a SAS that set headers of the response, and the names of these headers."""
BODY_SILENCE_SECONDS = 120.0


class Body(Protocol):
    """The content of an upload: the body of a request, or a blob that the request copies."""

    def required_length(self, maximum: int) -> int:
        """Return the length in bytes. Raises StorageError if it is unknown or exceeds `maximum`."""

    async def read(self, maximum: int) -> bytes:
        """Return the whole content. Raises StorageError if it exceeds `maximum` bytes."""

    def buffers(self, size: int) -> AsyncIterator[bytes]:
        """Yield the content in buffers of about `size` bytes."""


class RequestBody:
    """The body of a request. It is read from the network when it is needed."""

    def __init__(self, receive: Receive, length: int | None) -> None:
        self._receive = receive
        self._length = length

    def required_length(self, maximum: int) -> int:
        """Return the `Content-Length`. Raises StorageError without one or above `maximum`."""
        if self._length is None:
            raise StorageError(ErrorCode.MISSING_CONTENT_LENGTH)
        if self._length > maximum:
            raise StorageError(ErrorCode.REQUEST_BODY_TOO_LARGE, MaxLimit=str(maximum))
        return self._length

    async def read(self, maximum: int) -> bytes:
        """Return the whole body. Raises StorageError or ClientGoneError."""
        length = self.required_length(maximum)
        if length == 0:
            return b""
        return b"".join([piece async for piece in self._pieces()])

    async def buffers(self, size: int) -> AsyncIterator[bytes]:
        """Yield buffers of `size` bytes or more, except the last. Raises ClientGoneError."""
        held: list[bytes] = []
        held_bytes = 0
        async for piece in self._pieces():
            held.append(piece)
            held_bytes += len(piece)
            if held_bytes >= size:
                yield b"".join(held)
                held.clear()
                held_bytes = 0
        if held:
            yield b"".join(held)

    async def _pieces(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            try:
                async with asyncio.timeout(BODY_SILENCE_SECONDS):
                    message = await self._receive()
            except TimeoutError:
                raise ClientGoneError(
                    f"the client sent no part of the request body for {BODY_SILENCE_SECONDS:g} s"
                ) from None
            if message["type"] != "http.request":
                raise ClientGoneError(
                    "the client disconnected before it sent the whole request body"
                )
            if piece := message.get("body", b""):
                yield piece
            more = message.get("more_body", False)


@dataclass(frozen=True, slots=True)
class BlobRequest:
    """A parsed request to the path `/account[/container[/blob]]`.

    The names in `headers` are in lower case; those of `metadata_pairs` are as sent, without the
    prefix `x-ms-meta-`.
    """

    method: str
    raw_path: str
    account: str
    container: str
    blob: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    metadata_pairs: tuple[tuple[str, str], ...]
    client_address: str
    body: RequestBody

    def parameter(self, name: str) -> str | None:
        """Return the first value of a query parameter (`name` in lower case), or None."""
        for key, value in self.query:
            if key.lower() == name:
                return value
        return None

    @property
    def comp(self) -> str:
        """The query parameter `comp` (such as `metadata`) in lower case; empty if absent."""
        return (self.parameter("comp") or "").lower()

    @property
    def restype(self) -> str:
        """The query parameter `restype` (such as `container`) in lower case; empty if absent."""
        return (self.parameter("restype") or "").lower()


def parse_request(scope: Scope, receive: Receive) -> BlobRequest:
    """Return the request that an ASGI scope describes. Raises StorageError if it is invalid."""
    headers: dict[str, str] = {}
    pairs = []
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip()
        lower = name.lower()
        headers[lower] = f"{headers[lower]},{value}" if lower in headers else value
        if lower.startswith(METADATA_PREFIX):
            pairs.append((name[len(METADATA_PREFIX) :], value))
    raw_path = scope["raw_path"].decode("latin-1")
    account, container, blob = _split_path(raw_path)
    client = scope.get("client")
    return BlobRequest(
        method=scope["method"],
        raw_path=raw_path,
        account=account,
        container=container,
        blob=blob,
        query=_parse_query(scope["query_string"].decode("latin-1")),
        headers=headers,
        metadata_pairs=tuple(pairs),
        client_address=client[0] if client else "",
        body=RequestBody(receive, _content_length(headers)),
    )


def parse_url(url: str, client_address: str) -> BlobRequest:
    """Return a GET request for a URL, without headers or body, from `client_address`.

    Raises StorageError if a name in the URL is invalid.
    """
    rest = url.partition("://")[2].partition("#")[0]
    path, _, query = rest.partition("?")
    raw_path = "/" + path.partition("/")[2]
    account, container, blob = _split_path(raw_path)
    return BlobRequest(
        method="GET",
        raw_path=raw_path,
        account=account,
        container=container,
        blob=blob,
        query=_parse_query(query),
        headers={},
        metadata_pairs=(),
        client_address=client_address,
        body=RequestBody(_read_nothing, 0),
    )


async def _read_nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}


def _split_path(raw_path: str) -> tuple[str, str, str]:
    account, _, rest = raw_path.removeprefix("/").partition("/")
    raw_container, _, raw_blob = rest.partition("/")
    # Azure treats a backslash in a name as a slash.
    container, blob = decode_path(raw_container), decode_path(raw_blob).replace("\\", "/")
    if container:
        check_container_name(container)
    if blob:
        check_blob_name(blob)
        if not container:
            raise StorageError(ErrorCode.INVALID_URI)
    return decode_path(account), container, blob


def _parse_query(raw: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        if name:
            # Only these values may have plus signs for spaces: .NET writes the headers of a SAS so.
            # A Shared Key signature is computed over other values with their plus signs.
            is_header = name.lower() in SAS_HEADERS
            pairs.append((unquote(name), unquote_plus(value) if is_header else unquote(value)))
    return tuple(pairs)


def _content_length(headers: dict[str, str]) -> int | None:
    value = headers.get("content-length")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit()):
        raise invalid_header("Content-Length", value)
    return int(value)
