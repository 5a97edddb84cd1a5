"""Test how several items are sent in one call, and how numbers form ranges."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.brokers.replies import CallGatherer
from worker.brokers.servicebus.batched_settlement import ranges

SECONDS = 10


class Post:
    """A function that sends several items in one call.

    Each call waits until the test sets `may_end`. A call whose items include `fails` raises an
    error.
    """

    def __init__(self, fails: str = "") -> None:
        self.calls: list[list[str]] = []
        self.fails = fails
        self.running = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, things: Sequence[str]) -> None:
        self.calls.append(list(things))
        self.running.set()
        assert self.may_end.wait(SECONDS)
        if self.fails in things:
            raise ConnectionError(self.fails)


def test_items_are_combined_into_few_calls() -> None:
    post = Post()
    gathering = CallGatherer(post, limit=3)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(gathering, "first")
        assert post.running.wait(SECONDS)
        others = [threads.submit(gathering, f"other {number}") for number in range(5)]
        while gathering.waiting_count < 5:
            first.done()
        post.may_end.set()
        for future in (first, *others):
            future.result(SECONDS)
    assert [len(call) for call in post.calls] == [1, 3, 2]
    assert sorted(chain.from_iterable(post.calls)) == [
        "first",
        *(f"other {number}" for number in range(5)),
    ]


def test_error_is_raised_for_the_items_of_its_call() -> None:
    post = Post(fails="bad")
    post.may_end.set()
    gathering = CallGatherer(post, limit=8)
    with pytest.raises(ConnectionError):
        gathering("bad")
    gathering("good")
    assert post.calls == [["bad"], ["good"]]


@given(st.sets(st.integers(0, 60)))
def test_consecutive_numbers_form_ranges(numbers: set[int]) -> None:
    found = ranges(numbers)
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(numbers)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))
