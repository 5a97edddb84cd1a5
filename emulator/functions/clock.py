"""A clock that is passed as an argument, so that tests of timers do not have to wait."""

from datetime import UTC, datetime
from typing import Protocol


class HostClock(Protocol):
    """A source of the current time."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        ...


class SystemUtcClock:
    """A source of the current time that reads the system clock."""

    def now(self) -> datetime:
        """Return the current time, in UTC."""
        return datetime.now(UTC)
