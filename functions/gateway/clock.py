"""The type of a clock, and the clock that returns the current time.

Functions receive a clock as an argument, so that tests can set the time.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

Clock = Callable[[], datetime]

utc_now: Final[Clock] = partial(datetime.now, UTC)
"""Returns the current time in UTC, as a datetime with a time zone."""
