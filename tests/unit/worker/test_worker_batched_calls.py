"""Test how several messages are sent, completed or received in one call to the broker."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.worker.received import locked_message
from worker.errors import LockLost, Settlement
from worker.processes.history import DeliveryHistory
from worker.servicebus.batched_settlement import ranges
from worker.servicebus.link import LockedMessage
from worker.servicebus.receiver import LockRenewer, Receiver, Settled, SettleRequest
from worker.servicebus.sender import CallGatherer
from worker.telemetry.recording import ServiceStatus

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


@dataclass
class Broker:
    """A fake link to a broker. It delivers messages from memory, and records the settlements."""

    waiting: list[LockedMessage] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    settled: list[list[str]] = field(default_factory=list)
    drains: int = 0
    forgotten: list[str] = field(default_factory=list)
    is_connected: bool = True

    def receive_messages(self, limit: int, wait_seconds: float) -> list[LockedMessage]:
        self.asked.append(limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        self.settled.append([f"{delivery.message_id} {how}"])

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        self.settled.append([delivery.message_id for delivery in deliveries])
        return [delivery.message_id != "too late" for delivery in deliveries]

    def forget_token(self, delivery: LockedMessage) -> None:
        self.forgotten.append(delivery.message_id)

    def stop_receiving(self) -> None:
        self.drains += 1


def delivery(name: str) -> LockedMessage:
    return locked_message(name)


class ReceiverLoop:
    def __init__(self) -> None:
        self.broker = Broker()
        self.locks = LockRenewer(lambda: 100.0)
        self.receiver = Receiver(
            cast(Any, self.broker), self.locks, ServiceStatus("queue"), lambda: 100.0
        )
        self.room = 1
        self.accepted: list[LockedMessage] = []
        self.settled: list[tuple[str, bool]] = []

    def run_once(self, room: int) -> None:
        self.room = room
        self.receiver.wake()
        for event in self.receiver.settle_and_receive(lambda: self.room):
            if isinstance(event, Settled):
                self.settled.append((event.request.delivery.message_id, event.in_time))
            else:
                self.accepted.append(event)


def test_several_messages_are_asked_for_after_a_full_time() -> None:
    loop = ReceiverLoop()
    loop.broker.waiting = [delivery(str(number)) for number in range(9)]
    loop.run_once(room=8)
    assert loop.broker.asked == [1]
    loop.run_once(room=0)
    loop.run_once(room=8)
    assert loop.broker.asked == [1, 8]
    assert len(loop.accepted) == 9


def test_single_messages_are_asked_for_after_an_empty_queue() -> None:
    loop = ReceiverLoop()
    loop.run_once(room=0)
    loop.broker.waiting = [delivery("last")]
    loop.run_once(room=8)
    loop.run_once(room=7)
    assert loop.broker.asked == [8, 1]
    loop.run_once(room=0)
    assert loop.broker.drains == 1, "the broker still had credit, which was taken back"


def test_one_call_completes_several_messages() -> None:
    loop = ReceiverLoop()
    for name in ("one", "too late", "three"):
        loop.receiver.request_settlement(SettleRequest(delivery(name), None, Settlement.COMPLETE))
    loop.receiver.request_settlement(SettleRequest(delivery("bad"), None, Settlement.ABANDON))
    loop.receiver.request_settlement(SettleRequest(delivery("five"), None, Settlement.COMPLETE))
    loop.run_once(room=0)
    assert loop.broker.settled == [
        ["one", "too late", "three"],
        [f"bad {Settlement.ABANDON}"],
        [f"five {Settlement.COMPLETE}"],
    ]
    assert loop.settled == [
        ("one", True),
        ("too late", False),
        ("three", True),
        ("bad", True),
        ("five", True),
    ]


def test_message_with_a_lost_lock_is_left_out() -> None:
    def renew(delivery: LockedMessage, timeout_seconds: float) -> float:
        raise LockLost("gone")

    loop = ReceiverLoop()
    lost = loop.locks.start_renewal(delivery("lost"), renew, -1.0, 1e6)
    loop.locks.renew_due()
    assert lost.is_lost
    for name, lock in (("one", None), ("two", None), ("lost", lost), ("four", None)):
        loop.receiver.request_settlement(SettleRequest(delivery(name), lock, Settlement.COMPLETE))
    loop.run_once(room=0)
    assert loop.broker.settled == [["one", "two"], [f"four {Settlement.COMPLETE}"]]
    assert ("lost", False) in loop.settled
    assert loop.broker.forgotten == ["lost"]
