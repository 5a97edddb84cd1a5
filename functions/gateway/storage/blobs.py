"""Blobs of the payload container: conditional writes, reads, lists; and the connection to it.

Small blobs are written and read by plain REST (Put Blob and Get Blob of the Blob Storage REST API),
in one request each. Each job writes one small blob, and each waiting caller reads it. By the SDK
this costs 2 ms of processor time, a third of what the gateway spends on a job; a plain
request costs a fifth of that. The SDK still signs: a SAS for the container, renewed before it
expires. All other operations use the SDK.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
import yarl
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    ContainerSasPermissions,
    ContentSettings,
    UserDelegationKey,
    generate_container_sas,
)
from azure.storage.blob.aio import BlobClient, BlobServiceClient, ContainerClient, LinearRetry

from contract.names import PAYLOAD_CONTAINER
from gateway.clock import Clock, utc_now
from gateway.errors import Unavailable
from gateway.settings import ServiceEndpoint

# A caller is waiting, so the SDK's own 60 s for a read and 15 s before a retry are too long.
# If the storage does not answer, it is asked twice within ANSWER_SECONDS; if it cannot be reached,
# three times.
ANSWER_SECONDS: Final = 5.0
_RETRIES: Final = 2
_BACKOFF_SECONDS: Final = 1
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 2

# A key that begins now is not valid yet if the storage's clock is behind.
_SKEW: Final = timedelta(minutes=5)
_DELEGATION: Final = timedelta(hours=24)

SLOWEST_BYTES_PER_SECOND: Final = 2_000_000
"""The slowest transfer that is waited for; it extends the time limit by the size."""


class PayloadContainer:
    """A container of an Azure storage account, connected and created when first needed."""

    def __init__(
        self, endpoint: ServiceEndpoint, name: str = PAYLOAD_CONTAINER, clock: Clock = utc_now
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
        with contextlib.suppress(ResourceExistsError):  # another process created it
            await self.client.create_container()
        self._is_there = True

    async def signing_key(self, expires_at: datetime) -> dict[str, Any]:
        """Return the arguments that give the SDK a key to sign with, valid until this time.

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
    """Raise Unavailable for an error of the storage inside the block."""
    try:
        yield
    except (AzureError, OSError) as error:
        raise Unavailable("blobs", f"{what} failed: {error!r}") from error


@contextlib.asynccontextmanager
async def answering(what: str, size_bytes: int = 0) -> AsyncIterator[None]:
    """Raise Unavailable also if the block takes too long. `size_bytes` are transferred in it."""
    with unavailable(what):
        async with asyncio.timeout(ANSWER_SECONDS + transfer_seconds(size_bytes)):
            yield


def transfer_seconds(size_bytes: int) -> float:
    """Return how long a transfer of this size may take."""
    return size_bytes / SLOWEST_BYTES_PER_SECOND


def read_seconds(sent_bytes: int) -> float:
    """Return how long the answer to a body of this size may take, since buffers delay it."""
    return _READ_SECONDS + transfer_seconds(sent_bytes)


def _options() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(
            backoff=_BACKOFF_SECONDS, retry_total=_RETRIES, random_jitter_range=0
        ),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }


_SIGNED_FOR: Final = timedelta(hours=2)
_RENEWED_BEFORE: Final = timedelta(minutes=30)

# If the storage does not answer, it is asked twice within ANSWER_SECONDS.
_SMALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
_PAUSES_SECONDS: Final = (0.05, 0.2, 0.8)

_PUT: Final = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}

_Answer = tuple[int, str, bytes]


