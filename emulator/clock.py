"""The clock of the services, an argument so that tests of timers need not wait."""

from datetime import UTC, datetime
from typing import Protocol


class UtcClock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class WallClock:
    """The wall clock: unlike a monotonic one, it keeps stored expiry times valid."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
