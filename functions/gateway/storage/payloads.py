"""Payloads that are too large for a message, and signed links to them.

A link gives access to one blob for some time. With an account key it is signed by a service SAS;
with an identity by a user delegation SAS, whose key the storage gives for some hours at a time.
"""

from datetime import datetime
from typing import Any, Protocol

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobSasPermissions, ContentSettings, generate_blob_sas

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference, verify
from gateway.errors import MissingPayload
from gateway.storage.blobs import PayloadContainer, answering, read_seconds


class PayloadStore(Protocol):
    """The port to payloads in blob storage. Each method raises Unavailable."""

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store a payload under this name; when this returns, it is stored."""

    async def get(self, ref: PayloadRef) -> bytes:
        """Return the payload. Raises MissingPayload, or PayloadCorrupt if it does not match."""

    async def check(self) -> None:
        """Return if the storage answers, else raise Unavailable."""


class BlobPayloadStore:
    """Payloads in one container of an Azure storage account."""

    def __init__(self, container: PayloadContainer) -> None:
        self._container = container

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store a payload under this name; when this returns, it is stored."""
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
        """Return the payload. Raises MissingPayload, or PayloadCorrupt if it does not match."""
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
        """Return if the storage answers, whether the container exists or not."""
        async with answering("check"):
            await self._container.client.exists()

    async def close(self) -> None:
        """Close the connections."""
        await self._container.close()


class PayloadLinks(Protocol):
    """The port that makes links. Each method raises Unavailable."""

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """Return a URL that can write this blob, and nothing else."""

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """Return a URL that downloads this blob as a file with this type and name."""


class SignedPayloadLinks:
    """Links into a container of an Azure storage account.

    `public_url` is the account's address for callers, if it differs from the gateway's.
    """

    def __init__(self, container: PayloadContainer, public_url: str | None = None) -> None:
        self._container = container
        self._public_url = public_url

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """Return a URL that can write this blob, after creating the container if it is missing."""
        await self._container.ensure()
        return await self._link(blob, BlobSasPermissions(create=True, write=True), expires_at)

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """Return a URL that downloads this blob as a file with this type and name."""
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
        service = self._container.service
        url = f"{(self._public_url or service.url).rstrip('/')}/{self._container.name}/{blob}"
        signature = generate_blob_sas(
            str(service.account_name),
            self._container.name,
            blob,
            permission=permission,
            expiry=expires_at,
            protocol="https" if url.startswith("https:") else "https,http",
            **await self._container.signing_key(expires_at),
            **headers,
        )
        return f"{url}?{signature}"
