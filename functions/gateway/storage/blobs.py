"""Blobs that are changed under conditions, looked at and listed: claims, uploads, housekeeping."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from azure.core import MatchConditions
from azure.core.exceptions import (
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobClient

from gateway.storage.container import Container, answering
from gateway.storage.small import SmallBlobs

_JSON = ContentSettings(content_type="application/json")


@dataclass(frozen=True, slots=True)
class Note:
    """A small blob as it was when it had this ETag."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Look:
    """What a blob is, and its first bytes."""

    media_type: str
    size_bytes: int
    etag: str
    head: bytes = field(repr=False)
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class Listed:
    """A blob in a list."""

    name: str
    etag: str
    modified_at: datetime


class Blobs(Protocol):
    """What the gateway asks of blobs beside payloads. Each verb raises Unavailable."""

    async def create(self, blob: str, data: bytes) -> str | None:
        """Write a blob that must not exist; its ETag, or None where it exists."""

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Write over the blob that has this ETag; its new one, or None where it has another."""

    async def read(self, blob: str) -> Note | None:
        """A small blob, or None."""

    async def look(self, blob: str, head_bytes: int = 0) -> Look | None:
        """What a blob is and how it begins, or None."""

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete a blob, if it still has this ETag; nothing happens where it is gone."""

    def list(self, prefix: str) -> AsyncIterator[Listed]:
        """The blobs whose names begin so, in the order of their names."""


class ContainerBlobs:
    """The blobs of an Azure container."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._small = SmallBlobs(container)

    async def create(self, blob: str, data: bytes) -> str | None:
        """See Blobs. A repeat after a lost answer finds its own blob, as if somebody else's."""
        return await self._small.create(blob, data)

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """See Blobs."""
        return await self._small.replace(blob, data, etag)

    async def read(self, blob: str) -> Note | None:
        """See Blobs."""
        found = await self._small.read(blob)
        return None if found is None else Note(*found)

    async def look(self, blob: str, head_bytes: int = 0) -> Look | None:
        """See Blobs."""
        client = self._blob(blob)
        async with answering("look"):
            try:
                found = await client.get_blob_properties()
                head = b""
                if found.size and head_bytes:
                    stream = await client.download_blob(
                        offset=0,
                        length=min(head_bytes, found.size),
                        etag=found.etag,
                        match_condition=MatchConditions.IfNotModified,
                        # Else whoever wrote the blob could have us unpack it, or fail in that.
                        decompress=False,
                    )
                    head = await stream.readall()
            except (ResourceNotFoundError, ResourceModifiedError):
                return None
        about = found.content_settings
        return Look(
            about.content_type or "",
            found.size,
            str(found.etag),
            head,
            about.content_encoding or "",
        )

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """See Blobs."""
        given: dict[str, Any] = {}
        if etag:
            given = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        async with answering("delete"):
            try:
                await self._blob(blob).delete_blob(**given)
            except (ResourceNotFoundError, ResourceModifiedError):
                return

    async def list(self, prefix: str) -> AsyncIterator[Listed]:
        """See Blobs."""
        pages = self._container.client.list_blobs(name_starts_with=prefix).by_page()
        while True:
            async with answering("list"):
                try:
                    page = [found async for found in await anext(pages)]
                except (StopAsyncIteration, ResourceNotFoundError):
                    return  # that was all, or not even the container is there
            for found in page:
                yield Listed(found.name, str(found.etag), found.last_modified)

    def _blob(self, name: str) -> BlobClient:
        return self._container.client.get_blob_client(name)
