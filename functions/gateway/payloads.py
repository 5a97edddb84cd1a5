"""Blob storage for the payloads that are too large for a message."""

import contextlib
from typing import Any, Final, Protocol

from azure.core.exceptions import AzureError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import ContentSettings
from azure.storage.blob.aio import BlobServiceClient, ContainerClient, LinearRetry

from contract.claimcheck import reference, verify
from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef
from contract.names import PAYLOAD_CONTAINER
from gateway.errors import MissingPayload, Unavailable
from gateway.settings import Endpoint

# A caller is waiting: the SDK's own 15 s before a first retry is for batch work.
_RETRIES: Final = 2
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 30


class Payloads(Protocol):
    """What the gateway asks of blob storage. Each verb raises Unavailable."""

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store under this name; when this returns, it is safe."""

    async def get(self, ref: PayloadRef) -> bytes:
        """The payload; MissingPayload, or PayloadCorrupt where it is another than referred to."""

    async def check(self) -> None:
        """Return if the storage answers."""


class BlobPayloads:
    """Payloads in one container of an Azure storage account, made when first needed."""

    def __init__(self, endpoint: Endpoint, container: str = PAYLOAD_CONTAINER) -> None:
        self._endpoint = endpoint
        self._container_name = container
        self._service: BlobServiceClient | None = None
        self._container_client: ContainerClient | None = None

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """See Payloads."""
        try:
            try:
                await self._upload(blob, data, media_type)
            except ResourceNotFoundError:
                await self._create_container()
                await self._upload(blob, data, media_type)
        except (AzureError, OSError) as error:
            raise Unavailable("blobs", f"upload failed: {error!r}") from error
        return reference(media_type, blob, data)

    async def _upload(self, blob: str, data: bytes, media_type: str) -> None:
        await self._container().upload_blob(
            blob,
            data,
            length=len(data),
            overwrite=True,
            content_settings=ContentSettings(content_type=media_type),
        )

    async def _create_container(self) -> None:
        with contextlib.suppress(ResourceExistsError):  # somebody else was first
            await self._container().create_container()

    async def get(self, ref: PayloadRef) -> bytes:
        """See Payloads."""
        try:
            stream = await self._container().download_blob(ref.blob)
            if stream.size != ref.size_bytes:
                raise PayloadCorrupt(f"{ref.blob} has {stream.size} bytes, not {ref.size_bytes}")
            data = await stream.readall()
        except ResourceNotFoundError:
            raise MissingPayload(ref.blob) from None
        except (AzureError, OSError) as error:
            raise Unavailable("blobs", f"download failed: {error!r}") from error
        return verify(ref, data)

    async def check(self) -> None:
        """See Payloads. Whether the container exists does not matter: there was an answer."""
        try:
            await self._container().exists()
        except (AzureError, OSError) as error:
            raise Unavailable("blobs", f"no answer: {error!r}") from error

    async def close(self) -> None:
        """Close the connections."""
        if self._service is not None:
            await self._service.close()
            self._service = self._container_client = None

    def _container(self) -> ContainerClient:
        if self._container_client is None:
            self._service = self._connected()
            self._container_client = self._service.get_container_client(self._container_name)
        return self._container_client

    def _connected(self) -> BlobServiceClient:
        if self._endpoint.connection_string:
            return BlobServiceClient.from_connection_string(
                self._endpoint.connection_string, **_options()
            )
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow, and rare

        return BlobServiceClient(
            self._endpoint.address or "", credential=DefaultAzureCredential(), **_options()
        )


def _options() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(backoff=1, retry_total=_RETRIES, random_jitter_range=0),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
