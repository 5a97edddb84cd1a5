"""Test that the batch queue respects the limits of a batch, loses no item and keeps the order."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from worker.pipeline.infer import Batcher, BatchQueue


def test_batch_waits_for_items_up_to_the_limit() -> None:
    batcher = Batcher[str](max_batch_size=4, max_wait_seconds=0.005)
    batcher.add_item("a", now=10.0)
    batcher.add_item("b", now=10.003)

    assert batcher.take_batch(now=10.004) == []
    assert batcher.take_batch(now=10.005) == ["a", "b"]


def test_full_batch_is_taken_at_once() -> None:
    batcher = Batcher[int](max_batch_size=2, max_wait_seconds=60.0)
    for item in range(3):
        batcher.add_item(item, now=0.0)

    assert batcher.take_batch(now=0.0) == [0, 1]
    assert batcher.take_batch(now=0.0) == []
    assert batcher.wait_seconds(now=20.0) == 40.0


def test_old_item_starts_its_batch_at_once() -> None:
    batcher = Batcher[str](max_batch_size=8, max_wait_seconds=0.005)
    batcher.add_item("came while the device was busy", now=1.0)

    assert batcher.take_batch(now=1.2) == ["came while the device was busy"]


@given(
    max_batch_size=st.integers(1, 5),
    max_wait_seconds=st.floats(0, 2),
    steps=st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40),
)
def test_batches_keep_order_size_and_time_limits(
    max_batch_size: int, max_wait_seconds: float, steps: list[tuple[float, bool]]
) -> None:
    batcher = Batcher[int](max_batch_size, max_wait_seconds)
    now, added, taken = 0.0, 0, list[int]()
    arrivals: list[float] = []
    for elapsed, is_arrival in steps:
        now += elapsed
        if is_arrival:
            batcher.add_item(added, now)
            arrivals.append(now)
            added += 1
            continue
        waiting = [now - at for at in arrivals[len(taken) :]]
        batch = batcher.take_batch(now)
        assert len(batch) <= max_batch_size
        if not batch and waiting:
            assert len(waiting) < max_batch_size
            assert now < arrivals[len(taken)] + max_wait_seconds
        taken += batch
        wait_seconds = batcher.wait_seconds(now)
        assert (wait_seconds is None) == (len(batcher) == 0)

    assert taken + batcher.take_all() == list(range(added))


def test_batch_of_the_full_cost_is_taken_at_once() -> None:
    batcher = Batcher[str](max_batch_size=8, max_wait_seconds=60, max_cost=10)
    for item, cost in (("a", 4.0), ("b", 5.0), ("c", 2.0), ("d", 1.0)):
        batcher.add_item(item, 0.0, cost)

    assert batcher.take_batch(0.0) == ["a", "b"], "c does not fit, and d does not overtake c"
    assert batcher.take_batch(0.0) == []
    batcher.max_cost = 3
    assert batcher.take_batch(0.0) == ["c", "d"]


def test_item_beyond_the_cost_limit_is_alone() -> None:
    batcher = Batcher[str](max_batch_size=8, max_wait_seconds=60, max_cost=10)
    batcher.add_item("huge", 0.0, 50.0)
    batcher.add_item("small", 0.0, 1.0)

    assert batcher.take_batch(0.0) == ["huge"]


def test_low_priority_comes_last() -> None:
    batcher = Batcher[str](max_batch_size=3, max_wait_seconds=1)
    for item, is_low in (("l1", True), ("l2", True), ("n1", False), ("n2", False)):
        batcher.add_item(item, 0.0, is_low=is_low)

    assert batcher.wait_seconds(0.25) == 0.75
    assert batcher.take_batch(1.0) == ["n1", "n2"], "no item of low priority makes the batch longer"
    batcher.add_item("n3", 1.5)
    assert batcher.wait_seconds(2.0) == 0.5, "an older item of low priority does not start a batch"
    assert batcher.take_batch(2.5) == ["n3"]
    assert batcher.take_batch(2.5) == ["l1", "l2"]


@given(
    max_batch_size=st.integers(1, 5),
    max_cost=st.floats(0.5, 20),
    items=st.lists(st.tuples(st.floats(0, 15), st.booleans()), min_size=1, max_size=30),
)
def test_batches_keep_priorities_and_the_cost_limit(
    max_batch_size: int, max_cost: float, items: list[tuple[float, bool]]
) -> None:
    batcher = Batcher[int](max_batch_size, 1.0, max_cost)
    for number, (cost, is_low) in enumerate(items):
        batcher.add_item(number, 0.0, cost, is_low=is_low)
    taken: list[int] = []
    while batch := batcher.take_batch(now=2.0):
        assert len(batch) <= max_batch_size
        assert len(batch) == 1 or sum(items[number][0] for number in batch) <= max_cost
        taken += batch
        if len(batcher):
            following = (batcher.take_all() or [0])[0]
            whole = [*batch, following]
            full = len(whole) > max_batch_size or items[following][1] != items[batch[-1]][1]
            assert full or sum(items[number][0] for number in whole) >= max_cost
            rest = [n for n in _in_order(items) if n not in taken]
            for number in rest:
                batcher.add_item(number, 0.0, items[number][0], is_low=items[number][1])
    assert taken == _in_order(items)


def _in_order(items: list[tuple[float, bool]]) -> list[int]:
    return sorted(range(len(items)), key=lambda number: (items[number][1], number))


def test_normal_items_can_be_taken_at_once() -> None:
    batcher = Batcher[str](max_batch_size=2, max_wait_seconds=60)
    batcher.add_item("low", 0.0, is_low=True)
    assert batcher.take_normal() == []
    for item in ("a", "b", "c"):
        batcher.add_item(item, 0.0)
    assert batcher.take_normal() == ["a", "b"]
    assert batcher.take_normal() == ["c"]
    assert batcher.take_all() == ["low"]


def test_paused_queue_refuses_items() -> None:
    queue = BatchQueue(Batcher[str](max_batch_size=2, max_wait_seconds=3600))
    assert queue.add_item("early")
    queue.pause()
    assert queue.take_all() == ["early"]
    assert queue.take_batch() == []
    assert not queue.add_item("late")
    queue.resume()
    assert queue.add_item("one")
    assert queue.add_item("two")
    assert queue.take_batch() == ["one", "two"]


def test_close_keeps_items_and_wakes_the_taker() -> None:
    queue = BatchQueue(Batcher[str](max_batch_size=2, max_wait_seconds=3600))
    assert queue.add_item("one")
    taken: list[list[str]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take_batch()))
    taker.start()

    queue.close()
    assert queue.take_all() == ["one"]
    taker.join(5)
    assert taken == [[]]
    assert not queue.add_item("two")


def test_new_item_wakes_the_taker() -> None:
    queue = BatchQueue(Batcher[str](max_batch_size=2, max_wait_seconds=3600))
    taken: list[list[str]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take_batch()))
    taker.start()
    queue.add_item("one")
    queue.add_item("two")
    taker.join(5)

    assert taken == [["one", "two"]]