class SmallBlobs:
    """Small JSON blobs of one container."""

    def __init__(self, container: PayloadContainer) -> None:
        self._container = container
        self._signature = ""
        self._signed_until: datetime | None = None

    async def create(self, blob: str, data: bytes) -> str | None:
        """Write a blob that must not exist; return its ETag, or None if it exists.

        If an answer was lost, the repeated request finds its own blob, as if another had made it.
        Raises Unavailable.
        """
        return await self._put(blob, data, {"If-None-Match": "*"})

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Replace the blob that has this ETag; return its new one, or None if it has another.

        Raises Unavailable.
        """
        return await self._put(blob, data, {"If-Match": etag})

    async def read(self, blob: str) -> tuple[bytes, str] | None:
        """Return a blob's content and ETag; None if it does not exist. Raises Unavailable."""
        status, etag, data = await self._request("GET", blob)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status == HTTPStatus.OK:
            return data, etag
        raise Unavailable("blobs", f"reading {blob} was answered {status}")

    async def _put(self, blob: str, data: bytes, condition: Mapping[str, str]) -> str | None:
        headers = {**_PUT, **condition}
        status, etag, answer = await self._request("PUT", blob, headers, data)
        if status == HTTPStatus.NOT_FOUND and b"ContainerNotFound" in answer:
            await self._container.ensure(is_missing=True)
            status, etag, answer = await self._request("PUT", blob, headers, data)
        if status == HTTPStatus.CREATED:
            return etag
        if status in {HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND}:
            return None
        raise Unavailable("blobs", f"writing {blob} was answered {status}")

    async def _request(
        self, method: str, blob: str, headers: Mapping[str, str] | None = None, data: bytes = b""
    ) -> _Answer:
        url = await self._url(blob)
        reason = ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for pause_seconds in (*_PAUSES_SECONDS, None):
                    try:
                        answer = await self._try(method, url, headers, data)
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        # Only the class: the text may hold the signed URL.
                        reason = type(error).__name__
                    else:
                        if answer[0] < HTTPStatus.INTERNAL_SERVER_ERROR:
                            return answer
                        reason = f"status {answer[0]}"
                    if pause_seconds is not None:
                        await asyncio.sleep(pause_seconds)
        except TimeoutError:
            reason = reason or "no answer in time"
        raise Unavailable("blobs", f"{method} {blob} failed: {reason}")

    async def _try(
        self, method: str, url: yarl.URL, headers: Mapping[str, str] | None, data: bytes
    ) -> _Answer:
        async with self._container.session.request(
            method,
            url,
            headers=headers,
            data=data or None,
            allow_redirects=False,
            timeout=_SMALL_TIMEOUT,
        ) as answer:
            return answer.status, answer.headers.get("ETag", ""), await answer.read()

    async def _url(self, blob: str) -> yarl.URL:
        now = self._container.clock()
        if self._signed_until is None or now > self._signed_until - _RENEWED_BEFORE:
            until = now + _SIGNED_FOR
            service = self._container.service
            self._signature = generate_container_sas(
                str(service.account_name),
                self._container.name,
                permission=ContainerSasPermissions(read=True, create=True, write=True),
                expiry=until,
                **await self._container.signing_key(until),
            )
            self._signed_until = until
        base = f"{self._container.service.url.rstrip('/')}/{self._container.name}"
        return yarl.URL(f"{base}/{quote(blob)}?{self._signature}", encoded=True)


_JSON = ContentSettings(content_type="application/json")


@dataclass(frozen=True, slots=True)
class SmallBlob:
    """The content of a small blob, and its ETag."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class BlobProperties:
    """The properties of a blob, and its first bytes."""

    media_type: str
    size_bytes: int
    etag: str
    head: bytes = field(repr=False)
    content_encoding: str = ""


@dataclass(frozen=True, slots=True)
class ListedBlob:
    """A blob in a list."""

    name: str
    etag: str
    modified_at: datetime


class Blobs(Protocol):
    """The port to blobs that are not payloads. Each method raises Unavailable."""

    async def create(self, blob: str, data: bytes) -> str | None:
        """Write a blob that must not exist; return its ETag, or None if it exists."""

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Replace the blob with this ETag; return its new one, or None if it has another."""

    async def read(self, blob: str) -> SmallBlob | None:
        """Return a small blob, or None if it does not exist."""

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        """Return a blob's properties and first bytes, or None if it does not exist."""

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete a blob, unless it has another ETag than this or does not exist."""

    def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """List the blobs whose names have this prefix, in the order of their names."""


class ContainerBlobs:
    """The blobs of an Azure container."""

    def __init__(self, container: PayloadContainer) -> None:
        self._container = container
        self._small = SmallBlobs(container)

    async def create(self, blob: str, data: bytes) -> str | None:
        """Write a blob that must not exist; return its ETag, or None if it exists.

        A retry after a lost answer finds its own blob and returns None.
        """
        return await self._small.create(blob, data)

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Replace the blob with this ETag; return its new one, or None if it has another."""
        return await self._small.replace(blob, data, etag)

    async def read(self, blob: str) -> SmallBlob | None:
        """Return a small blob, or None if it does not exist."""
        found = await self._small.read(blob)
        return None if found is None else SmallBlob(*found)

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        """Return a blob's properties and first bytes, or None if it does not exist."""
        client = self._blob(blob)
        async with answering("look"):
            try:
                found = await client.get_blob_properties()
                head = b""
                if found.size and head_bytes:
                    stream = await client.download_blob(
                        offset=0,
                        length=min(head_bytes, found.size),
                        etag=found.etag,
                        match_condition=MatchConditions.IfNotModified,
                        # The writer of the blob must not be able to make the gateway unpack it.
                        decompress=False,
                    )
                    head = await stream.readall()
            except (ResourceNotFoundError, ResourceModifiedError):
                return None
        about = found.content_settings
        return BlobProperties(
            about.content_type or "",
            found.size,
            str(found.etag),
            head,
            about.content_encoding or "",
        )

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete a blob, unless it has another ETag than this or does not exist."""
        given: dict[str, Any] = {}
        if etag:
            given = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        async with answering("delete"):
            try:
                await self._blob(blob).delete_blob(**given)
            except (ResourceNotFoundError, ResourceModifiedError):
                return

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """List the blobs whose names have this prefix, in the order of their names."""
        pages = self._container.client.list_blobs(name_starts_with=prefix).by_page()
        while True:
            async with answering("list"):
                try:
                    page = [found async for found in await anext(pages)]
                except (StopAsyncIteration, ResourceNotFoundError):
                    return  # the end of the list, or the container does not exist
            for found in page:
                yield ListedBlob(found.name, str(found.etag), found.last_modified)

    def _blob(self, name: str) -> BlobClient:
        return self._container.client.get_blob_client(name)
