"""A blob's HTTP properties and metadata: what requests set and answers show."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping

from emulator.blobs.errors import ErrorCode, StorageError

# The name of the property, its request header, and its element in a listing.
PROPERTY_NAMES = (
    "Content-Type",
    "Content-Encoding",
    "Content-Language",
    "Content-MD5",
    "Content-Disposition",
    "Cache-Control",
)
DEFAULT_CONTENT_TYPE = "application/octet-stream"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_METADATA_BYTES_MAX = 8 * 1024
_MD5_BYTES = 16

# What changes the meaning of a request must not be taken and then ignored.
UNSUPPORTED_HEADERS = frozenset(
    {
        "x-ms-access-tier",
        "x-ms-blob-content-crc64",
        "x-ms-content-crc64",
        "x-ms-copy-source",
        "x-ms-encryption-context",
        "x-ms-encryption-key",
        "x-ms-encryption-scope",
        "x-ms-expiry-option",
        "x-ms-if-tags",
        "x-ms-immutability-policy-mode",
        "x-ms-immutability-policy-until-date",
        "x-ms-legal-hold",
        "x-ms-range-get-content-crc64",
        "x-ms-structured-body",
        "x-ms-tags",
    }
)


def blob_properties(headers: Mapping[str, str], *, single_put: bool = False) -> dict[str, str]:
    """The properties that ``x-ms-blob-…`` headers set.

    With Put Blob (``single_put``), the plain ``Content-…`` headers of the request do so where
    the prefixed ones are absent; elsewhere the plain ones describe the request's own body.
    """
    found = {}
    for name in PROPERTY_NAMES:
        lower = name.lower()
        value = headers.get("x-ms-blob-" + lower)
        if value is None and single_put and name != "Content-MD5":
            value = headers.get(lower)
        if value:
            found[name] = value
    if "Content-MD5" in found:
        decode_md5(found["Content-MD5"])
    return found


def decode_md5(value: str) -> bytes:
    """The sixteen bytes of a Base64 MD5."""
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise StorageError(ErrorCode.INVALID_MD5) from None
    if len(digest) != _MD5_BYTES:
        raise StorageError(ErrorCode.INVALID_MD5)
    return digest


def metadata(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Check metadata pairs; a name keeps its case, but two names may not differ by case alone."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    total = 0
    for name, value in pairs:
        if not name:
            raise StorageError(ErrorCode.EMPTY_METADATA_KEY)
        lower = name.lower()
        if not _IDENTIFIER.fullmatch(name) or not value.isascii() or lower in seen:
            raise StorageError(ErrorCode.INVALID_METADATA)
        seen.add(lower)
        found[name] = value
        total += len(name) + len(value)
    if total > _METADATA_BYTES_MAX:
        raise StorageError(ErrorCode.METADATA_TOO_LARGE)
    return found
