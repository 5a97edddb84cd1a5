"""Test how many jobs may be in a queue while others wait in the room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import Priority
from gateway.batches import step
from gateway.shares.window import RATE_SECONDS, window

NORMAL, LOW = Priority.NORMAL, Priority.LOW


@pytest.mark.parametrize(("ready", "jobs"), [(None, 16), (0, 16), (1, 16), (2, 32), (10, 160)])
def test_window_is_two_batches_of_each_worker(ready: int | None, jobs: int) -> None:
    assert window(8, NORMAL, ready, None) == jobs


@pytest.mark.parametrize(("ready", "jobs"), [(1, 10), (3, 20)])
def test_small_batches_let_the_next_worker_start(ready: int, jobs: int) -> None:
    assert window(1, NORMAL, ready, None) == jobs


def test_fast_model_has_half_a_second_of_jobs() -> None:
    assert window(8, NORMAL, 1, 0.001) == 500


def test_low_window_lets_the_next_worker_start() -> None:
    assert window(8, LOW, 2, None) == 300


@given(st.floats(1e-4, 10), st.integers(0, 50))
def test_batch_alone_fits_into_the_low_window(seconds: float, ready: int) -> None:
    lines = min(step.MAX_WINDOW, step.WINDOW_SECONDS / seconds)
    assert window(8, LOW, ready, seconds) >= max(step.MIN_WINDOW, lines)
    assert RATE_SECONDS[LOW] > step.WINDOW_SECONDS


@given(st.integers(1, 500), st.integers(0, 50), st.sampled_from(Priority))
def test_window_grows_with_the_workers(size: int, ready: int, priority: Priority) -> None:
    jobs = [window(size, priority, count, 0.1) for count in (ready, ready + 1)]
    assert jobs[0] <= jobs[1]
    assert jobs[0] >= size * max(1, ready)
