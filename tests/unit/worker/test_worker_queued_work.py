"""Test how often the worker peeks at queues, and which queued messages it ignores."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from worker.brokers.port import Peeked
from worker.errors import BrokerUnavailable
from worker.memory.queued_work import QueuedWork


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Queue:
    """A queue in memory that can only be peeked.

    `ages` contains the age of each message in seconds, by its sequence number. `looks` counts the
    calls of `peek`. If `is_away` is true, these calls raise an error.
    """

    ages: dict[int, float] = field(default_factory=dict)
    is_away: bool = False
    looks: int = 0

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        self.looks += 1
        if self.is_away:
            raise BrokerUnavailable("away")
        numbers = [number for number in sorted(self.ages) if number >= from_sequence_number]
        now = datetime.now(UTC)
        return [Peeked(n, now - timedelta(seconds=self.ages[n])) for n in numbers[:count]]


def test_age_is_that_of_the_oldest_message() -> None:
    normal, low = Queue({7: 3.0, 8: 1.0}), Queue({2: 20.0})
    pending = QueuedWork([normal, low], lock_seconds=10, clock=Clock())
    since = pending.since()
    assert since is not None
    assert 979 <= since <= 980


def test_empty_or_unreachable_queue_has_no_work() -> None:
    assert QueuedWork([Queue()], 10, Clock()).since() is None
    assert QueuedWork([Queue({1: 1.0}, is_away=True)], 10, Clock()).since() is None


def test_queues_are_peeked_at_most_twice_a_second() -> None:
    clock, queue = Clock(), Queue({1: 0.0})
    pending = QueuedWork([queue], 10, clock)
    for _ in range(100):
        clock.now += 0.1
        pending.since()
    assert 18 <= queue.looks <= 21


def test_messages_locked_elsewhere_are_skipped_for_a_lock() -> None:
    clock, queue = Clock(), Queue({4: 9.0, 5: 8.0})
    pending = QueuedWork([queue], 10, clock)
    assert pending.since() is not None
    pending.skip_current()
    assert pending.since() is None
    clock.now += 1
    queue.ages[6] = 0.0
    assert pending.since() is not None, "no other worker has locked the new message"
    del queue.ages[6]
    clock.now += 8
    assert pending.since() is None
    clock.now += 2
    assert pending.since() is not None, "the lock of another worker has expired"
