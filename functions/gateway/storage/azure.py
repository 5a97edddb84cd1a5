"""The adapter of Azure Blob Storage: blobs, logs, payloads and signed links in one container.

Small blobs are written and read by plain REST requests (Put Blob and Get Blob of the Blob Storage
REST API). The gateway writes one for most jobs, and reads it for each waiting caller. A request
with the SDK needs 2 ms of processor time, a third of the gateway's time for a job, a plain request
0.4 ms. Plain requests are authorised by a SAS for the container, which is renewed before it
expires.

A link gives access to one blob for a limited time, by a service SAS if the gateway has an account
key, otherwise by a user delegation SAS.
"""

import asyncio
import contextlib
import hashlib
import html
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl
from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import (
    BlobBlock,
    BlobSasPermissions,
    ContainerSasPermissions,
    ContentSettings,
    StorageErrorCode,
    UserDelegationKey,
    generate_blob_sas,
    generate_container_sas,
)
from azure.storage.blob.aio import (
    BlobClient,
    BlobLeaseClient,
    BlobServiceClient,
    ContainerClient,
    LinearRetry,
)

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference, verify, verify_digest
from contract.names import PAYLOAD_CONTAINER
from contract.settings import AzureEndpoint
from gateway.clock import Clock, utc_now
from gateway.errors import MissingPayload, Unavailable
from gateway.storage.blobs import BlobProperties, Blobs, ListedBlob, SmallBlob
from gateway.storage.payloads import PIECE_BYTES, PayloadLinks, PayloadStore

# A caller is waiting, so the SDK's defaults (60 s for a read, 15 s before a retry) are too long.
# With these values there are two attempts within ANSWER_SECONDS if the storage does not respond,
# and three if it cannot be reached.
ANSWER_SECONDS: Final = 5.0
_RETRIES: Final = 2
_BACKOFF_SECONDS: Final = 1
_CONNECT_SECONDS: Final = 2
_READ_SECONDS: Final = 2

# A key that is valid from now on would be refused if the storage's clock is behind.
_SKEW: Final = timedelta(minutes=5)
_DELEGATION: Final = timedelta(hours=24)

MAX_CONNECTIONS: Final = 32
"""The largest number of connections for plain REST requests; further requests wait.

A plain request takes a few milliseconds, so these suffice for thousands of requests a second.
"""

SLOWEST_BYTES_PER_SECOND: Final = 2_000_000
"""The slowest accepted transfer speed, which sets the time limit of a transfer."""


class PayloadContainer:
    """The connection to a blob container. Both are created when they are first needed."""

    def __init__(
        self, endpoint: AzureEndpoint, name: str = PAYLOAD_CONTAINER, clock: Clock = utc_now
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
        """The SDK's client of the storage account."""
        if self._service is None:
            self._service = self._connected()
        return self._service

    @property
    def client(self) -> ContainerClient:
        """The SDK's client of the container, which may not exist yet."""
        if self._client is None:
            self._client = self.service.get_container_client(self.name)
        return self._client

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session for requests that do not use the SDK."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                # With trust_env, the session starts two threads for each request, to read the
                # netrc file and the environment.
                trust_env=_needs_proxy(str(self.service.url)),
                # An attacker who writes a blob must not make the gateway decompress it.
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            )
        return self._session

    async def ensure(self, *, is_missing: bool = False) -> None:
        """Create the container unless this process has done so.

        If `is_missing` is true, because a request has shown it, the container is always created.
        """
        if is_missing or not self._is_there:
            async with answering("creating the container"):
                await self.create()

    async def create(self) -> None:
        """Create the container if it does not exist."""
        with contextlib.suppress(ResourceExistsError):  # another process created it
            await self.client.create_container()
        self._is_there = True

    async def signing_key(self, expires_at: datetime) -> dict[str, Any]:
        """Return the key that signs a SAS, as the keyword argument of the SDK's functions.

        This is the account key if the connection string has one. Otherwise it is a user delegation
        key, which is valid at least until `expires_at`.
        """
        account_key = getattr(self.service.credential, "account_key", None)
        if account_key:
            return {"account_key": account_key}
        async with self._delegation_lock:
            if self._delegation is None or self._delegation[1] < expires_at:
                now = self.clock()
                until = max(now + _DELEGATION, expires_at)
                async with answering("requesting a user delegation key"):
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


