"""Store the logs of streams in append blobs, one for each job.

Requests are plain REST requests (Put Blob, Append Block and Get Blob of the Blob Storage REST API),
each sent with one call of the socket: an append needs a fifth of the processor time that it needs
with urllib3. It has the header `x-ms-blob-condition-appendpos`, the length of the blob that the
writer knows.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from http import HTTPStatus
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
)
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas

from contract.names import PAYLOAD_CONTAINER
from contract.streams import parse_event, stream_blob
from worker.clock import utc_now
from worker.streams.store import EMPTY, Append, Appended, LogEnd, LogsUnavailable

_VERSION: Final = "2021-12-02"
_SCOPE: Final = "https://storage.azure.com/.default"
_TIMEOUT_SECONDS: Final = 3.0
# Shorter than the 5 s after which some servers close an idle connection.
_KEEP_ALIVE_SECONDS: Final = 4.0
_SIGNED_SECONDS: Final = 2 * 3600
_RENEWED_BEFORE_SECONDS: Final = 600
# More than the longest line.
_TAIL_BYTES: Final = 256 * 1024

_CREATE: Final = {"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"}
_APPEND: Final = "comp=appendblock"

_Answer = tuple[int, bytes, HTTPMessage]


class AppendBlobs:
    """Append blobs in the container for payloads."""

    max_appends = 16
    jobs_per_append = 1

    def __init__(self, account: BlobServiceClient) -> None:
        self._container = account.get_container_client(PAYLOAD_CONTAINER)
        parts = urlsplit(self._container.url)
        self._path = parts.path
        # If the connection string has a SAS, the SDK's address has it too.
        self._query = parts.query
        self._headers: dict[str, str] = {"x-ms-version": _VERSION}
        self._signed_until = float("inf") if self._query else 0.0
        self._signing = threading.Lock()
        self._client = _Client(parts.scheme, parts.netloc)

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        """Append to each log, as `WritableLogs` says."""
        return [self._append(each) for each in appends]

    def read_end(self, job_id: str) -> LogEnd:
        """Return where the log of a job ends. Raises LogsUnavailable."""
        blob = stream_blob(job_id)
        status, _, headers = self._request("HEAD", blob)
        size_bytes = int(headers.get("content-length", 0))
        if status == HTTPStatus.NOT_FOUND or (status == HTTPStatus.OK and not size_bytes):
            return EMPTY
        if status != HTTPStatus.OK:
            raise LogsUnavailable(f"HTTP status {status}")
        tail = self._read(blob, max(0, size_bytes - _TAIL_BYTES), size_bytes - 1)
        for line in reversed(tail.splitlines()):
            if (event := parse_event(line)) is not None:
                return LogEnd(event.key, size_bytes)
        raise LogsUnavailable("the blob does not end with an event")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _append(self, append: Append) -> Appended:
        blob, begin, data = stream_blob(append.job_id), append.end.size_bytes, append.data
        try:
            if not begin:
                self._create(blob)
            position = {"x-ms-blob-condition-appendpos": str(begin)}
            status, _, _ = self._request("PUT", blob, position, data, _APPEND)
            if status == HTTPStatus.PRECONDITION_FAILED:
                # Perhaps the response to an earlier request with these bytes was lost.
                is_ours = self._read(blob, begin, begin + len(data) - 1) == data
                return Appended.WRITTEN if is_ours else Appended.REFUSED
        except (AzureError, LogsUnavailable):
            return Appended.UNKNOWN
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
            return Appended.REFUSED  # the log was deleted, or has as many blocks as a blob may have
        return Appended.WRITTEN if status == HTTPStatus.CREATED else Appended.UNKNOWN

    def _create(self, blob: str) -> None:
        status, answer, _ = self._request("PUT", blob, _CREATE)
        if status == HTTPStatus.NOT_FOUND and b"ContainerNotFound" in answer:
            with contextlib.suppress(ResourceExistsError):  # another process created it
                self._container.create_container()
            self._request("PUT", blob, _CREATE)

    def _read(self, blob: str, first: int, last: int) -> bytes:
        status, data, _ = self._request("GET", blob, {"x-ms-range": f"bytes={first}-{last}"})
        if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return data
        if status in {HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}:
            return b""
        raise LogsUnavailable(f"HTTP status {status}")

    def _request(
        self,
        method: str,
        blob: str,
        headers: Mapping[str, str] = {},
        data: bytes = b"",
        query: str = "",
    ) -> _Answer:
        self._sign()
        target = f"{self._path}/{quote(blob)}?{query}{'&' if query else ''}{self._query}"
        return self._client.request(method, target, {**self._headers, **headers}, data)

    def _sign(self) -> None:
        if time.monotonic() < self._signed_until - _RENEWED_BEFORE_SECONDS:
            return
        with self._signing:
            if time.monotonic() < self._signed_until - _RENEWED_BEFORE_SECONDS:
                return
            credential: Any = self._container.credential
            try:
                if key := getattr(credential, "account_key", None):
                    self._query = self._make_sas(key)
                    seconds = float(_SIGNED_SECONDS)
                else:
                    token = credential.get_token(_SCOPE)
                    self._headers = {**self._headers, "Authorization": f"Bearer {token.token}"}
                    seconds = token.expires_on - time.time()
            except AzureError as error:
                raise LogsUnavailable(type(error).__name__) from None
            self._signed_until = time.monotonic() + seconds

    def _make_sas(self, account_key: str) -> str:
        return generate_container_sas(
            str(self._container.account_name),
            self._container.container_name,
            account_key=account_key,
            permission=ContainerSasPermissions(read=True, create=True, write=True),
            expiry=utc_now() + timedelta(seconds=_SIGNED_SECONDS),
        )


class _Client:
    """An HTTP client for one host, with a connection for each thread."""

    def __init__(self, scheme: str, netloc: str) -> None:
        self._netloc = netloc
        self._is_secure = scheme == "https"
        proxy = None if proxy_bypass(netloc) else getproxies().get(scheme)
        self._proxy = urlsplit(proxy).netloc if proxy else None
        self._local = threading.local()
        self._connections: list[HTTPConnection] = []

    def request(self, method: str, target: str, headers: Mapping[str, str], data: bytes) -> _Answer:
        """Send a request, and return the response. Raises LogsUnavailable."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(data)}", "", ""]
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.sendall("\r\n".join(lines).encode() + data)
            response = HTTPResponse(connection.sock, method=method)
            response.begin()
            answer = response.status, response.read(), response.headers
        except (OSError, HTTPException) as error:
            connection.close()
            # Only the class, because the text may contain the signed URL.
            raise LogsUnavailable(type(error).__name__) from None
        if response.will_close:
            connection.close()
        self._local.used_at = time.monotonic()
        return answer

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def _connection(self) -> HTTPConnection:
        found: HTTPConnection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = self._make_connection()
            self._local.used_at = time.monotonic()
            self._connections.append(found)
        elif time.monotonic() - self._local.used_at > _KEEP_ALIVE_SECONDS:
            found.close()
        return found

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=certifi.where())

    def _make_connection(self) -> HTTPConnection:
        address = self._proxy or self._netloc
        if not self._is_secure:
            return HTTPConnection(address, timeout=_TIMEOUT_SECONDS)
        connection = HTTPSConnection(address, timeout=_TIMEOUT_SECONDS, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._netloc)
        return connection
