"""A clock that a test sets."""

from dataclasses import dataclass
from datetime import UTC, datetime

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class ManualClock:
    """A clock whose time changes only when a test changes it."""

    moment: datetime = START

    def now(self) -> datetime:
        return self.moment
