"""The three ways in which the Blob REST API writes a moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime

Clock = Callable[[], datetime]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SAS_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S.%fZ")


def utc_now() -> datetime:
    """The moment by the machine's clock."""
    return datetime.now(UTC)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, as the index keeps them."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_http_date(microseconds: int) -> str:
    """RFC 1123, as in ``Last-Modified``; the fraction of the second is cut off."""
    return formatdate(microseconds // 1_000_000, usegmt=True)


def format_iso_date(microseconds: int) -> str:
    """ISO 8601 with seven digits, as in an error's ``Time``."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def parse_http_date(text: str) -> datetime | None:
    """An RFC 1123 date, or None if it is none."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def parse_sas_date(text: str) -> datetime | None:
    """A signature's ``st`` or ``se``, or None if it is in none of the forms Azure takes."""
    for form in _SAS_FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
