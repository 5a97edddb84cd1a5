"""Byte ranges of Get Blob: ``x-ms-range``, or else ``Range``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header

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


def requested_range(headers: Mapping[str, str], total: int) -> ByteRange | None:
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
