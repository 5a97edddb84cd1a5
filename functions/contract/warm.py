"""Parse the warm periods of a model, which are the value of the key `warm` in the catalogue.

A period is a text of three parts, for example `Mon-Fri 08:00-18:00 Europe/Berlin`: days of the
week, a start and an end in local time, and a time zone of the IANA database. The first part lists
single days and ranges of days, separated by commas, for example `Mon,Wed-Fri`. If the end is
earlier than the start, the period ends on the next day.
"""

import re
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from contract.errors import CatalogueError

EXAMPLE: Final = "Mon-Fri 08:00-18:00 Europe/Berlin"

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES: Final = 24 * 60
_TIMES: Final = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")


@dataclass(frozen=True, slots=True)
class WarmPeriod:
    """A period that repeats each week on the days on which it starts; 0 is Monday.

    Both times are in minutes after midnight of the first day. If the period ends on the next day,
    `end_minutes` is greater than 1440.
    """

    days: tuple[int, ...]
    start_minutes: int
    end_minutes: int
    timezone: str

    @property
    def start_cron(self) -> str:
        """A cron expression for the start of the period, in its time zone."""
        return _format_cron(self.days, self.start_minutes)

    @property
    def end_cron(self) -> str:
        """A cron expression for the end of the period, in its time zone."""
        return _format_cron(self.days, self.end_minutes)


def read_periods(key: str, value: Any) -> tuple[str, ...]:
    """Check a period, or a list of periods, at the position `key` of the catalogue.

    Raises CatalogueError, which names the key.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise CatalogueError(f'{key}: expected a text such as "{EXAMPLE}", or a list of such texts')
    try:
        for text in texts:
            parse_period(text)
    except ValueError as error:
        raise CatalogueError(f"{key}: {error}") from None
    return tuple(texts)


def parse_period(text: str) -> WarmPeriod:
    """Return the period that a text describes. Raises ValueError, which says what is expected."""
    parts = text.split()
    if len(parts) != 3:
        raise ValueError(f'expected days, times and a time zone as in "{EXAMPLE}", found {text!r}')
    days, times, timezone = parts
    start, end = _parse_times(times)
    if end <= start:
        end += _DAY_MINUTES
    period = WarmPeriod(_parse_days(days), start, end, timezone)
    _check_timezone(timezone)
    if period.start_cron == period.end_cron:
        raise ValueError(f"the period {text!r} never ends; set min_workers instead")
    return period


def _parse_days(text: str) -> tuple[int, ...]:
    days = set[int]()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (last if dash else first) not in DAYS:
            raise ValueError(
                f"expected days such as Mon-Fri or Mon,Wed from {', '.join(DAYS)}, found {text!r}"
            )
        begin, end = DAYS.index(first), DAYS.index(last if dash else first)
        # A range may include the end of the week, for example Sat-Mon.
        days.update((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))
    return tuple(sorted(days))


def _parse_times(text: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(text)
    numbers = [int(digits) for digits in found.groups()] if found else []
    if numbers:
        start, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
        is_valid = start < _DAY_MINUTES and end <= _DAY_MINUTES and max(numbers[1], numbers[3]) < 60
        if is_valid and start == end:
            raise ValueError(
                f"the period {text!r} starts and ends at the same time: for a whole day, "
                "use 00:00-24:00"
            )
        if is_valid:
            return start, end
    raise ValueError(
        "expected a start and an end in the form 08:00-18:00, with times from 00:00 to 24:00, "
        f"found {text!r}"
    )


def _check_timezone(name: str) -> None:
    """Raise ValueError if the time zone does not exist, unless the machine knows no time zones."""
    try:
        if _ZONE.fullmatch(name):
            ZoneInfo(name)
            return
    except (OSError, ValueError, KeyError):
        if not available_timezones():
            return
    raise ValueError(f"the time zone {name!r} does not exist; use a name such as Europe/Berlin")


def _format_cron(days: tuple[int, ...], minutes: int) -> str:
    """Return a cron expression for a time on some days; from 1440 minutes, on the days after."""
    next_day, rest = divmod(minutes, _DAY_MINUTES)
    # Cron counts the days from Sunday.
    numbers = sorted((day + next_day + 1) % 7 for day in days)
    is_range = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
    names = f"{numbers[0]}-{numbers[-1]}" if is_range else ",".join(map(str, numbers))
    return f"{rest % 60} {rest // 60} * * {names}"
