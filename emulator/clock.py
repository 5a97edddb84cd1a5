"""The clock of the broker. Tests replace it with a clock that they control."""

from datetime import UTC, datetime
from typing import Protocol


class UtcClock(Protocol):
    """The interface of the clock from which the broker reads the current time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class WallClock:
    """The wall clock of the operating system.

    A monotonic clock cannot be used, because the database contains expiry times that must stay
    valid after a restart.
    """

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
