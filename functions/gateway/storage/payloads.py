"""Payloads that are too large for a message, and signed links to their blobs.

A link gives access to one blob for a limited time, by a service SAS if the gateway has an account
key, otherwise by a user delegation SAS.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import (
    BlobBlock,
    BlobSasPermissions,
    ContentSettings,
    StorageErrorCode,
    generate_blob_sas,
)

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference, verify, verify_digest
from gateway.errors import MissingPayload, Unavailable
from gateway.storage.blobs import PayloadContainer, answering, read_seconds

PIECE_BYTES: Final = 512 * 1024
"""The size of the pieces in which a payload is read."""


class PayloadStore:
    """The stored payloads. Each method raises Unavailable if the storage fails."""

    def __init__(self, container: PayloadContainer) -> None:
        self._container = container

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store a payload in the blob with this name; return the payload reference."""
        async with answering("uploading a payload", len(data)):
            try:
                await self._upload(blob, data, media_type)
            except ResourceNotFoundError:
                await self._container.create()
                await self._upload(blob, data, media_type)
        return reference(media_type, blob, data)

    async def _upload(self, blob: str, data: bytes, media_type: str) -> None:
        await self._container.client.upload_blob(
            blob,
            data,
            length=len(data),
            overwrite=True,
            content_settings=ContentSettings(content_type=media_type),
            read_timeout=read_seconds(len(data)),
        )

    async def put_pieces(
        self, blob: str, pieces: AsyncIterator[bytes], media_type: str
    ) -> PayloadRef:
        """Store a payload that arrives in pieces in a new blob; an error of `pieces` leaves none.

        No other call may write this blob. Each piece is a block, and the blob exists only when all
        blocks are committed. If this process dies before, Azure deletes the blocks after a week.
        """
        digest, size_bytes = hashlib.sha256(), 0
        blocks: list[str] = []
        try:
            async for piece in pieces:
                digest.update(piece)
                size_bytes += len(piece)
                blocks.append(f"{len(blocks):08}")
                await self.put_block(blob, blocks[-1], piece)
            is_whole = await self.commit_blocks(blob, blocks, media_type)
        except BaseException:
            if blocks:
                await self.discard_blocks(blob)
            raise
        if not is_whole:
            raise Unavailable("blobs", f"the storage has lost a part of {blob}")
        return PayloadRef(media_type, blob, size_bytes, digest.hexdigest())

    async def put_block(self, blob: str, block: str, data: bytes) -> None:
        """Store a part of a payload. The ids of all blocks of a blob have the same length."""
        await self._container.ensure()
        async with answering("uploading a part of a payload", len(data)):
            await self._container.client.get_blob_client(blob).stage_block(
                block, data, read_timeout=read_seconds(len(data))
            )

    async def commit_blocks(self, blob: str, blocks: Sequence[str], media_type: str) -> bool:
        """Make a blob of its blocks; return False if one of them is missing."""
        about = ContentSettings(content_type=media_type)
        async with answering("uploading a payload"):
            try:
                await self._container.client.get_blob_client(blob).commit_block_list(
                    [BlobBlock(each) for each in blocks], content_settings=about
                )
            except HttpResponseError as error:
                if error.error_code != StorageErrorCode.INVALID_BLOCK_LIST:  # type: ignore[attr-defined]  # set by the SDK
                    raise
                return False
        return True

    async def discard_blocks(self, blob: str) -> None:
        """Delete the blocks of a blob that is not committed: an empty blob replaces them."""
        client = self._container.client.get_blob_client(blob)
        with contextlib.suppress(Unavailable):
            async with answering("deleting a part of a payload"):
                await client.upload_blob(b"")
                await client.delete_blob()

    async def get(self, ref: PayloadRef) -> bytes:
        """Return the payload to which `ref` refers.

        Raises MissingPayload if there is no such blob, or PayloadCorrupt if its size or digest
        differs.
        """
        async with answering("downloading a payload", ref.size_bytes):
            try:
                stream = await self._container.client.download_blob(ref.blob)
                if stream.size != ref.size_bytes:
                    raise PayloadCorrupt(
                        f"the blob {ref.blob} has {stream.size} bytes, "
                        f"but its reference says {ref.size_bytes}"
                    )
                data = await stream.readall()
            except ResourceNotFoundError:
                raise MissingPayload(ref.blob) from None
        return verify(ref, data)

    async def get_pieces(self, ref: PayloadRef) -> AsyncIterator[bytes]:
        """Yield the payload to which `ref` refers in pieces.

        Raises the same errors as `get`, but PayloadCorrupt only before the last piece.
        """
        digest = hashlib.sha256()
        for start in range(0, ref.size_bytes, PIECE_BYTES):
            size_bytes = min(PIECE_BYTES, ref.size_bytes - start)
            async with answering("downloading a part of a payload", size_bytes):
                try:
                    stream = await self._container.client.download_blob(
                        ref.blob, offset=start, length=size_bytes
                    )
                    piece = await stream.readall()
                except ResourceNotFoundError:
                    raise MissingPayload(ref.blob) from None
            digest.update(piece)
            if start + size_bytes == ref.size_bytes:
                verify_digest(ref, digest.hexdigest())
            yield piece

    async def check(self) -> None:
        """Check that the storage responds. Succeeds even if the container does not exist."""
        async with answering("checking the storage"):
            await self._container.client.exists()

    async def close(self) -> None:
        """Close the connections to blob storage."""
        await self._container.close()


class PayloadLinks:
    """Makes links to blobs. Each method raises Unavailable if the storage fails.

    `public_url` is the URL at which callers reach the storage account, if it differs from the
    gateway's.
    """

    def __init__(self, container: PayloadContainer, public_url: str | None = None) -> None:
        self._container = container
        self._public_url = public_url

    @property
    def origin(self) -> str:
        """The origin of the links, for example `https://account.blob.core.windows.net`."""
        parts = urlsplit(self._base_url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def _base_url(self) -> str:
        return (self._public_url or str(self._container.service.url)).rstrip("/")

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """Return a URL that permits only creating this blob, until `expires_at`.

        The permission to write would also permit leases, which would keep the blob from deletion.
        """
        await self._container.ensure()
        return await self._link(blob, BlobSasPermissions(create=True), expires_at)

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """Return a URL from which this blob can be downloaded until `expires_at`.

        The response has this media type and suggests this file name.
        """
        return await self._link(
            blob,
            BlobSasPermissions(read=True),
            expires_at,
            content_type=media_type,
            content_disposition=f'attachment; filename="{file_name}"',
            cache_control="private, no-store",
        )

    async def _link(
        self, blob: str, permission: BlobSasPermissions, expires_at: datetime, **headers: Any
    ) -> str:
        url = f"{self._base_url}/{self._container.name}/{blob}"
        signature = generate_blob_sas(
            str(self._container.service.account_name),
            self._container.name,
            blob,
            permission=permission,
            expiry=expires_at,
            protocol="https" if url.startswith("https:") else "https,http",
            **await self._container.signing_key(expires_at),
            **headers,
        )
        return f"{url}?{signature}"
