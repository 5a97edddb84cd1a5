"""Test the functions that estimate throughput, positions in a queue, and waits for results."""

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.queues.estimates import (
    LengthSample,
    QueuePhase,
    QueuePosition,
    ReplySample,
    Throughput,
    is_cold_starting,
    length_now,
    position,
    retry_after_seconds,
    wait_seconds,
)

seconds = st.floats(0, 1e6)
replies = st.lists(
    st.builds(
        ReplySample,
        at_seconds=seconds,
        held_seconds=st.floats(allow_nan=True, allow_infinity=True),
        inference_seconds=st.floats(allow_nan=True, allow_infinity=True),
        batch_size=st.integers(-5, 100),
    ),
    max_size=50,
)


def pace_of(found: list[ReplySample]) -> Throughput:
    pace = Throughput()
    for reply in found:
        pace = pace.after(reply)
    return pace


def backlog(count: int, seconds_each: float, batch_size: int = 1) -> list[ReplySample]:
    """Return the replies of one worker that runs `count` jobs, each `seconds_each`, in batches."""
    batch_seconds = batch_size * seconds_each
    return [
        ReplySample(
            (number // batch_size + 1) * batch_seconds, batch_seconds, batch_seconds, batch_size
        )
        for number in range(count)
    ]


@given(replies)
def test_seconds_per_job_are_finite(found: list[ReplySample]) -> None:
    pace = pace_of(found)
    for estimate in (pace.seconds_per_job, pace.least_seconds_per_job):
        assert (estimate is None) == (not found)
        assert estimate is None or (math.isfinite(estimate) and estimate >= 0)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_long_queue_runs_at_the_time_between_replies(batch_size: int) -> None:
    pace = pace_of(backlog(160, 0.5, batch_size))
    assert pace.seconds_per_job == pytest.approx(0.5, rel=0.35)
    assert pace.least_seconds_per_job == pytest.approx(0.5, rel=0.35)


def test_second_worker_halves_the_busy_time() -> None:
    found = [ReplySample(number * 0.5, 1.0, 1.0, 1) for number in range(1, 100)]
    pace = pace_of(found)
    assert pace.seconds_per_job == pytest.approx(0.5, rel=0.1)
    assert pace.device_seconds / pace.weight == pytest.approx(1.0)


@pytest.mark.parametrize("at_seconds", [(1, 600), range(0, 600, 60)])
def test_pauses_do_not_increase_seconds_per_job(at_seconds: Iterable[float]) -> None:
    pace = pace_of([ReplySample(at, 0.2, 0.1, 1) for at in at_seconds])
    assert pace.seconds_per_job == pytest.approx(0.2)


@given(st.floats(0.001, 100), st.floats(0.001, 100))
def test_seconds_per_job_adapt_to_a_change(before: float, after: float) -> None:
    found = [ReplySample(number * before, before, before, 1) for number in range(50)]
    start = 50 * before
    found += [ReplySample(start + number * after, after, after, 1) for number in range(400)]
    assert pace_of(found).seconds_per_job == pytest.approx(after, rel=0.5, abs=before * 1e-3)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 1000), max_size=200), st.integers(0, 1000))
def test_position_never_exceeds_the_length(length: int, times: list[int], looked_at: int) -> None:
    arrivals = sorted(float(time) for time in times)
    count = LengthSample(length, float(looked_at), 0)
    for created_at in arrivals:
        place = position(count, arrivals, 0, created_at)
        assert 1 <= place <= length + len(arrivals) + 1
    places = [position(count, arrivals, 0, created_at) for created_at in arrivals]
    assert places == sorted(places)


def test_later_jobs_do_not_increase_the_position() -> None:
    arrivals = [1.0, 2.0, 3.0, 4.0]
    count = LengthSample(4, 10.0, 0)
    assert [position(count, arrivals, 0, at) for at in arrivals] == [1, 2, 3, 4]
    # Six jobs of other instances count as if they had arrived first.
    later = LengthSample(10, 10.0, 0)
    assert [position(later, arrivals, 0, at) for at in arrivals] == [7, 8, 9, 10]
    # After the count, two replies were received and two jobs were accepted.
    assert position(LengthSample(4, 2.5, 0), [*arrivals, 5.0], 2, 5.0) == 5
    assert length_now(LengthSample(4, 2.5, 7), arrivals, 9) == 4


@given(st.integers(0, 100), st.lists(st.floats(0, 100)), st.integers(0, 100))
def test_length_is_never_negative(length: int, arrivals: list[float], gone: int) -> None:
    assert length_now(LengthSample(length, 50.0, 0), sorted(arrivals), gone) >= 0


def test_slow_model_is_cold_starting_later() -> None:
    assert not is_cold_starting(0.0, 4.9, Throughput())
    assert is_cold_starting(0.0, 5.0, Throughput())
    slow = Throughput().after(ReplySample(0.0, 30.0, 30.0, 1))
    assert not is_cold_starting(0.0, 119.0, slow)
    assert is_cold_starting(0.0, 120.0, slow)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (QueuePosition(), 1),
        (QueuePosition(3, 0.0, QueuePhase.QUEUED), 1),
        (QueuePosition(3, 2.1, QueuePhase.QUEUED), 3),
        (QueuePosition(3, 9000.0, QueuePhase.QUEUED), 30),
        (QueuePosition(3, None, QueuePhase.COLD_STARTING), 5),
    ],
)
def test_retry_after_follows_from_the_wait(place: QueuePosition, expected: int) -> None:
    assert retry_after_seconds(place, 1, 30) == expected


def test_wait_is_unknown_without_throughput() -> None:
    assert wait_seconds(5, None) is None
    assert wait_seconds(5, 0.1) == 0.5
