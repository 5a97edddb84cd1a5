"""Parse request headers: conditions, byte ranges, a blob's properties and metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header
from emulator.blobs.times import parse_http_date, to_microseconds


class VersionedResource(Protocol):
    """A blob or a container, against which conditions are checked."""

    @property
    def etag(self) -> str:
        """The entity tag with its quotes."""

    @property
    def modified_us(self) -> int:
        """The time of the last change, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The four conditional headers; empty or None if absent.

    "Specifying conditional headers for Blob service operations" of the REST reference.
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Conditions:
        """Parse the headers, whose names are in lower case. Raises StorageError."""
        return cls(
            _tags(headers.get("if-match")),
            _tags(headers.get("if-none-match")),
            _seconds(headers, "if-modified-since"),
            _seconds(headers, "if-unmodified-since"),
        )

    def check_read(self, resource: VersionedResource) -> None:
        """Raise StorageError (304 or 412) if a resource does not meet the conditions of a read.

        The rule: `If-Match && If-Unmodified-Since && (If-None-Match || If-Modified-Since)`.
        """
        if "*" in self.if_none_match:
            raise StorageError(ErrorCode.UNSATISFIABLE_CONDITION)
        if self.if_match and not _names(self.if_match, resource):
            raise StorageError(ErrorCode.CONDITION_NOT_MET)
        if not self._unmodified(resource):
            raise StorageError(ErrorCode.CONDITION_NOT_MET)
        alternatives = []
        if self.if_none_match:
            alternatives.append(not _names(self.if_none_match, resource))
        if self.if_modified_since is not None:
            alternatives.append(self._modified(resource))
        if alternatives and not any(alternatives):
            raise StorageError(ErrorCode.NOT_MODIFIED, headers={"ETag": resource.etag})

    def check_write(self, resource: VersionedResource | None, *, creates: bool = False) -> None:
        """Raise StorageError (412 or 409) if a resource does not meet the conditions of a write.

        `resource` is None if it does not exist. A write takes one header, or one of two pairs in
        which the entity tag decides.
        """
        self._check_combination()
        if resource is None:
            if self.if_match:
                raise StorageError(ErrorCode.CONDITION_NOT_MET)
            return
        if self.if_match:
            met = _names(self.if_match, resource)
        elif self.if_none_match:
            if creates and "*" in self.if_none_match:
                raise StorageError(ErrorCode.BLOB_ALREADY_EXISTS)
            met = not _names(self.if_none_match, resource)
        else:
            met = self._modified(resource) and self._unmodified(resource)
        if not met:
            raise StorageError(ErrorCode.CONDITION_NOT_MET)

    def _check_combination(self) -> None:
        if len(self.if_match) > 1 or len(self.if_none_match) > 1:
            raise StorageError(ErrorCode.MULTIPLE_CONDITION_HEADERS)
        match, unmodified = bool(self.if_match), self.if_unmodified_since is not None
        none_match, modified = bool(self.if_none_match), self.if_modified_since is not None
        if (match or unmodified) and (none_match or modified):
            raise StorageError(ErrorCode.MULTIPLE_CONDITION_HEADERS)

    def _modified(self, resource: VersionedResource) -> bool:
        since = self.if_modified_since
        return since is None or resource.modified_us // 1_000_000 > since

    def _unmodified(self, resource: VersionedResource) -> bool:
        since = self.if_unmodified_since
        return since is None or resource.modified_us // 1_000_000 <= since


@dataclass(frozen=True, slots=True)
class WritePrecondition:
    """What must be true to write a blob: the conditions, and the permission to overwrite."""

    conditions: Conditions
    may_overwrite: bool = True

    def check(self, current: VersionedResource | None) -> None:
        """Raise StorageError if `current` (None: does not exist) may not be written."""
        self.conditions.check_write(current, creates=True)
        if current is not None and not self.may_overwrite:
            raise StorageError(ErrorCode.UNAUTHORIZED_BLOB_OVERWRITE)


def _names(tags: tuple[str, ...], resource: VersionedResource) -> bool:
    return "*" in tags or resource.etag in tags


def _tags(value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = (tag.strip() for tag in value.split(","))
    # Since version 2011-08-18 the quotes of a tag are optional.
    return tuple(tag if tag == "*" or tag.startswith('"') else f'"{tag}"' for tag in tags if tag)


def _seconds(headers: Mapping[str, str], name: str) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    moment = parse_http_date(value)
    if moment is None:
        raise invalid_header(name, value)
    return to_microseconds(moment) // 1_000_000


_RANGE = re.compile(r"bytes=(\d{1,19})-(\d{1,19})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes `[start, stop)` of a blob."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self.stop - self.start

    def content_range(self, total: int) -> str:
        """Return the value of `Content-Range` for a blob of `total` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{total}"


def read_requested_range(headers: Mapping[str, str], total: int) -> ByteRange | None:
    """Return the requested part of a blob of `total` bytes, or None for all of it.

    `x-ms-range` takes precedence over `Range`. A malformed `x-ms-range` raises StorageError. A
    malformed `Range`, one with several parts and a suffix (`bytes=-5`) are ignored, as RFC 9110
    allows.
    """
    name = "x-ms-range" if "x-ms-range" in headers else "range"
    value = headers.get(name)
    if value is None:
        return None
    found = _RANGE.fullmatch(value.strip())
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        if name == "x-ms-range":
            raise invalid_header(name, value)
        return None
    start = int(found[1])
    stop = min(int(found[2]) + 1, total) if found[2] else total
    if start >= total:
        raise StorageError(ErrorCode.INVALID_RANGE, headers={"Content-Range": f"bytes */{total}"})
    return ByteRange(start, stop)


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

# These change the meaning of a request, so they must not be ignored.
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


def read_blob_properties(headers: Mapping[str, str], *, single_put: bool = False) -> dict[str, str]:
    """Return the properties that `x-ms-blob-…` headers set.

    For Put Blob (`single_put`) the plain `Content-…` headers set a property if the prefixed header
    is absent. For other operations they describe the request's own body.
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
    """Return the 16 bytes of an MD5 in Base64. Raises StorageError."""
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise StorageError(ErrorCode.INVALID_MD5) from None
    if len(digest) != _MD5_BYTES:
        raise StorageError(ErrorCode.INVALID_MD5)
    return digest


def check_metadata(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return valid metadata as a dict.

    Names keep their case. Raises StorageError for an invalid name or value, for two names that
    differ only by case, and above 8 KB.
    """
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
