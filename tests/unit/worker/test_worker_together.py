"""Many at once: calls that gather, ranges, and a receiver that takes and settles several."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import LockLost, Settlement
from worker.servicebus.batched_settlement import ranges
from worker.servicebus.link import Delivery
from worker.servicebus.locks import LockRenewer
from worker.servicebus.receiver import Receiver, Settled, SettleRequest
from worker.servicebus.sender import CallGatherer
from worker.telemetry.recording import ServiceStatus

SECONDS = 10


class Post:
    """A call that a test lets end; `fails` raises for what is named in it."""

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


def test_what_comes_while_a_call_runs_goes_together_in_the_next() -> None:
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


def test_a_failure_is_that_of_all_in_the_call_and_of_no_other() -> None:
    post = Post(fails="bad")
    post.may_end.set()
    gathering = CallGatherer(post, limit=8)
    with pytest.raises(ConnectionError):
        gathering("bad")
    gathering("good")
    assert post.calls == [["bad"], ["good"]]


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_same_numbers_and_do_not_touch(numbers: set[int]) -> None:
    found = ranges(numbers)
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(numbers)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(found))


@dataclass
class Broker:
    """A link in memory that hands out and completes several."""

    waiting: list[Delivery] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    settled: list[list[str]] = field(default_factory=list)
    drains: int = 0
    is_open: bool = True

    def receive(self, wait_seconds: float) -> Delivery | None:
        found = self.receive_many(1, wait_seconds)
        return found[0] if found else None

    def receive_many(self, limit: int, wait_seconds: float) -> list[Delivery]:
        self.asked.append(limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    def settle(self, delivery: Delivery, how: Settlement, reason: str, description: str) -> None:
        self.settled.append([f"{delivery.message_id} {how}"])

    def complete(self, deliveries: Sequence[Delivery]) -> list[bool]:
        self.settled.append([delivery.message_id for delivery in deliveries])
        return [delivery.message_id != "too late" for delivery in deliveries]

    def stop_receiving(self) -> None:
        self.drains += 1


def delivery(name: str) -> Delivery:
    return Delivery(b"", 0, None, None, {}, name, cast(Any, None))


class World:
    def __init__(self) -> None:
        self.broker = Broker()
        self.leases = LockRenewer(lambda: 100.0)
        self.receiver = Receiver(
            cast(Any, self.broker), self.leases, ServiceStatus("queue"), lambda: 100.0
        )
        self.room = 1
        self.accepted: list[Delivery] = []
        self.settled: list[tuple[str, bool]] = []

    def turn(self, room: int) -> None:
        self.room = room
        self.receiver.wake()
        for event in self.receiver.turn(lambda: self.room):
            if isinstance(event, Settled):
                self.settled.append((event.request.delivery.message_id, event.in_time))
            else:
                self.accepted.append(event)


def test_one_is_received_at_a_time_until_there_was_no_room() -> None:
    world = World()
    world.broker.waiting = [delivery(str(number)) for number in range(9)]
    world.turn(room=8)
    assert world.broker.asked == [1]
    world.turn(room=0)
    world.turn(room=8)
    assert world.broker.asked == [1, 8]
    assert len(world.accepted) == 9


def test_a_queue_that_runs_dry_is_received_from_one_by_one_again() -> None:
    world = World()
    world.turn(room=0)
    world.broker.waiting = [delivery("last")]
    world.turn(room=8)
    world.turn(room=7)
    assert world.broker.asked == [8, 1]
    world.turn(room=0)
    assert world.broker.drains == 1, "the broker still had credit"


def test_completions_in_a_row_are_settled_at_one_go() -> None:
    world = World()
    for name in ("one", "too late", "three"):
        world.receiver.settle(SettleRequest(delivery(name), None, Settlement.COMPLETE))
    world.receiver.settle(SettleRequest(delivery("bad"), None, Settlement.ABANDON))
    world.receiver.settle(SettleRequest(delivery("five"), None, Settlement.COMPLETE))
    world.turn(room=0)
    assert world.broker.settled == [
        ["one", "too late", "three"],
        [f"bad {Settlement.ABANDON}"],
        [f"five {Settlement.COMPLETE}"],
    ]
    assert world.settled == [
        ("one", True),
        ("too late", False),
        ("three", True),
        ("bad", True),
        ("five", True),
    ]


def test_one_whose_lock_is_lost_is_not_among_them() -> None:
    def renew(delivery: Delivery, timeout_seconds: float) -> float:
        raise LockLost("gone")

    world = World()
    lost = world.leases.hold(delivery("lost"), renew, -1.0, 1e6)
    world.leases.turn()
    assert lost.is_lost
    for name, lease in (("one", None), ("two", None), ("lost", lost), ("four", None)):
        world.receiver.settle(SettleRequest(delivery(name), lease, Settlement.COMPLETE))
    world.turn(room=0)
    assert world.broker.settled == [["one", "two"], [f"four {Settlement.COMPLETE}"]]
    assert ("lost", False) in world.settled
