"""The port to small blobs, lists of blobs, and logs.

`azure` stores them in Azure Blob Storage, `s3` in S3 or in another store with its API.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """The content of a small blob, and its ETag."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """The properties of a blob, and the first bytes of its content."""

    media_type: str
    size_bytes: int
    etag: str
    head: bytes = field(repr=False)
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class ListedBlob:
    """One blob in a list of blobs."""

    name: str
    etag: str
    modified_at: datetime


class Blobs:
    """The blobs of the store. Each method raises Unavailable if the call fails."""

    async def create(self, blob: str, data: bytes) -> str | None:
        """Create a blob; return its ETag, or None if the blob already existed.

        If the response is lost, the request is repeated, and the result may be None although the
        first request has created the blob.
        """
        raise NotImplementedError

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Overwrite a blob; return its new ETag, or None if its ETag is not `etag`."""
        raise NotImplementedError

    async def read(self, blob: str) -> SmallBlob | None:
        """Return a small blob and its ETag; None if the blob does not exist."""
        raise NotImplementedError

    async def append(self, blob: str, data: bytes) -> int:
        """Append data to an append blob, which is created if it is missing; return its offset.

        If the response is lost, the request is repeated, and the data may be there twice. The
        offset is that of the last copy.
        """
        raise NotImplementedError

    async def append_at(self, blob: str, position: int, data: bytes) -> bool:
        """Append data to an append blob that is `position` bytes long; return whether it was.

        A blob that is missing has 0 bytes, and is created. If the response is lost, the request is
        repeated, and the result may be False although the first request has appended the data.
        """
        raise NotImplementedError

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes from an offset on; empty at the end or without a blob."""
        raise NotImplementedError

    async def read_version(self, blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
        """Do the same for a blob with this ETag. Raises MissingPayload if it is gone or changed."""
        raise NotImplementedError

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        """Return a blob's properties and first `head_bytes` bytes; None if the blob is missing."""
        raise NotImplementedError

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete a blob and its snapshots, even if the blob has a lease.

        Do nothing if the blob does not exist. If `etag` is given, keep a blob with another ETag.
        """
        raise NotImplementedError

    async def list_names(self, prefix: str) -> list[str]:
        """Return the names of the blobs with this prefix, which are plain ASCII, in their order.

        By a plain request, because the SDK needs 0.2 ms of processor time for each blob.
        """
        raise NotImplementedError

    def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """List the blobs whose names have this prefix, in the order of their names."""
        raise NotImplementedError
