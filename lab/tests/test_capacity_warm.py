"""Test the cron triggers that keep workers running, and the cost of these workers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab.capacity.cost import DAYS, PlannedDeployment, estimate_cost
from lab.capacity.deployed import DEPLOYED
from lab.capacity.load import JobLoad
from lab.capacity.nodes import BatchTimes, Cluster
from lab.capacity.prices import Prices
from loosely.local.autoscaler import Scaler
from loosely.local.scaling import CronTrigger, ScaledObject

WEEKDAYS = (0, 1, 2, 3, 4)
OFFICE = CronTrigger(WEEKDAYS, 8 * 60, 18 * 60, "Europe/Berlin", 2)


@pytest.mark.parametrize(
    ("time", "is_active"),
    [
        ("2024-01-01T06:59:59+00:00", False),  # a Monday in winter: 07:59:59 in Berlin
        ("2024-01-01T07:00:00+00:00", True),
        ("2024-01-01T16:59:59+00:00", True),
        ("2024-01-01T17:00:00+00:00", False),
        ("2024-01-06T10:00:00+00:00", False),  # a Saturday
        ("2024-07-01T06:00:00+00:00", True),  # a Monday in summer: 08:00 in Berlin
        ("2024-07-01T16:00:00+00:00", False),
    ],
)
def test_trigger_is_active_in_its_time_zone(time: str, is_active: bool) -> None:
    assert OFFICE.is_active(datetime.fromisoformat(time)) is is_active


def test_trigger_is_active_after_midnight() -> None:
    friday_night = CronTrigger((4,), 22 * 60, 26 * 60, "UTC")
    midnight = datetime(2024, 1, 6, tzinfo=UTC)
    active = [
        hours
        for hours in range(-24, 24)
        if friday_night.is_active(midnight + timedelta(hours=hours))
    ]
    assert active == [-2, -1, 0, 1]


def run(scaling: ScaledObject, start: datetime, hours: float) -> list[tuple[float, int]]:
    """Simulate scaling without jobs, and return each change of the number of workers.

    A change is a pair: the hours since `start`, and the new number of workers.
    """
    scaler = Scaler(scaling, 0.0)
    changes, replicas, seconds = list[tuple[float, int]](), 0, 0.0
    while seconds < hours * 3600:
        warm = scaling.count_warm(start + timedelta(seconds=seconds))
        found = scaler.step(seconds, [0], warm)
        if found != replicas:
            changes.append((round(seconds / 3600, 2), found))
            replicas = found
        seconds = scaler.next_at_seconds
    return changes


def test_warm_period_keeps_workers_without_jobs() -> None:
    scaling = replace(DEPLOYED, cron=(replace(OFFICE, timezone="UTC"),))
    # KEDA stops the workers after the cool-down of 5 min; the autoscaler stops one after 10 min.
    assert run(scaling, datetime(2024, 1, 1, tzinfo=UTC), 24) == [(8.0, 1), (8.0, 2), (18.08, 0)]
    assert run(scaling, datetime(2024, 1, 6, tzinfo=UTC), 24) == []


def test_minimum_is_kept_after_warm_period() -> None:
    scaling = replace(DEPLOYED, min_replica_count=1, cron=(replace(OFFICE, timezone="UTC"),))
    changes = run(scaling, datetime(2024, 1, 1, tzinfo=UTC), 24)
    assert [replicas for _, replicas in changes] == [1, 2, 1]
    assert changes[1][0] == 8.0
    assert 18.1 < changes[2][0] < 18.3


def test_jobs_add_workers_in_warm_period() -> None:
    scaling = replace(DEPLOYED, cron=(replace(OFFICE, timezone="UTC"),))
    scaler = Scaler(scaling, 0.0)
    replicas = [scaler.step(15.0 * number, [30], 2) for number in range(6)]
    assert replicas[-1] == 6


@pytest.fixture(scope="module")
def prices() -> Prices:
    pytest.importorskip("yaml")
    return Prices.load(Path(__file__).parents[2] / "infra" / "prices.yaml")


def gpu_hours(scaling: ScaledObject, prices: Prices) -> float:
    deployment = PlannedDeployment(
        JobLoad.parse("flat:0.05", 1), scaling, Cluster(), BatchTimes(), "T4"
    )
    return estimate_cost(deployment, prices).bills[0].gpu_hours


def test_cost_includes_warm_hours(prices: Prices) -> None:
    cold = gpu_hours(DEPLOYED, prices)
    warm = gpu_hours(replace(DEPLOYED, cron=(replace(OFFICE, desired_replicas=1),)), prices)
    always = gpu_hours(replace(DEPLOYED, min_replica_count=1), prices)
    # Ten hours on five of seven days, and some minutes until a node is removed.
    assert warm - cold == pytest.approx(10 * 5 / 7 * DAYS, rel=0.05)
    assert always >= 24 * DAYS - 1 > warm
