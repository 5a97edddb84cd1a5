"""When a timer is due: NCRONTAB expressions with seconds, and plain time spans."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from croniter import CroniterError, croniter

from emulator.functions.hostfile import parse_timespan
from emulator.program import SettingError

_FIELD = re.compile(r"[0-9A-Za-z*/,\-]+")
_NAME = re.compile(r"[A-Za-z]+")
_DAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july"),
    *("august", "september", "october", "november", "december"),
)
_SHORT_NAME = 3
_NAMES = frozenset(form for name in (*_DAYS, *_MONTHS) for form in (name, name[:_SHORT_NAME]))
_MINUTE = timedelta(minutes=1)


class ScheduleError(ValueError):
    """The text is neither an NCRONTAB expression nor a time span."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A timer's schedule, in UTC. Raises ScheduleError when made of a bad text."""

    text: str
    _interval: timedelta | None = field(init=False, repr=False)
    _expression: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        interval = _interval_of(self.text)
        object.__setattr__(self, "_interval", interval)
        object.__setattr__(self, "_expression", "" if interval else _expression_of(self.text))

    def next_after(self, instant: datetime) -> datetime:
        """Return the first time later than an instant."""
        if self._interval is not None:
            return instant + self._interval
        # NCRONTAB wants both the day of month and the day of week, where cron wants either.
        times = croniter(self._expression, instant, second_at_beginning=True, day_or=False)
        found: datetime = times.get_next(datetime)
        return found

    def is_frequent(self, now: datetime) -> bool:
        """Tell whether it is due more often than once a minute; Azure then keeps no state."""
        first = self.next_after(now)
        return self.next_after(first) - first < _MINUTE


def _interval_of(text: str) -> timedelta | None:
    if ":" not in text:
        return None
    try:
        seconds = parse_timespan(text)
    except SettingError:
        raise _not_recognised(text) from None
    if not seconds:
        raise _not_recognised(text)
    return timedelta(seconds=seconds)


def _expression_of(text: str) -> str:
    fields = text.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    # croniter knows extensions (`L`, `#`, `@daily`, hashes) that NCRONTAB does not.
    names = {name.lower() for part in fields for name in _NAME.findall(part)}
    if (
        len(fields) != 6
        or not names <= _NAMES
        or not all(_FIELD.fullmatch(part) for part in fields)
    ):
        raise _not_recognised(text)
    expression = _NAME.sub(lambda match: match[0][:_SHORT_NAME].lower(), " ".join(fields))
    try:
        croniter(expression, second_at_beginning=True, day_or=False).get_next()
    except (CroniterError, ValueError):
        raise _not_recognised(text) from None
    return expression


def _not_recognised(text: str) -> ScheduleError:
    return ScheduleError(
        f"The schedule expression '{text}' was not recognized as a valid cron expression or "
        "timespan string."
    )
