"""Change a request as Azure's host does before it passes it to the web extension of an app.

Sources: the host's `DefaultHttpProxyService`, its forwarder YARP and its web server Kestrel, and
what was seen on version 4.1037 of the host.
"""

import codecs
import re
from collections.abc import Iterable
from urllib.parse import quote

from emulator.functions.asgi import Headers, Scope

INVOCATION_HEADER = b"x-ms-invocation-id"
# YARP passes on neither these headers nor the client's own values of those that it adds.
_NOT_PASSED = frozenset(
    {
        *(b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
        *(b"alpn", b"alt-svc", b"close", b"proxy-authenticate", b"proxy-authentication-info"),
        *(b"proxy-authorization", b"proxy-connection", b"proxy-features", b"proxy-instruction"),
        *(b"expect", b"host", b"http2-settings", b"security-scheme", INVOCATION_HEADER),
        *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto"),
    }
)
# The host's own server adds the date.
_NOT_RETURNED = _NOT_PASSED - {b"expect", b"host"} | {b"date"}
_UNRESERVED = "!$&'()*+,-./:;=@_~"
_PLAIN_PATH = re.compile(rb"(?:/(?!\.)[A-Za-z0-9!$&'()*+,\-.:;=@_~]*)*")
_ESCAPES = re.compile("(?:%(?!2[Ff])[0-9A-Fa-f]{2})+")


def encode_path(raw_path: bytes) -> bytes:
    """Return the path that the extension's server receives for the path that the client sent.

    Kestrel decodes all but `%2F` and what is not UTF-8, and resolves dots. YARP encodes the
    result, and so encodes each remaining percent sign: `%2F` becomes `%252F`.
    """
    if _PLAIN_PATH.fullmatch(raw_path):
        return raw_path
    decoded = _ESCAPES.sub(_unescape, raw_path.decode("latin-1"))
    return quote(_resolve_dots(decoded), safe=_UNRESERVED).encode()


def _unescape(match: re.Match[str]) -> str:
    return bytes.fromhex(match[0].replace("%", "")).decode("utf-8", "functions-keep-escapes")


def _keep_escapes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    rejected = error.object[error.start : error.end]
    return "".join(f"%{byte:02X}" for byte in rejected), error.end


codecs.register_error("functions-keep-escapes", _keep_escapes)


def _resolve_dots(path: str) -> str:
    segments: list[str] = []
    parts = path.split("/")[1:]
    for segment in parts:
        if segment == "..":
            segments[-1:] = []
        elif segment != ".":
            segments.append(segment)
    if parts and parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def request_headers(scope: Scope, authority: bytes, invocation_id: str) -> Headers:
    """Return the headers that the server at `authority` receives."""
    headers: dict[bytes, bytes] = {b"host": authority}
    host = b""
    for name, value in scope["headers"]:
        if name == b"host":
            host = value
        elif name not in _NOT_PASSED:
            separator = b"; " if name == b"cookie" else b", "
            headers[name] = headers[name] + separator + value if name in headers else value
    client = scope.get("client")
    headers[b"x-forwarded-for"] = b"" if client is None else client[0].encode()
    headers[b"x-forwarded-host"] = host
    headers[b"x-forwarded-proto"] = scope["scheme"].encode()
    headers[INVOCATION_HEADER] = invocation_id.encode()
    return list(headers.items())


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of the extension's response that the client receives."""
    return [(name, value) for name, value in headers if name not in _NOT_RETURNED]
