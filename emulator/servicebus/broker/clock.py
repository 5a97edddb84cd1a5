"""The clock of the broker. Tests use a manual clock instead."""

from datetime import UTC, datetime
from typing import Protocol


class UtcClock(Protocol):
    """A clock that returns the current time."""

    def now(self) -> datetime:
        """Return the current time in UTC."""
        ...


class WallClock:
    """The system's wall clock.

    A monotonic clock cannot be used, because the expiry times of locks must stay valid after a
    restart.
    """

    def now(self) -> datetime:
        """Return the current time in UTC."""
        return datetime.now(UTC)