@contextlib.asynccontextmanager
async def answering(what: str, size_bytes: int = 0) -> AsyncIterator[None]:
    """Raise Unavailable if the storage fails in the `with` block, or if the block takes too long.

    `what` is the operation in the error message, `size_bytes` the size of the data it transfers.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS + transfer_seconds(size_bytes)):
            yield
    except (AzureError, OSError) as error:
        raise Unavailable("blobs", f"{what} failed: {error!r}") from error


def transfer_seconds(size_bytes: int) -> float:
    """Return how many seconds a transfer of this size may take."""
    return size_bytes / SLOWEST_BYTES_PER_SECOND


def read_seconds(sent_bytes: int) -> float:
    """Return how long to wait for a response to a body, of which a part may still be buffered."""
    return _READ_SECONDS + transfer_seconds(sent_bytes)


def _options() -> dict[str, Any]:
    return {
        "retry_policy": LinearRetry(
            backoff=_BACKOFF_SECONDS, retry_total=_RETRIES, random_jitter_range=0
        ),
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }


def _needs_proxy(url: str) -> bool:
    """Return whether the environment names a proxy for requests to this URL."""
    parts = urlsplit(url)
    return parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")


_SIGNED_FOR: Final = timedelta(hours=2)
_RENEWED_BEFORE: Final = timedelta(minutes=30)

# There are two attempts within ANSWER_SECONDS if the storage does not respond.
_SMALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
_PAUSES_SECONDS: Final = (0.05, 0.2, 0.8)

_PUT: Final = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/json"}

NAMES_AT_ONCE: Final = 1000
_NAME: Final = re.compile("<Name>([^<]*)</Name>")
_NEXT_MARKER: Final = re.compile("<NextMarker>([^<]+)</NextMarker>")

_NO_CONDITION: Final[Mapping[str, str]] = {}


class _Answer(NamedTuple):
    status: int
    etag: str
    data: bytes
    headers: Mapping[str, str]


class AzureBlobs(Blobs):
    """The blobs of the payload container. Each method raises Unavailable if the call fails."""

    def __init__(self, container: PayloadContainer) -> None:
        self._container = container
        self._signature = ""
        self._signed_until: datetime | None = None

    async def create(self, blob: str, data: bytes) -> str | None:
        """Create a blob; return its ETag, or None if the blob already existed.

        If the response is lost, the request is repeated, and the result may be None although the
        first request has created the blob.
        """
        return await self._put(blob, data, {"If-None-Match": "*"})

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Overwrite a blob; return its new ETag, or None if its ETag is not `etag`."""
        return await self._put(blob, data, {"If-Match": etag})

    async def read(self, blob: str) -> SmallBlob | None:
        """Return a small blob and its ETag; None if the blob does not exist."""
        status, etag, data = await self._request("GET", blob)
        if status == HTTPStatus.NOT_FOUND:
            return None
        if status == HTTPStatus.OK:
            return SmallBlob(data, etag)
        raise Unavailable("blobs", f"reading the blob {blob} failed with HTTP status {status}")

    async def append(self, blob: str, data: bytes) -> int:
        """Append data to an append blob, which is created if it is missing; return its offset.

        If the response is lost, the request is repeated, and the data may be there twice. The
        offset is that of the last copy.
        """
        send = partial(self._send, "PUT", blob, data=data, query="comp=appendblock&")
        answer = await send()
        if answer.status == HTTPStatus.NOT_FOUND:
            await self._put(blob, b"", {"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"})
            answer = await send()
        if answer.status != HTTPStatus.CREATED:
            raise Unavailable(
                "blobs", f"appending to {blob} failed with HTTP status {answer.status}"
            )
        return int(answer.headers["x-ms-blob-append-offset"])

    async def append_at(self, blob: str, position: int, data: bytes) -> bool:
        """Append data to an append blob that is `position` bytes long; return whether it was.

        A blob that is missing has 0 bytes, and is created. If the response is lost, the request is
        repeated, and the result may be False although the first request has appended the data.
        """
        headers = {"x-ms-blob-condition-appendpos": str(position)}
        send = partial(self._request, "PUT", blob, headers, data, "comp=appendblock&")
        status, _, _ = await send()
        if status == HTTPStatus.NOT_FOUND and position == 0:
            await self._put(blob, b"", {"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"})
            status, _, _ = await send()
        if status in {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.NOT_FOUND}:
            return False
        if status != HTTPStatus.CREATED:
            raise Unavailable("blobs", f"appending to {blob} failed with HTTP status {status}")
        return True

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes from an offset on; empty at the end or without a blob."""
        return await self._read_range(blob, offset, max_bytes) or b""

    async def read_version(self, blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
        """Do the same for a blob with this ETag. Raises MissingPayload if it is gone or changed."""
        data = await self._read_range(blob, offset, max_bytes, {"If-Match": etag})
        if data is None:
            raise MissingPayload(blob)
        return data

    async def _read_range(
        self, blob: str, offset: int, max_bytes: int, condition: Mapping[str, str] = _NO_CONDITION
    ) -> bytes | None:
        headers = {"x-ms-range": f"bytes={offset}-{offset + max_bytes - 1}", **condition}
        status, _, data = await self._request("GET", blob, headers)
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED}:
            return None
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return b""
        if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return data
        raise Unavailable("blobs", f"reading the blob {blob} failed with HTTP status {status}")

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
        raise Unavailable("blobs", f"writing the blob {blob} failed with HTTP status {status}")

    async def _request(
        self,
        method: str,
        blob: str,
        headers: Mapping[str, str] | None = None,
        data: bytes = b"",
        query: str = "",
    ) -> tuple[int, str, bytes]:
        return (await self._send(method, blob, headers, data, query))[:3]

    async def _send(
        self,
        method: str,
        blob: str,
        headers: Mapping[str, str] | None = None,
        data: bytes = b"",
        query: str = "",
    ) -> _Answer:
        url = await self._url(blob, query)
        reason = ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                for pause_seconds in (*_PAUSES_SECONDS, None):
                    try:
                        answer = await self._try(method, url, headers, data)
                    except (aiohttp.ClientError, OSError, TimeoutError) as error:
                        # Only the class, because the error message may contain the signed URL.
                        reason = type(error).__name__
                    else:
                        if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                            return answer
                        reason = f"status {answer.status}"
                    if pause_seconds is not None:
                        await asyncio.sleep(pause_seconds)
        except TimeoutError:
            reason = reason or "the request timed out"
        raise Unavailable("blobs", f"the {method} request for the blob {blob} failed: {reason}")

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
            etag = answer.headers.get("ETag", "")
            return _Answer(answer.status, etag, await answer.read(), answer.headers)

    async def _url(self, blob: str, query: str = "") -> yarl.URL:
        now = self._container.clock()
        if self._signed_until is None or now > self._signed_until - _RENEWED_BEFORE:
            until = now + _SIGNED_FOR
            service = self._container.service
            self._signature = generate_container_sas(
                str(service.account_name),
                self._container.name,
                permission=ContainerSasPermissions(read=True, create=True, write=True, list=True),
                expiry=until,
                **await self._container.signing_key(until),
            )
            self._signed_until = until
        base = f"{self._container.service.url.rstrip('/')}/{self._container.name}"
        path = f"/{quote(blob)}" if blob else ""
        return yarl.URL(f"{base}{path}?{query}{self._signature}", encoded=True)

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        """Return a blob's properties and first `head_bytes` bytes; None if the blob is missing."""
        answer = None
        if head_bytes:
            wanted = {"x-ms-range": f"bytes=0-{head_bytes - 1}"}
            answer = await self._send("GET", blob, wanted)
        # An empty blob has no range.
        if answer is None or answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer = await self._send("HEAD", blob)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            raise Unavailable(
                "blobs", f"reading the blob {blob} failed with HTTP status {answer.status}"
            )
        about = answer.headers
        length = about.get("Content-Range", "").rpartition("/")[2] or about["Content-Length"]
        return BlobProperties(
            about.get("Content-Type", ""),
            int(length),
            answer.etag,
            answer.data,
            about.get("Content-Encoding", ""),
        )

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete a blob and its snapshots, even if the blob has a lease.

        Do nothing if the blob does not exist. If `etag` is given, keep a blob with another ETag.
        """
        given: dict[str, Any] = {"delete_snapshots": "include"}
        if etag:
            given |= {"etag": etag, "match_condition": MatchConditions.IfNotModified}
        client = self._blob(blob)
        async with answering("deleting a blob"):
            try:
                try:
                    await client.delete_blob(**given)
                except HttpResponseError as error:
                    if error.error_code != StorageErrorCode.LEASE_ID_MISSING:  # type: ignore[attr-defined]  # set by the SDK
                        raise
                    # The gateway takes no leases: the holder of an upload link has taken this one.
                    await BlobLeaseClient(client).break_lease(lease_break_period=0)
                    await client.delete_blob(**given)
            except (ResourceNotFoundError, ResourceModifiedError):
                return

    async def list_names(self, prefix: str) -> list[str]:
        """Return the names of the blobs with this prefix, which are plain ASCII, in their order.

        By a plain request, because the SDK needs 0.2 ms of processor time for each blob.
        """
        found: list[str] = []
        marker = ""
        while True:
            asked = {"restype": "container", "comp": "list", "prefix": prefix}
            asked |= {"maxresults": str(NAMES_AT_ONCE), "marker": marker}
            answer = await self._send("GET", "", query=f"{urlencode(asked)}&")
            if answer.status == HTTPStatus.NOT_FOUND:  # the container does not exist
                return found
            if answer.status != HTTPStatus.OK:
                raise Unavailable(
                    "blobs", f"listing the blobs failed with HTTP status {answer.status}"
                )
            text = answer.data.decode()
            found += _NAME.findall(text)
            following = _NEXT_MARKER.search(text)
            if following is None:
                return found
            marker = html.unescape(following[1])

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """List the blobs whose names have this prefix, in the order of their names."""
        pages = self._container.client.list_blobs(name_starts_with=prefix).by_page()
        while True:
            async with answering("listing blobs"):
                try:
                    page = [found async for found in await anext(pages)]
                except (StopAsyncIteration, ResourceNotFoundError):
                    return  # the end of the list, or the container does not exist
            for found in page:
                yield ListedBlob(found.name, str(found.etag), found.last_modified)

    def _blob(self, name: str) -> BlobClient:
        return self._container.client.get_blob_client(name)


class AzurePayloads(PayloadStore):
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


class AzureLinks(PayloadLinks):
    """Makes links to blobs. Each method raises Unavailable if the storage fails.

    `public_url` is the URL at which callers reach the storage account, if it differs from the
    gateway's.
    """

    upload_headers = {"x-ms-blob-type": "BlockBlob"}  # noqa: RUF012  never changed

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
