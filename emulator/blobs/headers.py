"""Conditional headers, as "Specifying conditional headers for Blob service operations" has them."""

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
    """What a condition is held against: a blob or a container."""

    @property
    def etag(self) -> str:
        """The entity tag, in its quotes."""

    @property
    def modified_us(self) -> int:
        """When it last changed, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The four headers; a tag list is empty, and a time None, where the header is absent."""

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Conditions:
        """Read the headers (names in lower case)."""
        return cls(
            _tags(headers.get("if-match")),
            _tags(headers.get("if-none-match")),
            _seconds(headers, "if-modified-since"),
            _seconds(headers, "if-unmodified-since"),
        )

    def check_read(self, resource: VersionedResource) -> None:
        """Refuse a read whose conditions ``resource`` does not meet (304 or 412).

        ``If-Match && If-Unmodified-Since && (If-None-Match || If-Modified-Since)``
        """
        if "*" in self.if_none_match:
            raise StorageError(ErrorCode.UNSATISFIABLE_CONDITION)
        if self.if_match and not _names(self.if_match, resource):
            raise StorageError(ErrorCode.CONDITION_NOT_MET)
        if not self._unmodified(resource):
            raise StorageError(ErrorCode.CONDITION_NOT_MET)
        asked = []
        if self.if_none_match:
            asked.append(not _names(self.if_none_match, resource))
        if self.if_modified_since is not None:
            asked.append(self._modified(resource))
        if asked and not any(asked):
            raise StorageError(ErrorCode.NOT_MODIFIED, headers={"ETag": resource.etag})

    def check_write(self, resource: VersionedResource | None, *, creates: bool = False) -> None:
        """Refuse a write whose conditions ``resource`` (None: it does not exist) does not meet.

        Writes take one header, or one of two pairs in which the entity tag decides.
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
    """What must hold for a blob to be written: conditions, and the right to overwrite."""

    conditions: Conditions
    may_overwrite: bool = True

    def check(self, current: VersionedResource | None) -> None:
        """Refuse to write over ``current`` (None: it does not exist)."""
        self.conditions.check_write(current, creates=True)
        if current is not None and not self.may_overwrite:
            raise StorageError(ErrorCode.UNAUTHORIZED_BLOB_OVERWRITE)


def _names(tags: tuple[str, ...], resource: VersionedResource) -> bool:
    return "*" in tags or resource.etag in tags


def _tags(value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = (tag.strip() for tag in value.split(","))
    # Since 2011-08-18 a tag may come with or without its quotes.
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
    """The bytes ``[start, stop)`` of a blob."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.stop - self.start

    def content_range(self, total: int) -> str:
        """The value of ``Content-Range`` in an answer about a blob of ``total`` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{total}"


def read_requested_range(headers: Mapping[str, str], total: int) -> ByteRange | None:
    """The part of a blob of ``total`` bytes that is asked for; None means all of it.

    A malformed ``x-ms-range`` is an error. A malformed ``Range``, one with several parts, or a
    suffix (``bytes=-5``) is no range that Azure knows, and is ignored as RFC 9110 allows.
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


def read_blob_properties(headers: Mapping[str, str], *, single_put: bool = False) -> dict[str, str]:
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


def check_metadata(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
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
