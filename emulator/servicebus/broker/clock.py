"""The broker's source of time, which tests replace."""

from datetime import UTC, datetime
from typing import Protocol


class UtcClock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class WallClock:
    """The wall clock, not a monotonic one: locks must keep their meaning after a restart."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
