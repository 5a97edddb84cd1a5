"""What an operation hands back, and how a refusal is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from emulator.blobs.errors import StorageError
from emulator.blobs.streams import ContentStream

XML_TYPE = "application/xml"


@dataclass(slots=True)
class Response:
    """An answer; ``stream`` stands in for ``body`` when the content is not in memory."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: ContentStream | None = None


def xml_response(text: str, headers: dict[str, str] | None = None) -> Response:
    """A 200 with an XML document."""
    body = text.encode()
    fixed = {"Content-Type": XML_TYPE, "Content-Length": str(len(body))}
    return Response(200, {**(headers or {}), **fixed}, body)


def error_response(error: StorageError, request_id: str, time: str) -> Response:
    """A refusal in Azure's form: the code in a header (HEAD has no body), and in the XML."""
    headers = {**error.headers, "x-ms-error-code": error.code}
    if error.status == 304:
        return Response(304, headers)
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
    return Response(error.status, headers, body)


def _printable(text: str) -> str:
    # Control characters have no place in XML 1.0, escaped or not.
    return "".join(character if character.isprintable() else "?" for character in text)
