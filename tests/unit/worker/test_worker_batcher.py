"""The batcher: never too large, never too late, nothing lost or reordered."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from worker.inference.batcher import Batcher, BatchQueue


def test_waits_for_a_fuller_batch_but_not_beyond_the_limit() -> None:
    batcher = Batcher[str](max_batch_size=4, max_wait_seconds=0.005)
    batcher.add("a", now=10.0)
    batcher.add("b", now=10.003)

    assert batcher.take(now=10.004) == []
    assert batcher.take(now=10.005) == ["a", "b"]


def test_does_not_wait_when_the_batch_is_full() -> None:
    batcher = Batcher[int](max_batch_size=2, max_wait_seconds=60.0)
    for item in range(3):
        batcher.add(item, now=0.0)

    assert batcher.take(now=0.0) == [0, 1]
    assert batcher.take(now=0.0) == []
    assert batcher.wait_seconds(now=20.0) == 40.0


def test_does_not_wait_when_the_oldest_waited_for_the_device() -> None:
    batcher = Batcher[str](max_batch_size=8, max_wait_seconds=0.005)
    batcher.add("came while the device was busy", now=1.0)

    assert batcher.take(now=1.2) == ["came while the device was busy"]


@given(
    max_batch_size=st.integers(1, 5),
    max_wait_seconds=st.floats(0, 2),
    steps=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40),
)
def test_keeps_order_size_and_time(
    max_batch_size: int, max_wait_seconds: float, steps: list[tuple[float, bool]]
) -> None:
    batcher = Batcher[int](max_batch_size, max_wait_seconds)
    now, added, taken = 0.0, 0, list[int]()
    arrivals: list[float] = []
    for elapsed, is_arrival in steps:
        now += elapsed
        if is_arrival:
            batcher.add(added, now)
            arrivals.append(now)
            added += 1
            continue
        waiting = [now - at for at in arrivals[len(taken) :]]
        batch = batcher.take(now)
        assert len(batch) <= max_batch_size
        if not batch and waiting:
            assert len(waiting) < max_batch_size
            assert now < arrivals[len(taken)] + max_wait_seconds
        taken += batch
        wait_seconds = batcher.wait_seconds(now)
        assert (wait_seconds is None) == (len(batcher) == 0)

    assert taken + batcher.clear() == list(range(added))


def test_a_closed_queue_gives_back_what_was_not_taken_and_lets_its_taker_go() -> None:
    queue = BatchQueue(Batcher[str](max_batch_size=2, max_wait_seconds=3600))
    assert queue.put("one")
    taken: list[list[str]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()

    assert queue.close() == ["one"]
    taker.join(5)
    assert taken == [[]]
    assert not queue.put("two")


def test_an_arrival_wakes_the_taker() -> None:
    queue = BatchQueue(Batcher[str](max_batch_size=2, max_wait_seconds=3600))
    taken: list[list[str]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()))
    taker.start()
    queue.put("one")
    queue.put("two")
    taker.join(5)

    assert taken == [["one", "two"]]
