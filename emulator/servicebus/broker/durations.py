"""Parse and format ISO 8601 durations."""

import re
from datetime import timedelta

_PATTERN = re.compile(
    r"P(?!\Z)(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?!\Z)(?:(?P<hours>\d{1,9})H)?(?:(?P<minutes>\d{1,9})M)?"
    r"(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)S)?)?",
    re.ASCII,
)
_UNITS = "days", "hours", "minutes", "seconds"
UNBOUNDED = timedelta(days=10675199, hours=2, minutes=48, seconds=5, microseconds=477580)
"""The longest duration in .NET, rounded to microseconds. In Azure it means "no limit"."""
_UNBOUNDED_TEXT = "P10675199DT2H48M5.4775807S"


def bounded(duration: timedelta) -> timedelta | None:
    """Return a duration, or None for "no limit", .NET's longest duration, rounded to days."""
    return duration if duration.days < UNBOUNDED.days else None


def parse_duration(text: str) -> timedelta:
    """Parse an ISO 8601 duration such as `PT1M30S`. Raises ValueError if the text is invalid."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:100]!r} is not an ISO 8601 duration such as PT1M or P14D")
    days, hours, minutes, seconds = (match[unit] or "0" for unit in _UNITS)
    whole, _, fraction = seconds.partition(".")
    try:
        return timedelta(
            days=int(days),
            hours=int(hours),
            minutes=int(minutes),
            seconds=int(whole),
            microseconds=int(fraction[:6].ljust(6, "0")),
        )
    except OverflowError:
        raise ValueError(
            f"{text[:100]!r} exceeds the longest duration, {_UNBOUNDED_TEXT}"
        ) from None


def format_duration(duration: timedelta) -> str:
    """Format a duration that is not negative in ISO 8601, such as `P1DT2H3M4.5S`."""
    if duration == UNBOUNDED:
        return _UNBOUNDED_TEXT  # clients compare it with .NET's TimeSpan.MaxValue
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    date = f"{duration.days}D" if duration.days else ""
    time = f"{hours}H" if hours else ""
    time += f"{minutes}M" if minutes else ""
    if seconds or duration.microseconds:
        fraction = f".{duration.microseconds:06}".rstrip("0") if duration.microseconds else ""
        time += f"{seconds}{fraction}S"
    if not date and not time:
        return "PT0S"
    return f"P{date}T{time}" if time else f"P{date}"
