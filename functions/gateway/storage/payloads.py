"""The port to payloads that are too large for a message, and signed links to their blobs."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from contract.messages import PayloadRef

PIECE_BYTES: Final = 512 * 1024
"""The size of the pieces in which a payload is read."""


class PayloadStore:
    """The stored payloads. Each method raises Unavailable if the storage fails."""

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store a payload in the blob with this name; return the payload reference."""
        raise NotImplementedError

    async def put_pieces(
        self, blob: str, pieces: AsyncIterator[bytes], media_type: str
    ) -> PayloadRef:
        """Store a payload that arrives in pieces in a new blob; an error of `pieces` leaves none.

        No other call may write this blob. Each piece is a block, and the blob exists only when all
        blocks are committed. If this process dies before, Azure deletes the blocks after a week.
        """
        raise NotImplementedError

    async def put_block(self, blob: str, block: str, data: bytes) -> None:
        """Store a part of a payload. The ids of all blocks of a blob have the same length."""
        raise NotImplementedError

    async def commit_blocks(self, blob: str, blocks: Sequence[str], media_type: str) -> bool:
        """Make a blob of its blocks; return False if one of them is missing."""
        raise NotImplementedError

    async def discard_blocks(self, blob: str) -> None:
        """Delete the blocks of a blob that is not committed: an empty blob replaces them."""
        raise NotImplementedError

    async def get(self, ref: PayloadRef) -> bytes:
        """Return the payload to which `ref` refers.

        Raises MissingPayload if there is no such blob, or PayloadCorrupt if its size or digest
        differs.
        """
        raise NotImplementedError

    def get_pieces(self, ref: PayloadRef) -> AsyncIterator[bytes]:
        """Yield the payload to which `ref` refers in pieces.

        Raises the same errors as `get`, but PayloadCorrupt only before the last piece.
        """
        raise NotImplementedError

    async def check(self) -> None:
        """Check that the storage responds. Succeeds even if the container does not exist."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections to blob storage."""
        raise NotImplementedError


class PayloadLinks:
    """Makes links to blobs. Each method raises Unavailable if the storage fails."""

    upload_headers: Mapping[str, str] = {}
    """The headers that an upload to a link needs, beside its media type."""

    @property
    def origin(self) -> str:
        """The origin of the links, for example `https://account.blob.core.windows.net`."""
        raise NotImplementedError

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """Return a URL that permits only creating this blob, until `expires_at`.

        The permission to write would also permit leases, which would keep the blob from deletion.
        """
        raise NotImplementedError

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """Return a URL from which this blob can be downloaded until `expires_at`.

        The response has this media type and suggests this file name.
        """
        raise NotImplementedError
