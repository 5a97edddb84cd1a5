"""The clock of the broker. Tests replace this clock by a clock that the tests control."""

from datetime import UTC, datetime
from typing import Protocol


class UtcClock(Protocol):
    """The interface of a clock."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class WallClock:
    """The wall clock of the operating system.

    A monotonic clock cannot be used, because the expiry times of locks must stay valid after a
    restart.
    """

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
