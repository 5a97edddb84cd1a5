"""Test that SortedNumbers and TimerHeap return the same as simple sets and dicts."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.broker.message_table import SortedNumbers, TimerHeap
from manual_clock import START

numbers = st.integers(0, 40)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), max_size=400), st.integers(0, 2000))
def test_sorted_numbers_equal_a_sorted_set(changes: list[tuple[bool, int]], since: int) -> None:
    index, model = SortedNumbers(), set[int]()
    for adding, number in changes:
        if adding and number not in model:
            index.add(number)
            model.add(number)
        elif not adding and number in model:
            index.remove(number)
            model.remove(number)
    assert len(index) == len(model)
    assert index.first() == min(model, default=None)
    assert list(index.since(since)) == sorted(each for each in model if each >= since)


def test_full_chunks_are_split_and_empty_ones_removed() -> None:
    index = SortedNumbers()
    for number in [*range(0, 4000, 2), *range(3999, 0, -2)]:
        index.add(number)
    assert list(index.since(0)) == list(range(4000))
    assert max(map(len, index.chunks)) <= 512
    for number in range(3990):
        assert index.first() == number
        index.remove(number)
    assert list(index.since(0)) == list(range(3990, 4000))
    assert len(index.chunks) == 1


class _Counted(int):
    """An integer. `comparison_count` is the number of comparisons of all such integers."""

    comparison_count = 0

    def __lt__(self, other: int) -> bool:
        _Counted.comparison_count += 1
        return int(self) < int(other)


def test_changes_take_logarithmic_comparisons() -> None:
    counts = []
    for depth in (1000, 100_000):
        index = SortedNumbers()
        for number in range(depth):
            index.add(_Counted(2 * number))
        _Counted.comparison_count = 0
        for number in range(1, depth, depth // 50):
            index.add(_Counted(number | 1))
            index.remove(_Counted(number | 1))
        counts.append(_Counted.comparison_count)
    assert counts[1] <= 2 * counts[0]


@given(st.lists(st.tuples(numbers, st.none() | numbers), max_size=300), numbers)
def test_timer_heap_returns_due_keys_in_order(
    changes: list[tuple[int, int | None]], seconds: int
) -> None:
    timers, model = TimerHeap(), dict[int, int]()
    for changed, due in changes:
        timers.set(changed, None if due is None else START + timedelta(seconds=due))
        model.pop(changed, None)
        if due is not None:
            model[changed] = due
    assert len(timers) == len(model)
    taken = []
    while (key := timers.take_due(START + timedelta(seconds=seconds))) is not None:
        taken.append(key)
    expected = sorted((due, key) for key, due in model.items() if due <= seconds)
    assert taken == [key for _, key in expected]
    assert len(timers) == len(model) - len(taken)


def test_timer_heap_does_not_grow() -> None:
    timers = TimerHeap()
    for at in range(10_000):
        timers.set(at % 10, START + timedelta(seconds=at))
        assert len(timers.heap) <= 2 * len(timers) + 64
    for key in range(10):
        timers.set(key, None)
    assert timers.next_due_at() is None
