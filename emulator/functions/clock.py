"""The clock as an argument, so that tests of timers and locks do not have to wait."""

from datetime import UTC, datetime
from typing import Protocol


class HostClock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        ...


class SystemUtcClock:
    """The system clock."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)
