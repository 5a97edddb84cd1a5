"""Where the broker takes its time from, so that tests can hold it."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        ...


class SystemClock:
    """The machine's clock: locks must mean the same after a restart, so not a monotonic one."""

    def now(self) -> datetime:
        """Return the present instant in UTC."""
        return datetime.now(UTC)
