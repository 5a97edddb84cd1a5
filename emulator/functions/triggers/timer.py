"""Timer triggers: NCRONTAB schedules, late runs, and a file that stores the next run.

If the host is down when a run is due, the function runs late, after the next start of the host.

Source: the WebJobs timer extension (`TimerListener`, `ScheduleMonitor`) and its NCrontab parser.
"""

import asyncio
import json
import logging
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from croniter import CroniterError, croniter

from emulator.clock import UtcClock
from emulator.functions.errors import AppUnavailable, FunctionFailure
from emulator.functions.settings import parse_timespan
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
_log = logging.getLogger("functions.timer")
_LONGEST_SLEEP_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_STOP_SECONDS = 8.0
_NEVER = "0001-01-01T00:00:00+00:00"
InvokeFunction = Callable[[str], Awaitable[object]]


class ScheduleError(ValueError):
    """The text is neither an NCRONTAB expression nor a time span."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The schedule of a timer, in UTC.

    `text` is an NCRONTAB expression or a time span. The constructor raises ScheduleError if `text`
    is invalid.
    """

    text: str
    _interval: timedelta | None = field(init=False, repr=False)
    _expression: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        interval = _interval_of(self.text)
        object.__setattr__(self, "_interval", interval)
        object.__setattr__(self, "_expression", "" if interval else _expression_of(self.text))

    def next_after(self, instant: datetime) -> datetime:
        """Return the first due time after `instant`."""
        if self._interval is not None:
            return instant + self._interval
        # Unlike cron, NCRONTAB requires that both the day of month and the day of week match.
        times = croniter(self._expression, instant, second_at_beginning=True, day_or=False)
        found: datetime = times.get_next(datetime)
        return found

    def is_frequent(self, now: datetime) -> bool:
        """Return whether the timer is due more than once a minute; Azure stores no such state."""
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
    # croniter accepts extensions (`L`, `#`, `@daily`, `H`) that NCRONTAB does not have.
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


@dataclass(frozen=True, slots=True)
class TimerOptions:
    """The options that the decorator of a timer function sets."""

    name: str
    schedule: Schedule
    run_on_startup: bool = False
    use_monitor: bool = True


@dataclass(frozen=True, slots=True)
class TimerRun:
    """A run of a timer function that is planned or has begun.

    `at` is the due time. `is_past_due` is true if the run is late.
    """

    at: datetime
    is_past_due: bool = False


class TimerState:
    """The file that stores the times of the last and the next run of a timer."""

    def __init__(self, path: Path, schedule: str) -> None:
        self._path = path
        self._schedule = schedule

    def read(self) -> dict[str, str]:
        """Return Last, Next and LastUpdated, unless damaged or for another schedule."""
        try:
            document = json.loads(self._path.read_text())
            if document["Schedule"] != self._schedule:
                return {}
            status = {key: str(document[key]) for key in ("Last", "Next", "LastUpdated")}
            datetime.fromisoformat(status["Next"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning(
                "the timer's state in %s cannot be read, so the file will be replaced: %s",
                self._path,
                error,
            )
            return {}
        return status

    def write(self, last: str, due: datetime) -> None:
        """Store the last run and the next one (`due`) atomically."""
        document = {"Last": last, "Next": due.isoformat(), "LastUpdated": last}
        document["Schedule"] = self._schedule
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(document))
        os.replace(fresh, self._path)  # noqa: PTH105 - os.replace is documented as atomic


class TimerTrigger:
    """Runs one timer function on its schedule."""

    def __init__(
        self, options: TimerOptions, state_folder: Path, invoke: InvokeFunction, clock: UtcClock
    ) -> None:
        self._options = options
        self._invoke = invoke
        self._clock = clock
        monitored = options.use_monitor and not options.schedule.is_frequent(clock.now())
        path = state_folder / f"{options.name}.json"
        self._state = TimerState(path, options.schedule.text) if monitored else None
        self._status: dict[str, str] = {} if self._state is None else self._state.read()
        self._is_stopping = False

    def first_run(self) -> TimerRun:
        """Return the first run of the function after the start of the host.

        It is due now if the stored run is overdue or the function has `run_on_startup`. Otherwise
        it is due at the stored time or, without one, at the next time of the schedule.
        """
        now = self._clock.now()
        known = self._status.get("Next")
        overdue = known is not None and datetime.fromisoformat(known) <= now
        if overdue or self._options.run_on_startup:
            return TimerRun(now, is_past_due=overdue)
        if known is not None:
            return TimerRun(datetime.fromisoformat(known))
        due = self._options.schedule.next_after(now)
        self._store_status(_NEVER, due)
        return TimerRun(due)

    async def run_once(self, due: TimerRun) -> TimerRun:
        """Make the run `due`, and return the next run.

        If the app process ends, repeat the run, marked as late. If this task is cancelled, wait up
        to 8 s until the function has ended and the run is stored.
        """
        run = asyncio.create_task(self._run_once(due))
        try:
            return await asyncio.shield(run)
        except asyncio.CancelledError:
            self._is_stopping = True
            await asyncio.wait([run], timeout=_STOP_SECONDS)
            run.cancel()
            raise

    async def _run_once(self, due: TimerRun) -> TimerRun:
        while True:
            try:
                await self._invoke(self.payload(is_past_due=due.is_past_due))
            except FunctionFailure:
                break  # the app process has logged the failure
            except AppUnavailable:
                if self._is_stopping:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
                due = TimerRun(due.at, is_past_due=True)
            else:
                break
        # The timer may have woken a little early, but the next run must be after this one.
        now = max(self._clock.now(), due.at)
        following = self._options.schedule.next_after(now)
        self._store_status(now.isoformat(), following)
        return TimerRun(following)

    async def run(self) -> None:
        """Run the function on its schedule until this task is cancelled."""
        due = self.first_run()
        while True:
            await self._wait_for(due.at)
            due = await self.run_once(due)

    def payload(self, *, is_past_due: bool) -> str:
        """Return the JSON from which azure.functions creates the TimerRequest of a run."""
        document: dict[str, Any] = {
            "Schedule": {"AdjustForDST": True},
            "ScheduleStatus": self._status or None,
            "IsPastDue": is_past_due,
        }
        return json.dumps(document)

    async def _wait_for(self, instant: datetime) -> None:
        # Sleep in steps, because the system clock may be set during the sleep.
        while True:
            left_seconds = (instant - self._clock.now()).total_seconds()
            if left_seconds <= 0:
                return
            await asyncio.sleep(min(left_seconds, _LONGEST_SLEEP_SECONDS))

    def _store_status(self, last: str, due: datetime) -> None:
        if self._state is None:
            return
        self._status = {"Last": last, "Next": due.isoformat(), "LastUpdated": last}
        try:
            self._state.write(last, due)
        except OSError as error:
            _log.error(
                "the state of the timer %s cannot be stored; its last run may be repeated after a "
                "restart of the host: %s",
                self._options.name,
                error,
            )
