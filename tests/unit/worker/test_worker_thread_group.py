"""Test how many threads run the submitted calls."""

import threading
import time
from collections.abc import Callable

from worker.pipeline.consumer import ThreadGroup

SECONDS = 10.0


def wait_until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends_at


def test_calls_run_in_their_order_despite_errors() -> None:
    group, ran = ThreadGroup(1, "test"), list[int]()

    def call(number: int) -> None:
        ran.append(number)
        if number % 2:
            raise SystemExit(number) if number % 3 else ValueError(number)

    for number in range(100):
        group.submit(call, number)
    wait_until(lambda: len(ran) == 100)
    assert ran == list(range(100))
    assert group.count == 1


def test_calls_that_wait_get_all_threads_and_no_more() -> None:
    group, may_end = ThreadGroup(4, "test"), threading.Event()
    running, most = list[int](), list[int]()

    def call(number: int) -> None:
        running.append(number)
        most.append(len(running))
        assert may_end.wait(SECONDS)
        running.remove(number)

    for number in range(12):
        group.submit(call, number)
    wait_until(lambda: len(running) == 4)
    may_end.set()
    wait_until(lambda: len(most) == 12 and not running)
    assert max(most) == 4
    assert group.count == 4


def test_calls_from_several_threads_are_all_run() -> None:
    group, ran = ThreadGroup(3, "test", idle_seconds=0.001), list[int]()

    def submit() -> None:
        for number in range(2000):
            group.submit(ran.append, number)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    wait_until(lambda: len(ran) == 6000)


def test_idle_threads_end_and_later_calls_run() -> None:
    group, ran = ThreadGroup(2, "test", idle_seconds=0.01), list[int]()
    for number in range(5):
        group.submit(ran.append, number)
        wait_until(lambda number=number: number in ran)  # type: ignore[misc]
        wait_until(lambda: group.count == 0)
