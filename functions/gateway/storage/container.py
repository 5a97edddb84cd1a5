"""The payload container: one connection for all that the gateway does with blobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob.aio import BlobServiceClient, ContainerClient, LinearRetry

from contract.names import PAYLOAD_CONTAINER
from gateway.errors import Unavailable
from gateway.settings import Endpoint

# A caller is waiting: the SDK's own 60 s for a read, and 15 s before a retry, are for batch work.
# A storage that is silent is asked twice within ANSWER_SECONDS, one that is gone three times.
ANSWER_SECONDS: Final = 5.0
_RETRIES: Final = 2
_BACKOFF_SECONDS: Final = 1
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 2

SLOWEST_BYTES_PER_SECOND: Final = 2_000_000
"""What a transfer may take longer: nothing else ends the sending of a body that nobody takes."""


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
            async with answering("create container"):
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


@contextlib.asynccontextmanager
async def answering(what: str, size_bytes: int = 0) -> AsyncIterator[None]:
    """The same of a storage that takes too long for who waits; `size_bytes` are transferred."""
    with unavailable(what):
        async with asyncio.timeout(ANSWER_SECONDS + transfer_seconds(size_bytes)):
            yield


def transfer_seconds(size_bytes: int) -> float:
    """How long it may take to transfer so much."""
    return size_bytes / SLOWEST_BYTES_PER_SECOND


def read_seconds(sent_bytes: int) -> float:
    """How long the answer to so large a body may take: much of it may still lie in buffers here."""
    return _READ_SECONDS + transfer_seconds(sent_bytes)


def _options() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(
            backoff=_BACKOFF_SECONDS, retry_total=_RETRIES, random_jitter_range=0
        ),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
