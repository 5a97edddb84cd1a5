"""Conditional headers, as "Specifying conditional headers for Blob service operations" has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header
from emulator.blobs.times import parse_http_date, to_microseconds


class Versioned(Protocol):
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

    def check_read(self, resource: Versioned) -> None:
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

    def check_write(self, resource: Versioned | None, *, creates: bool = False) -> None:
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

    def _modified(self, resource: Versioned) -> bool:
        since = self.if_modified_since
        return since is None or resource.modified_us // 1_000_000 > since

    def _unmodified(self, resource: Versioned) -> bool:
        since = self.if_unmodified_since
        return since is None or resource.modified_us // 1_000_000 <= since


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold for a blob to be written: conditions, and the right to overwrite."""

    conditions: Conditions
    may_overwrite: bool = True

    def check(self, current: Versioned | None) -> None:
        """Refuse to write over ``current`` (None: it does not exist)."""
        self.conditions.check_write(current, creates=True)
        if current is not None and not self.may_overwrite:
            raise StorageError(ErrorCode.UNAUTHORIZED_BLOB_OVERWRITE)


def _names(tags: tuple[str, ...], resource: Versioned) -> bool:
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
