import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.functions.errors import FunctionFailure
from emulator.functions.triggers.timer import (
    InvokeFunction,
    Schedule,
    ScheduleError,
    TimerOptions,
    TimerRun,
    TimerTrigger,
)
from manual_clock import ManualClock

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)  # a Monday


class RecordedCalls:
    """Replaces a timer's function. Each call records the payload, and raises `failure` if given."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.payloads: list[dict[str, object]] = []
        self._failure = failure

    async def __call__(self, payload: str) -> None:
        self.payloads.append(json.loads(payload))
        if self._failure is not None:
            raise self._failure


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("0 */5 * * * *", NOON + timedelta(minutes=5)),
        ("*/15 * * * * *", NOON + timedelta(seconds=15)),
        ("30 0 13 * * *", NOON + timedelta(hours=1, seconds=30)),
        ("0 30 9 * * 1-5", datetime(2026, 3, 3, 9, 30, tzinfo=UTC)),
        ("0 30 9 * JAN Mon", datetime(2027, 1, 4, 9, 30, tzinfo=UTC)),
        ("0 30 9 * january monday", datetime(2027, 1, 4, 9, 30, tzinfo=UTC)),
        (
            "0 0 0 13 * Fri",
            datetime(2026, 3, 13, tzinfo=UTC),
        ),  # the day of the month and the weekday must match
        ("*/5 * * * *", NOON + timedelta(minutes=5)),
        ("00:10:00", NOON + timedelta(minutes=10)),
    ],
)
def test_schedule_returns_the_next_due_time(text: str, following: datetime) -> None:
    assert Schedule(text).next_after(NOON) == following


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "60 * * * * *",
        "0 0 0 31 2 *",
        "@daily",
        "0 0 0 L * *",
        "0 0 0 * * 1#2",
        "0 0 0 * * H",
        "a b c d e f",
        "00:00:00",
        "1:2:3:4",
        "0 0 * * * ?",
        "* * * * * * *",
    ],
)
def test_invalid_schedule_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        Schedule(text)


@given(st.text(alphabet="0123456789*/,-: MONmon", max_size=24))
def test_random_schedule_is_parsed_or_raises_an_error(text: str) -> None:
    try:
        schedule = Schedule(text)
    except ScheduleError:
        return
    assert schedule.next_after(NOON) > NOON


def timer(
    folder: Path,
    clock: ManualClock,
    fire: InvokeFunction,
    schedule: str = "0 0 * * * *",
    **options: bool,
) -> TimerTrigger:
    return TimerTrigger(TimerOptions("tidy", Schedule(schedule), **options), folder, fire, clock)


async def test_run_receives_the_status_of_the_previous_one(
    tmp_path: Path,
) -> None:
    clock, fire = ManualClock(NOON), RecordedCalls()
    hourly = timer(tmp_path, clock, fire)
    due = hourly.first_run()
    assert due == TimerRun(NOON + timedelta(hours=1))
    clock.moment = due.at - timedelta(milliseconds=2)  # the timer wakes a little early
    due = await hourly.run_once(due)
    assert due == TimerRun(NOON + timedelta(hours=2))
    clock.moment = due.at
    await hourly.run_once(due)
    assert [payload["IsPastDue"] for payload in fire.payloads] == [False, False]
    assert fire.payloads[1]["ScheduleStatus"] == {
        "Last": "2026-03-02T13:00:00+00:00",
        "Next": "2026-03-02T14:00:00+00:00",
        "LastUpdated": "2026-03-02T13:00:00+00:00",
    }


async def test_cancelled_run_is_stored_after_the_function(
    tmp_path: Path,
) -> None:
    clock, started, may_end = ManualClock(NOON), asyncio.Event(), asyncio.Event()

    async def wait_inside(_payload: str) -> None:
        started.set()
        await may_end.wait()

    hourly = timer(tmp_path, clock, wait_inside)
    run = asyncio.create_task(hourly.run_once(TimerRun(NOON)))
    await started.wait()
    run.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    stored = json.loads((tmp_path / "tidy.json").read_text())
    assert stored["Last"] == NOON.isoformat()


async def test_missed_runs_cause_one_past_due_run(
    tmp_path: Path,
) -> None:
    clock, fire = ManualClock(NOON), RecordedCalls()
    timer(tmp_path, clock, fire).first_run()
    clock.moment += timedelta(hours=5)
    again = timer(tmp_path, clock, fire)
    due = again.first_run()
    assert due == TimerRun(clock.moment, is_past_due=True)
    assert await again.run_once(due) == TimerRun(NOON + timedelta(hours=6))
    assert [payload["IsPastDue"] for payload in fire.payloads] == [True]


def test_restart_keeps_the_next_due_time(
    tmp_path: Path,
) -> None:
    clock = ManualClock(NOON)
    timer(tmp_path, clock, RecordedCalls(), "01:00:00").first_run()
    clock.moment += timedelta(minutes=50)
    due = timer(tmp_path, clock, RecordedCalls(), "01:00:00").first_run()
    assert due == TimerRun(NOON + timedelta(hours=1))


def test_changed_schedule_ignores_the_stored_time(
    tmp_path: Path,
) -> None:
    clock = ManualClock(NOON)
    timer(tmp_path, clock, RecordedCalls()).first_run()
    clock.moment += timedelta(hours=5)
    due = timer(tmp_path, clock, RecordedCalls(), "0 30 * * * *").first_run()
    assert due == TimerRun(NOON + timedelta(hours=5, minutes=30))


def test_missed_runs_are_skipped_without_use_monitor(tmp_path: Path) -> None:
    clock = ManualClock(NOON)
    timer(tmp_path, clock, RecordedCalls(), use_monitor=False).first_run()
    clock.moment += timedelta(hours=5)
    due = timer(tmp_path, clock, RecordedCalls(), use_monitor=False).first_run()
    assert due == TimerRun(NOON + timedelta(hours=6))
    assert list(tmp_path.iterdir()) == []


def test_frequent_timer_stores_no_state(tmp_path: Path) -> None:
    timer(tmp_path, ManualClock(NOON), RecordedCalls(), "*/30 * * * * *").first_run()
    assert list(tmp_path.iterdir()) == []


def test_run_on_startup_runs_at_the_start(tmp_path: Path) -> None:
    assert timer(
        tmp_path, ManualClock(NOON), RecordedCalls(), run_on_startup=True
    ).first_run() == TimerRun(NOON)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Schedule": "0 0 * * * *", "Next": 1}'])
def test_damaged_state_file_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / "tidy.json").write_text(text)
    due = timer(tmp_path, ManualClock(NOON), RecordedCalls()).first_run()
    assert due == TimerRun(NOON + timedelta(hours=1))
    assert json.loads((tmp_path / "tidy.json").read_text())["Next"] == due.at.isoformat()


async def test_failed_function_runs_again_when_due(tmp_path: Path) -> None:
    fire = RecordedCalls(FunctionFailure("ValueError", "no"))
    hourly = timer(tmp_path, ManualClock(NOON), fire)
    assert await hourly.run_once(TimerRun(NOON)) == TimerRun(NOON + timedelta(hours=1))
    assert len(fire.payloads) == 1
