"""Store the logs of streams in append blobs, one for each job.

Requests are plain REST requests (Put Blob, Append Block and Get Blob of the Blob Storage REST API),
because a request with the SDK needs several times the processor time. An append has the header
`x-ms-blob-condition-appendpos`, the length of the blob that the writer knows.
"""

import contextlib
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from azure.core.exceptions import AzureError, ResourceExistsError
from azure.storage.blob import BlobServiceClient, ContainerSasPermissions, generate_container_sas
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from contract.names import PAYLOAD_CONTAINER
from contract.streams import parse_event, stream_blob
from worker.servicebus.link import utc_now
from worker.streams.store import EMPTY, Append, Appended, LogEnd, LogsUnavailable

_VERSION: Final = "2021-12-02"
_SCOPE: Final = "https://storage.azure.com/.default"
_TIMEOUT: Final = Timeout(connect=2.0, read=5.0)
_SIGNED_SECONDS: Final = 2 * 3600
_RENEWED_BEFORE_SECONDS: Final = 600
# More than the longest line.
_TAIL_BYTES: Final = 256 * 1024

_CREATE: Final = {"x-ms-blob-type": "AppendBlob", "If-None-Match": "*"}
_APPEND: Final = "comp=appendblock"

_Answer = tuple[int, bytes, Mapping[str, str]]


class AppendBlobs:
    """Append blobs in the container for payloads."""

    max_appends = 16
    jobs_per_append = 1

    def __init__(self, account: BlobServiceClient) -> None:
        self._container = account.get_container_client(PAYLOAD_CONTAINER)
        parts = urlsplit(self._container.url)
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path}"
        # If the connection string has a SAS, the SDK's address has it too.
        self._query = parts.query
        self._headers: dict[str, str] = {"x-ms-version": _VERSION}
        self._signed_until = float("inf") if self._query else 0.0
        self._signing = threading.Lock()
        self._pools = self._make_pools(parts.scheme, parts.hostname or "")

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        """Append to each log, as `StreamLogs` says."""
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
        self._pools.clear()

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
        except (HTTPError, AzureError, LogsUnavailable):
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
        url = f"{self._base}/{quote(blob)}?{query}{'&' if query else ''}{self._query}"
        try:
            response = self._pools.urlopen(
                method, url, body=data, headers={**self._headers, **headers}, redirect=False
            )
        except HTTPError as error:
            # Only the class, because the text may contain the signed URL.
            raise LogsUnavailable(type(error).__name__) from None
        return response.status, response.data, response.headers

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

    def _make_pools(self, scheme: str, host: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "maxsize": self.max_appends,
            "retries": False,
            "timeout": _TIMEOUT,
            "ssl_context": ssl.create_default_context(cafile=certifi.where()),
        }
        proxy = getproxies().get(scheme)
        if proxy and not proxy_bypass(host):
            return urllib3.ProxyManager(proxy, **options)
        return urllib3.PoolManager(**options)
