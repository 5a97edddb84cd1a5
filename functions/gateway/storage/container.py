"""The payload container: one connection for all that the gateway does with blobs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import aiohttp
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob import UserDelegationKey
from azure.storage.blob.aio import BlobServiceClient, ContainerClient, LinearRetry

from contract.names import PAYLOAD_CONTAINER
from gateway.clock import Clock, utc_now
from gateway.errors import Unavailable
from gateway.settings import Endpoint

# A caller is waiting: the SDK's own 60 s for a read, and 15 s before a retry, are for batch work.
# A storage that is silent is asked twice within ANSWER_SECONDS, one that is gone three times.
ANSWER_SECONDS: Final = 5.0
_RETRIES: Final = 2
_BACKOFF_SECONDS: Final = 1
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 2

# Clocks differ: a key that begins now would not be good yet if the storage's clock is behind.
_SKEW: Final = timedelta(minutes=5)
_DELEGATION: Final = timedelta(hours=24)

SLOWEST_BYTES_PER_SECOND: Final = 2_000_000
"""What a transfer may take longer: nothing else ends the sending of a body that nobody takes."""


class Container:
    """One container of an Azure storage account, connected and made when first needed."""

    def __init__(
        self, endpoint: Endpoint, name: str = PAYLOAD_CONTAINER, clock: Clock = utc_now
    ) -> None:
        self.endpoint = endpoint
        self.name = name
        self.clock = clock
        self._delegation: tuple[UserDelegationKey, datetime] | None = None
        self._delegation_lock = asyncio.Lock()
        self._service: BlobServiceClient | None = None
        self._client: ContainerClient | None = None
        self._session: aiohttp.ClientSession | None = None
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

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections for requests that do not go through the SDK."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session

    async def ensure(self, *, is_missing: bool = False) -> None:
        """Make the container if it is missing, or unless this process made it.

        Raises Unavailable.
        """
        if is_missing or not self._is_there:
            async with answering("create container"):
                await self.create()

    async def create(self) -> None:
        """Make the container unless it is there."""
        with contextlib.suppress(ResourceExistsError):  # somebody else was first
            await self.client.create_container()
        self._is_there = True

    async def signing_key(self, expires_at: datetime) -> dict[str, Any]:
        """Return what the SDK's SAS generators sign with, good until then at least.

        That is the account's key if the connection string has it, else a user delegation key,
        which the storage gives for some hours at a time. Raises Unavailable.
        """
        account_key = getattr(self.service.credential, "account_key", None)
        if account_key:
            return {"account_key": account_key}
        async with self._delegation_lock:
            if self._delegation is None or self._delegation[1] < expires_at:
                now = self.clock()
                until = max(now + _DELEGATION, expires_at)
                async with answering("user delegation key"):
                    key = await self.service.get_user_delegation_key(now - _SKEW, until)
                self._delegation = key, until
            return {"user_delegation_key": self._delegation[0]}

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
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
