"""Test how many jobs may be in a queue while others wait in the room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import Priority
from gateway.batches import step
from gateway.shares.window import RATE_SECONDS, correct_seconds, window

NORMAL, LOW = Priority.NORMAL, Priority.LOW


@pytest.mark.parametrize(("ready", "jobs"), [(1, 16), (2, 32), (10, 160)])
def test_window_is_two_batches_of_each_worker(ready: int, jobs: int) -> None:
    assert window(8, NORMAL, ready, None) == jobs


@pytest.mark.parametrize(("ready", "jobs"), [(1, 10), (3, 30)])
def test_small_batches_let_workers_double(ready: int, jobs: int) -> None:
    assert window(1, NORMAL, ready, None) == jobs


def test_fast_model_has_half_a_second_of_jobs() -> None:
    assert window(8, NORMAL, 1, 0.001) == 500


def test_low_window_lets_workers_double() -> None:
    assert window(8, LOW, 2, None) == 400


@pytest.mark.parametrize("ready", [None, 0])
def test_cold_model_may_start_eight_workers(ready: int | None) -> None:
    assert window(1, NORMAL, ready, None) == 40


@given(st.floats(1e-4, 10), st.integers(0, 50))
def test_batch_alone_fits_into_the_low_window(seconds: float, ready: int) -> None:
    lines = min(step.MAX_WINDOW, step.WINDOW_SECONDS / seconds)
    assert window(8, LOW, ready, seconds) >= max(step.MIN_WINDOW, lines)
    assert RATE_SECONDS[LOW] > step.WINDOW_SECONDS


@given(st.integers(1, 500), st.integers(1, 50), st.sampled_from(Priority))
def test_window_grows_with_the_workers(size: int, ready: int, priority: Priority) -> None:
    jobs = [window(size, priority, count, 0.1) for count in (ready, ready + 1)]
    assert jobs[0] <= jobs[1]
    assert jobs[0] >= size * max(1, ready)


def rate_after_a_minute(instances: int, *, is_corrected: bool) -> int:
    """Return how many jobs run in a second, of the 1,000 that the workers can run.

    The leader lets jobs in 0.2 s after others end. It receives the replies of one instance.
    """
    rate = 100
    for _ in range(60):
        seconds = instances / rate
        if is_corrected:
            seconds = correct_seconds(seconds, rate)
        rate = min(1000, round(window(8, NORMAL, 1, seconds) / 0.2))
    return rate


def test_several_instances_fill_a_fast_model() -> None:
    assert rate_after_a_minute(4, is_corrected=True) == 1000
    assert rate_after_a_minute(4, is_corrected=False) == 80


@given(st.floats(1e-5, 10), st.floats(0.5, 1000))
def test_window_is_half_to_all_of_a_second(seconds: float, ends: float) -> None:
    jobs = RATE_SECONDS[NORMAL] / correct_seconds(seconds, ends)
    assert 0.49 * ends <= jobs <= 1.01 * ends


def test_no_end_leaves_the_shortest_window() -> None:
    assert window(8, NORMAL, 1, correct_seconds(0.001, 0.0)) == 16
