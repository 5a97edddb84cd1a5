"""Format and parse times in the formats of the Blob REST API: RFC 1123 and ISO 8601."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime

Clock = Callable[[], datetime]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SAS_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S.%fZ")


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def to_microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970 (UTC), as the index stores it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_http_date(microseconds: int) -> str:
    """Format microseconds since 1970 as an RFC 1123 date, rounded down to the second."""
    return formatdate(microseconds // 1_000_000, usegmt=True)


def format_iso_date(microseconds: int) -> str:
    """Format microseconds since 1970 in ISO 8601, with seven decimals for the seconds."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def parse_http_date(text: str) -> datetime | None:
    """Parse an RFC 1123 date. Return None if the text is invalid."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_sas_date(text: str) -> datetime | None:
    """Parse the start or expiry time of a SAS; None if it is invalid."""
    for form in _SAS_FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
