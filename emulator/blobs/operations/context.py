"""What every operation is given, and the answers' parts that several share."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from emulator.blobs.authorization import AccessGrant
from emulator.blobs.content import ContentStream
from emulator.blobs.errors import StorageError
from emulator.blobs.headers import Conditions, VersionedResource, check_metadata
from emulator.blobs.request import METADATA_PREFIX, BlobRequest
from emulator.blobs.store import BlobStore
from emulator.blobs.times import format_http_date


@dataclass(frozen=True, slots=True)
class OperationContext:
    """A request that was allowed, and what it works on."""

    request: BlobRequest
    grant: AccessGrant
    store: BlobStore
    now_us: int

    @property
    def conditions(self) -> Conditions:
        """The request's conditional headers."""
        return Conditions.parse(self.request.headers)

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that the request sets."""
        return check_metadata(self.request.metadata_pairs)


def build_version_headers(resource: VersionedResource) -> dict[str, str]:
    """``ETag`` and ``Last-Modified``."""
    return {"ETag": resource.etag, "Last-Modified": format_http_date(resource.modified_us)}


def build_metadata_headers(pairs: dict[str, str]) -> dict[str, str]:
    """Metadata as response headers."""
    return {METADATA_PREFIX + name: value for name, value in pairs.items()}


XML_TYPE = "application/xml"


@dataclass(slots=True)
class BlobResponse:
    """An answer; ``stream`` stands in for ``body`` when the content is not in memory."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: ContentStream | None = None


def build_xml_response(text: str, headers: dict[str, str] | None = None) -> BlobResponse:
    """A 200 with an XML document."""
    body = text.encode()
    fixed = {"Content-Type": XML_TYPE, "Content-Length": str(len(body))}
    return BlobResponse(200, {**(headers or {}), **fixed}, body)


def build_error_response(error: StorageError, request_id: str, time: str) -> BlobResponse:
    """A refusal in Azure's form: the code in a header (HEAD has no body), and in the XML."""
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
    # Control characters have no place in XML 1.0, escaped or not.
    return "".join(character if character.isprintable() else "?" for character in text)
