"""Test warm periods in the catalogue, and the cron expressions that KEDA gets for them."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.__main__ import main
from contract.catalogue import Catalogue, format_entry
from contract.errors import CatalogueError
from contract.warm import DAYS, WarmPeriod, parse_period
from loosely.local.scaling import CronTrigger
from tests.unit.contract.catalogue_files import load

OFFICE = "Mon-Fri 08:00-18:00 Europe/Berlin"
ENTRY = """
[small]
implementation = "models.small"
description = "Small."
media_types = ["text/plain"]
"""
MONDAY = datetime(2024, 1, 1)  # noqa: DTZ001  a local time of the period
WEEK_MINUTES = 7 * 24 * 60


@pytest.mark.parametrize(
    ("text", "days", "start_cron", "end_cron"),
    [
        (OFFICE, (0, 1, 2, 3, 4), "0 8 * * 1-5", "0 18 * * 1-5"),
        ("Mon,Wed,Sun 06:30-07:45 UTC", (0, 2, 6), "30 6 * * 0,1,3", "45 7 * * 0,1,3"),
        ("Sat-Mon 00:00-12:00 UTC", (0, 5, 6), "0 0 * * 0,1,6", "0 12 * * 0,1,6"),
        ("Fri 22:00-02:00 UTC", (4,), "0 22 * * 5", "0 2 * * 6"),
        ("Mon-Fri 00:00-24:00 UTC", (0, 1, 2, 3, 4), "0 0 * * 1-5", "0 0 * * 2-6"),
        ("Sat 18:00-00:00 UTC", (5,), "0 18 * * 6", "0 0 * * 0"),
    ],
)
def test_period_becomes_two_cron_expressions(
    text: str, days: tuple[int, ...], start_cron: str, end_cron: str
) -> None:
    period = parse_period(text)
    assert period.days == days
    assert (period.start_cron, period.end_cron) == (start_cron, end_cron)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            '"Mon-Fri 08:00-18:00"',
            'expected days, times and a time zone as in "Mon-Fri 08:00-18:00',
        ),
        ('"Mon-Fry 08:00-18:00 UTC"', "expected days such as Mon-Fri or Mon,Wed from Mon, Tue"),
        ('"Mon- 08:00-18:00 UTC"', "found 'Mon-'"),
        ('"mon 08:00-18:00 UTC"', "found 'mon'"),
        ('"Mon 8-18 UTC"', "expected a start and an end in the form 08:00-18:00, with times from"),
        ('"Mon 08:00-25:00 UTC"', "found '08:00-25:00'"),
        ('"Mon 08:60-18:00 UTC"', "found '08:60-18:00'"),
        ('"Mon 08:00-08:00 UTC"', "starts and ends at the same time"),
        ('"Mon-Sun 00:00-24:00 UTC"', "never ends; set min_workers instead"),
        ('"Mon 08:00-18:00 Europe/Berlim"', "the time zone 'Europe/Berlim' does not exist"),
        ('"Mon 08:00-18:00 ../Berlin"', "the time zone '../Berlin' does not exist"),
        ('["Mon 08:00-18:00 UTC", "Tue"]', "found 'Tue'"),
        ("8", 'expected a text such as "Mon-Fri 08:00-18:00 Europe/Berlin", or a list'),
        ("[8]", "or a list of such texts"),
    ],
)
def test_error_names_the_key_and_the_fault(value: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogueError) as refused:
        load(tmp_path, ENTRY + f"warm = {value}")
    assert str(refused.value).startswith("small.warm: ")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        ("", (0, 0)),
        ("min_workers = 2", (2, 0)),
        (f'warm = "{OFFICE}"', (0, 1)),
        (f'min_workers = 2\nwarm = "{OFFICE}"', (2, 3)),
        (f'min_workers = 2\nwarm = ["{OFFICE}"]\nwarm_workers = 6', (2, 6)),
    ],
)
def test_minimum_workers_inside_and_outside_periods(
    lines: str, numbers: tuple[int, int], tmp_path: Path
) -> None:
    model = load(tmp_path, ENTRY + lines)["small"]
    assert (model.min_workers, model.warm_workers) == numbers
    printed = load(tmp_path, ENTRY)
    path = tmp_path / "printed.toml"
    path.write_text(format_entry(model), encoding="utf-8")
    assert Catalogue.load(path)["small"] == model
    assert f"min_workers = {numbers[0]}" in path.read_text("utf-8")
    assert printed["small"].warm == ()


def test_documented_example_is_valid(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "docs/how-to/models.md").read_text("utf-8")
    section = guide.partition("## Workers that wait for jobs")[2]
    model = load(tmp_path, ENTRY + section.split("```toml\n")[1].partition("```")[0])["small"]
    assert (model.min_workers, len(model.warm), model.warm_workers) == (1, 2, 3)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("min_workers = -1", "small.min_workers: expected a whole number of at least 0"),
        ("warm_workers = 2", "small.warm: the key is missing, although warm_workers is set"),
        (
            f'min_workers = 2\nwarm = "{OFFICE}"\nwarm_workers = 2',
            "small.warm_workers: expected a number from 3 to 1001, found 2",
        ),
    ],
)
def test_ineffective_numbers_of_workers_are_refused(
    lines: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CatalogueError, match=message):
        load(tmp_path, ENTRY + lines)


def test_scaling_command_prints_parsed_periods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load(tmp_path, ENTRY + f'min_workers = 1\nwarm = "{OFFICE}"')
    assert main(["scaling", str(tmp_path / "models.toml")]) == 0
    assert json.loads(capsys.readouterr().out)["small"] == {
        "min_workers": 1,
        "warm_workers": 2,
        "warm": [
            {
                "days": [0, 1, 2, 3, 4],
                "start_minutes": 480,
                "end_minutes": 1080,
                "timezone": "Europe/Berlin",
            }
        ],
    }


def _minutes_until(cron: str, minute_of_week: int) -> int:
    """Return the number of minutes until the next time that a cron expression matches.

    `minute_of_week` is the current time, in minutes since Monday 00:00.
    """
    minute, hour, _, _, weekdays = cron.split()
    days = set[int]()
    for part in weekdays.split(","):
        first, _, last = part.partition("-")
        days.update(range(int(first), int(last or first) + 1))
    times = [(day - 1) % 7 * 24 * 60 + int(hour) * 60 + int(minute) for day in days]
    return min((time - minute_of_week - 1) % WEEK_MINUTES + 1 for time in times)


def _is_active_in_keda(period: WarmPeriod, minute_of_week: int) -> bool:
    """Return whether KEDA's cron trigger for a warm period is active at this minute of the week.

    The trigger is active if its next end is not later than its next start.
    """
    start = _minutes_until(period.start_cron, minute_of_week)
    return start >= _minutes_until(period.end_cron, minute_of_week)


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 23),
    st.integers(0, 24),
    st.lists(st.integers(0, WEEK_MINUTES // 30 - 1), min_size=4, max_size=4),
)
def test_local_triggers_are_active_as_in_keda(
    days: set[int], start: int, end: int, half_hours: list[int]
) -> None:
    text = f"{','.join(DAYS[day] for day in sorted(days))} {start:02}:00-{end:02}:00 UTC"
    try:
        period = parse_period(text)
    except ValueError:
        return
    trigger = CronTrigger(period.days, period.start_minutes, period.end_minutes, period.timezone)
    for half_hour in half_hours:
        # Not at the whole hour, at which a period starts or ends.
        minute = half_hour * 30 + 15
        expected = _is_active_in_keda(period, minute)
        assert trigger.contains(MONDAY + timedelta(minutes=minute)) is expected, (text, minute)
