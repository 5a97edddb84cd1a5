"""Signed links: leave to write or read one blob for a while, without an account of one's own.

With an account key the signature is a service SAS; with an identity it is a user delegation SAS,
whose key the storage gives for some hours at a time.
"""

from datetime import datetime
from typing import Any, Protocol

from azure.storage.blob import BlobSasPermissions, generate_blob_sas

from gateway.storage.container import Container


class Links(Protocol):
    """Makes links. Each verb raises Unavailable."""

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """A URL that takes this one blob, and shows nothing."""

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """A URL that gives this one blob as a file of this type and name."""


class SignedLinks:
    """Links into a container of an Azure storage account.

    `public_url` is where callers reach the account, if that is not where the gateway does.
    """

    def __init__(self, container: Container, public_url: str | None = None) -> None:
        self._container = container
        self._public_url = public_url

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """See Links. Whoever has the link cannot make the container."""
        await self._container.ensure()
        return await self._link(blob, BlobSasPermissions(create=True, write=True), expires_at)

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """See Links."""
        return await self._link(
            blob,
            BlobSasPermissions(read=True),
            expires_at,
            content_type=media_type,
            content_disposition=f'attachment; filename="{file_name}"',
            cache_control="private, no-store",
        )

    async def _link(
        self, blob: str, permission: BlobSasPermissions, expires_at: datetime, **shown: Any
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
            **shown,
        )
        return f"{url}?{signature}"
