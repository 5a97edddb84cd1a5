"""The context that every operation receives, and the response that every operation returns."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from emulator.blobs.authorization import AccessGrant, Authenticator
from emulator.blobs.content import ContentStream
from emulator.blobs.errors import ErrorCode, StorageError, invalid_query
from emulator.blobs.headers import Conditions, VersionedResource, check_metadata, decode_md5
from emulator.blobs.index.schema import CURRENT
from emulator.blobs.lease import Lease
from emulator.blobs.request import METADATA_PREFIX, BlobRequest
from emulator.blobs.store import AccountStore
from emulator.blobs.tags import read_tags
from emulator.blobs.times import format_http_date

_SNAPSHOT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class OperationContext:
    """An authorized request, and the store on which the operation works.

    `authenticator` checks the SAS of another blob that the request reads. `now_us` is the time of
    the request, in microseconds since 1970 (UTC).
    """

    request: BlobRequest
    grant: AccessGrant
    store: AccountStore
    now_us: int
    authenticator: Authenticator

    @property
    def conditions(self) -> Conditions:
        """The conditional headers of the request, and its lease id. Raises StorageError."""
        return Conditions.parse(self.request.headers, self.now_us)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the request's `x-ms-meta-` headers set. Raises StorageError."""
        return check_metadata(self.request.metadata_pairs)

    @property
    def snapshot(self) -> str:
        """The query parameter `snapshot`, or CURRENT if the request is for the blob itself."""
        return read_snapshot(self.request)

    @property
    def tags(self) -> dict[str, str]:
        """The tags that the request's header `x-ms-tags` sets. Raises StorageError."""
        if "x-ms-tags" in self.request.headers and not self.grant.may_tag:
            raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
        return read_tags(self.request.headers)

    def check_md5(self, computed: bytes, header: str = "content-md5") -> None:
        """Raise StorageError if the request has the digest header and it is not `computed`."""
        stated = self.request.headers.get(header)
        if stated is not None and decode_md5(stated) != computed:
            raise StorageError(
                ErrorCode.MD5_MISMATCH,
                UserSpecifiedMd5=stated,
                ServerCalculatedMd5=base64.b64encode(computed).decode(),
            )


def read_snapshot(request: BlobRequest) -> str:
    """Return the parameter `snapshot`, or CURRENT. Raises StorageError if it is malformed."""
    value = request.parameter("snapshot")
    if value is None:
        return CURRENT
    if not _SNAPSHOT.fullmatch(value):
        raise invalid_query("snapshot", value)
    return value


def build_version_headers(resource: VersionedResource) -> dict[str, str]:
    """Return the headers `ETag` and `Last-Modified` of a blob or container."""
    return {"ETag": resource.etag, "Last-Modified": format_http_date(resource.modified_us)}


def build_lease_headers(lease: Lease, now_us: int) -> dict[str, str]:
    """Return the headers that describe the lease of a blob or container at the time `now_us`."""
    headers = {
        "x-ms-lease-status": "locked" if lease.is_locked(now_us) else "unlocked",
        "x-ms-lease-state": lease.state(now_us).value,
    }
    if kind := lease.duration_kind(now_us):
        headers["x-ms-lease-duration"] = kind
    return headers


def build_metadata_headers(pairs: dict[str, str]) -> dict[str, str]:
    """Return metadata as response headers, whose names have the prefix `x-ms-meta-`."""
    return {METADATA_PREFIX + name: value for name, value in pairs.items()}


XML_TYPE = "application/xml"


@dataclass(slots=True)
class BlobResponse:
    """The response of an operation.

    If `stream` is set, the content is read from it. Otherwise `body` is the content.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: ContentStream | None = None


def build_xml_response(text: str, headers: dict[str, str] | None = None) -> BlobResponse:
    """Return a response with status 200 and the XML document `text` as its body."""
    body = text.encode()
    fixed = {"Content-Type": XML_TYPE, "Content-Length": str(len(body))}
    return BlobResponse(200, {**(headers or {}), **fixed}, body)


def build_error_response(error: StorageError, request_id: str, time: str) -> BlobResponse:
    """Return an error response as Azure does, with the code in a header for HEAD, too."""
    headers = {**error.headers, "x-ms-error-code": error.code}
    if error.status == 304:
        return BlobResponse(304, headers)
    detail = "".join(
        f"<{name}>{escape(_printable(value))}</{name}>"
        for name, value in error.detail.items()
        if value
    )
    body = (
        '<?xml version="1.0" encoding="utf-8"?><Error>'
        f"<Code>{error.code}</Code>"
        f"<Message>{escape(error.message)}\nRequestId:{request_id}\nTime:{time}</Message>"
        f"{detail}</Error>"
    ).encode()
    headers["Content-Type"] = XML_TYPE
    headers["Content-Length"] = str(len(body))
    return BlobResponse(error.status, headers, body)


def _printable(text: str) -> str:
    # XML 1.0 does not allow control characters, not even escaped ones.
    return "".join(character if character.isprintable() else "?" for character in text)
