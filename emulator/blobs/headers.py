"""Parse the request headers for conditions, byte ranges, blob properties and metadata."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header
from emulator.blobs.lease import BLOB_LEASE_ERRORS, Lease, LeaseErrors, read_lease_id
from emulator.blobs.times import parse_http_date, to_microseconds


class VersionedResource(Protocol):
    """A resource to which conditional headers can refer: a blob or a container."""

    @property
    def etag(self) -> str:
        """The resource's entity tag, including the quotation marks."""

    @property
    def modified_us(self) -> int:
        """The time of the resource's last change, in microseconds since 1970 (UTC)."""

    @property
    def lease(self) -> Lease:
        """The resource's lease."""

    @property
    def lease_errors(self) -> LeaseErrors:
        """The errors for requests that use this resource with a wrong lease id."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The values of the conditional headers and of the lease id of a request.

    If a header is absent, its value is an empty tuple or None. Times are in seconds since 1970
    (UTC), but `now_us`, the time of the request, is in microseconds.

    Source: "Specifying conditional headers for Blob service operations" in the REST reference.
    """

    if_match: tuple[str, ...] = ()
    if_none_match: tuple[str, ...] = ()
    if_modified_since: int | None = None
    if_unmodified_since: int | None = None
    lease_id: str | None = None
    now_us: int = 0

    @classmethod
    def parse(cls, headers: Mapping[str, str], now_us: int) -> Conditions:
        """Parse conditional headers with names in lower case. Raises StorageError if malformed."""
        return cls(
            _tags(headers.get("if-match")),
            _tags(headers.get("if-none-match")),
            _seconds(headers, "if-modified-since"),
            _seconds(headers, "if-unmodified-since"),
            read_lease_id(headers),
            now_us,
        )

    def check_read(self, resource: VersionedResource) -> None:
        """Raise StorageError if the conditions do not permit reading a resource.

        `If-Match` and `If-Unmodified-Since` must both be met, and one of `If-None-Match` and
        `If-Modified-Since`. A lease id must be that of the resource's lease.
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
        self.check_lease(resource, requires_id=False)

    def check_write(self, resource: VersionedResource | None, *, creates: bool = False) -> None:
        """Raise StorageError if the conditions or the lease do not permit the write."""
        self.check_version(resource, creates=creates)
        self.check_lease(resource, requires_id=True)

    def check_lease(self, resource: VersionedResource | None, *, requires_id: bool) -> None:
        """Raise StorageError if the request's lease id does not permit using the resource."""
        if resource is not None:
            resource.lease.check_use(
                self.lease_id, self.now_us, resource.lease_errors, requires_id=requires_id
            )
        elif self.lease_id is not None:
            raise StorageError(BLOB_LEASE_ERRORS.no_lease)

    def check_version(self, resource: VersionedResource | None, *, creates: bool = False) -> None:
        """Raise StorageError if a resource does not meet the conditional headers of a write.

        Of `If-Match` with `If-Unmodified-Since`, and of `If-None-Match` with `If-Modified-Since`,
        only the first is checked. Other combinations are refused.
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
    """The conditional headers of a write request, and whether the request may overwrite a blob."""

    conditions: Conditions
    may_overwrite: bool = True

    def check(self, current: VersionedResource | None) -> None:
        """Raise StorageError if the request may not replace `current` or create the blob."""
        self.conditions.check_write(current, creates=True)
        if current is not None and not self.may_overwrite:
            raise StorageError(ErrorCode.UNAUTHORIZED_BLOB_OVERWRITE)


def _names(tags: tuple[str, ...], resource: VersionedResource) -> bool:
    return "*" in tags or resource.etag in tags


def _tags(value: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    tags = (tag.strip() for tag in value.split(","))
    # In API version 2011-08-18 and later the quotes of an entity tag are optional.
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
    """A range of a blob's bytes: from offset `start` up to, but not including, offset `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """The number of bytes in the range."""
        return self.stop - self.start

    def content_range(self, total: int) -> str:
        """Return the value of the header `Content-Range` for a blob of `total` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{total}"


def read_requested_range(headers: Mapping[str, str], total: int) -> ByteRange | None:
    """Return the byte range that a request asks for, or None for the whole blob.

    `x-ms-range` takes precedence over `Range`, which is ignored (RFC 9110) if it is malformed, has
    several ranges or a suffix range. Raises StorageError if `x-ms-range` is malformed or starts
    after the end.
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


# Each entry is the name of a property, of its response header, and of its XML element in a listing.
# The request header has the prefix `x-ms-blob-`.
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

# These headers change the meaning of a request, so they must not be ignored.
UNSUPPORTED_HEADERS = frozenset(
    {
        "x-ms-access-tier",
        "x-ms-blob-content-crc64",
        "x-ms-content-crc64",
        "x-ms-copy-source-authorization",
        "x-ms-encryption-context",
        "x-ms-encryption-key",
        "x-ms-encryption-scope",
        "x-ms-expiry-option",
        "x-ms-if-tags",
        "x-ms-immutability-policy-mode",
        "x-ms-immutability-policy-until-date",
        "x-ms-legal-hold",
        "x-ms-range-get-content-crc64",
        "x-ms-source-content-crc64",
        "x-ms-source-if-tags",
        "x-ms-structured-body",
    }
)


def read_blob_properties(headers: Mapping[str, str], *, single_put: bool = False) -> dict[str, str]:
    """Return the blob properties that the request's `x-ms-blob-…` headers set.

    If one is absent, Put Blob (`single_put`) uses the standard header, except `Content-MD5`. In
    other operations, the standard headers describe the body of the request.
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
    """Decode an MD5 digest from Base64. Raises StorageError if the result is not 16 bytes."""
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise StorageError(ErrorCode.INVALID_MD5) from None
    if len(digest) != _MD5_BYTES:
        raise StorageError(ErrorCode.INVALID_MD5)
    return digest


def check_metadata(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Check metadata, and return it as a dict whose names keep their case.

    Raises StorageError if it is invalid, exceeds 8 KiB or has names that differ only in case.
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
