"""Blob storage for the payloads that are too large for a message."""

from typing import Protocol

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import ContentSettings

from contract.claimcheck import reference, verify
from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef
from gateway.errors import MissingPayload
from gateway.storage.container import Container, answering, read_seconds


class Payloads(Protocol):
    """What the gateway asks of blob storage. Each verb raises Unavailable."""

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store under this name; when this returns, it is safe."""

    async def get(self, ref: PayloadRef) -> bytes:
        """The payload; MissingPayload, or PayloadCorrupt where it is another than referred to."""

    async def check(self) -> None:
        """Return if the storage answers."""


class BlobPayloads:
    """Payloads in one container of an Azure storage account."""

    def __init__(self, container: Container) -> None:
        self._container = container

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """See Payloads."""
        async with answering("upload", len(data)):
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

    async def get(self, ref: PayloadRef) -> bytes:
        """See Payloads."""
        async with answering("download", ref.size_bytes):
            try:
                stream = await self._container.client.download_blob(ref.blob)
                if stream.size != ref.size_bytes:
                    raise PayloadCorrupt(
                        f"{ref.blob} has {stream.size} bytes, not {ref.size_bytes}"
                    )
                data = await stream.readall()
            except ResourceNotFoundError:
                raise MissingPayload(ref.blob) from None
        return verify(ref, data)

    async def check(self) -> None:
        """See Payloads. Whether the container exists does not matter: there was an answer."""
        async with answering("check"):
            await self._container.client.exists()

    async def close(self) -> None:
        """Close the connections."""
        await self._container.close()
