"""The payload container: one connection for all that the gateway does with blobs."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob.aio import BlobServiceClient, ContainerClient, LinearRetry

from contract.names import PAYLOAD_CONTAINER
from gateway.errors import Unavailable
from gateway.settings import Endpoint

# A caller is waiting: the SDK's own 15 s before a first retry is for batch work.
_RETRIES: Final = 2
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 30


class Container:
    """One container of an Azure storage account, connected and made when first needed."""

    def __init__(self, endpoint: Endpoint, name: str = PAYLOAD_CONTAINER) -> None:
        self.endpoint = endpoint
        self.name = name
        self._service: BlobServiceClient | None = None
        self._client: ContainerClient | None = None
        self._is_there = False

    @property
    def service(self) -> BlobServiceClient:
        """The storage account."""
        if self._service is None:
            self._service = self._connected()
        return self._service

    @property
    def client(self) -> ContainerClient:
        """The container, which need not exist yet."""
        if self._client is None:
            self._client = self.service.get_container_client(self.name)
        return self._client

    async def ensure(self) -> None:
        """Make the container, where this process does not know that it is there."""
        if not self._is_there:
            with unavailable("create container"):
                await self.create()

    async def create(self) -> None:
        """Make the container unless it is there."""
        with contextlib.suppress(ResourceExistsError):  # somebody else was first
            await self.client.create_container()
        self._is_there = True

    async def close(self) -> None:
        """Close the connections."""
        if self._service is not None:
            await self._service.close()
            self._service = self._client = None

    def _connected(self) -> BlobServiceClient:
        if self.endpoint.connection_string:
            return BlobServiceClient.from_connection_string(
                self.endpoint.connection_string, **_options()
            )
        from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow, and rare

        return BlobServiceClient(
            self.endpoint.address or "", credential=DefaultAzureCredential(), **_options()
        )


@contextlib.contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Whatever the storage raises in here means that it is not available."""
    try:
        yield
    except (AzureError, OSError) as error:
        raise Unavailable("blobs", f"{what} failed: {error!r}") from error


def _options() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(backoff=1, retry_total=_RETRIES, random_jitter_range=0),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
