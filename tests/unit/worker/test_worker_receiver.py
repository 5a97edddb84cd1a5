"""Test the receiver with a broker in memory and a clock that only the test advances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from tests.unit.worker.received import locked_message
from worker.brokers.port import LockedMessage
from worker.brokers.receiver import LockRenewer, MessageLock, Receiver, Settled, SettleRequest
from worker.errors import BrokerUnavailable, LockLost, QueueMissing, Settlement
from worker.processes.history import DeliveryHistory
from worker.telemetry.recording import ServiceStatus


@dataclass
class LinkInMemory:
    """The link of a `Receiver` to a broker in memory. Records how messages are settled."""

    waiting: list[LockedMessage] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    completed_together: list[list[str]] = field(default_factory=list)
    settled: list[tuple[str, Settlement]] = field(default_factory=list)
    fails_with: Exception | None = None
    is_connected: bool = False
    has_credit: bool = False
    drains: int = 0
    forgotten: list[str] = field(default_factory=list)

    def connect(self) -> None:
        self._fail()
        self.is_connected = True

    def disconnect(self) -> None:
        self.is_connected = False

    def serve(self) -> None:
        pass

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        self._fail()
        self.asked.append(limit)
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        self.has_credit = len(taken) < limit
        return taken

    def stop_receiving(self) -> None:
        self.has_credit = False
        self.drains += 1

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        self._fail()
        self.settled.append((delivery.message_id, how))

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        ids = [delivery.message_id for delivery in deliveries]
        self.completed_together.append(ids)
        self.settled += [(message_id, Settlement.COMPLETE) for message_id in ids]
        return [message_id != "too late" for message_id in ids]

    def forget_token(self, delivery: LockedMessage) -> None:
        self.forgotten.append(delivery.message_id)

    def _fail(self) -> None:
        if self.fails_with is not None:
            self.is_connected = False
            raise self.fails_with


class ReceiverLoop:
    """A receiver, and a loop that runs it without pauses on a clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.broker = LinkInMemory()
        self.room = 1
        self.accepted: list[LockedMessage] = []
        self.settled: list[tuple[str, bool]] = []
        self.locks = LockRenewer(lambda: self.now)
        self.receiver = Receiver(
            cast(Any, self.broker), self.locks, ServiceStatus("queue"), lambda: self.now
        )
        self.free_count: Callable[[], int] = lambda: self.room
        self.accept: Callable[[LockedMessage], None] = self.accepted.append

    @property
    def is_empty(self) -> bool:
        return self.receiver.is_empty

    @property
    def credit(self) -> int:
        return int(self.broker.has_credit)

    def run_once(self, room: int | None = None) -> None:
        self.room = self.room if room is None else room
        # Otherwise a pause would delay the test.
        self.receiver.wake()
        for event in self.receiver.settle_and_receive(self.free_count):
            if isinstance(event, Settled):
                self.settled.append((event.request.delivery.message_id, event.in_time))
            else:
                self.accept(event)

    def received(self) -> LockedMessage:
        self.broker.waiting.append(locked_message("job-1"))
        self.run_once()
        return self.accepted[-1]

    def settle(
        self,
        of: LockedMessage,
        how: Settlement,
        delay_seconds: float = 0.0,
        lock: MessageLock | None = None,
    ) -> None:
        self.receiver.request_settlement(SettleRequest(of, lock, how, delay_seconds=delay_seconds))


@pytest.fixture
def loop() -> ReceiverLoop:
    return ReceiverLoop()


def test_message_is_settled_after_its_delay(loop: ReceiverLoop) -> None:
    loop.settle(loop.received(), Settlement.ABANDON, delay_seconds=4.0)
    for loop.now in (100.0, 103.9):
        loop.run_once()
        assert loop.broker.settled == []
    loop.now = 104.0
    loop.run_once()
    assert loop.broker.settled == [("job-1", Settlement.ABANDON)]
    assert loop.settled == [("job-1", True)]


def test_delayed_settlement_delays_no_other(loop: ReceiverLoop) -> None:
    loop.settle(loop.received(), Settlement.ABANDON, delay_seconds=4.0)
    loop.settle(loop.received(), Settlement.COMPLETE)
    loop.run_once()
    assert loop.broker.settled == [("job-1", Settlement.COMPLETE)]


def test_stop_ends_the_delays_of_settlements(loop: ReceiverLoop) -> None:
    loop.settle(loop.received(), Settlement.ABANDON, delay_seconds=60.0)
    loop.run_once()
    loop.settle(loop.received(), Settlement.ABANDON, delay_seconds=60.0)
    loop.receiver.stop_receiving()
    loop.run_once()
    assert loop.broker.settled == [("job-1", Settlement.ABANDON)] * 2
    assert loop.receiver.is_finished


def test_lock_is_renewed_during_the_delay(loop: ReceiverLoop) -> None:
    renewals: list[float] = []

    def renew(delivery: LockedMessage, timeout_seconds: float) -> float:
        renewals.append(loop.now)
        return 9.0

    message = loop.received()
    lock = loop.locks.start_renewal(message, renew, 9.0, 1e6)
    loop.settle(message, Settlement.ABANDON, 20.0, lock)
    for _ in range(22):
        loop.now += 1.0
        loop.locks.renew_due()
        loop.run_once()
    assert len(renewals) >= 6
    assert renewals[-1] <= 121.0
    assert loop.broker.settled == [("job-1", Settlement.ABANDON)]


def test_message_with_a_lost_lock_is_not_settled(loop: ReceiverLoop) -> None:
    def renew(delivery: LockedMessage, timeout_seconds: float) -> float:
        raise LockLost("gone")

    message = loop.received()
    lock = loop.locks.start_renewal(message, renew, 9.0, 1e6)
    loop.now += 5.0
    loop.locks.renew_due()
    loop.settle(message, Settlement.COMPLETE, lock=lock)
    loop.run_once()
    assert loop.broker.settled == []
    assert loop.settled == [("job-1", False)]
    assert loop.broker.forgotten == ["job-1"]


@pytest.mark.parametrize("leave", [False, True])
def test_stop_takes_the_credit_back(loop: ReceiverLoop, leave: bool) -> None:
    loop.run_once()
    assert loop.credit == 1, "the broker may push a message between two calls"
    if leave:
        loop.receiver.stop_receiving()
    loop.room = 0
    loop.run_once()
    loop.run_once()
    assert loop.credit == 0
    assert loop.broker.drains == 1


def test_used_credit_is_not_taken_back(loop: ReceiverLoop) -> None:
    loop.received()
    loop.room = 0
    loop.run_once()
    assert loop.broker.drains == 0


def test_queue_is_empty_if_the_last_call_found_nothing(loop: ReceiverLoop) -> None:
    seen = [loop.is_empty]
    loop.run_once()
    seen.append(loop.is_empty)
    loop.received()
    seen.append(loop.is_empty)
    loop.run_once()
    seen.append(loop.is_empty)
    assert seen == [False, True, False, True]
    loop.broker.fails_with = BrokerUnavailable("no route")
    loop.run_once()
    assert not loop.is_empty, "it is unknown whether the queue is empty"


def test_failed_settlement_is_repeated_over_the_next_link(loop: ReceiverLoop) -> None:
    loop.settle(loop.received(), Settlement.COMPLETE)
    loop.broker.fails_with = BrokerUnavailable("no route")
    loop.run_once()
    assert loop.settled == []
    loop.broker.fails_with = None
    loop.run_once()
    assert loop.broker.settled == [("job-1", Settlement.COMPLETE)]


def test_missing_queue_is_logged_once(loop: ReceiverLoop, caplog: pytest.LogCaptureFixture) -> None:
    loop.broker.fails_with = QueueMissing("there is no such queue")
    # Otherwise the receiver would wait for half a minute.
    loop.receiver.stop_receiving()
    loop.run_once()
    loop.run_once()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["queue does not answer; the worker tries again: there is no such queue"]
    assert not loop.receiver.is_connected


def test_message_may_arrive_until_the_credit_is_taken_back() -> None:
    loop = ReceiverLoop()
    loop.run_once()
    loop.room = 0
    assert loop.receiver.may_receive, "the broker may push a message on its credit"
    loop.run_once()
    assert not loop.receiver.may_receive


def test_receiver_may_receive_until_the_message_is_in_flight() -> None:
    loop = ReceiverLoop()
    seen: list[bool] = []
    loop.broker.waiting = [locked_message("job-1")]

    def look() -> int:
        seen.append(loop.receiver.may_receive)
        return 1

    def accept(taken: LockedMessage) -> None:
        seen.append(loop.receiver.may_receive)

    loop.free_count, loop.accept = look, accept
    loop.run_once()
    assert seen == [True, True]
    assert not loop.receiver.may_receive


def test_several_messages_are_asked_for_after_a_full_time(loop: ReceiverLoop) -> None:
    loop.broker.waiting = [locked_message(str(number)) for number in range(9)]
    loop.run_once(room=8)
    assert loop.broker.asked == [1]
    loop.run_once(room=0)
    loop.run_once(room=8)
    assert loop.broker.asked == [1, 8]
    assert len(loop.accepted) == 9


def test_single_messages_are_asked_for_after_an_empty_queue(loop: ReceiverLoop) -> None:
    loop.run_once(room=0)
    loop.broker.waiting = [locked_message("last")]
    loop.run_once(room=8)
    loop.run_once(room=7)
    assert loop.broker.asked == [8, 1]
    loop.run_once(room=0)
    assert loop.broker.drains == 1, "the broker still had credit, which was taken back"


def test_one_call_completes_several_messages(loop: ReceiverLoop) -> None:
    names = ["one", "too late", "three", "bad", "five"]
    for name in names:
        how = Settlement.ABANDON if name == "bad" else Settlement.COMPLETE
        loop.settle(locked_message(name), how)
    loop.run_once(room=0)
    assert loop.broker.completed_together == [["one", "too late", "three"]]
    assert loop.broker.settled[3:] == [
        ("bad", Settlement.ABANDON),
        ("five", Settlement.COMPLETE),
    ]
    assert loop.settled == [(name, name != "too late") for name in names]


def test_message_with_a_lost_lock_is_left_out(loop: ReceiverLoop) -> None:
    def renew(delivery: LockedMessage, timeout_seconds: float) -> float:
        raise LockLost("gone")

    lost = loop.locks.start_renewal(locked_message("lost"), renew, -1.0, 1e6)
    loop.locks.renew_due()
    assert lost.is_lost
    for name in ("one", "two", "lost", "four"):
        lock = lost if name == "lost" else None
        loop.settle(locked_message(name), Settlement.COMPLETE, lock=lock)
    loop.run_once(room=0)
    assert loop.broker.completed_together == [["one", "two"]]
    assert loop.broker.settled[2:] == [("four", Settlement.COMPLETE)]
    assert ("lost", False) in loop.settled
    assert loop.broker.forgotten == ["lost"]
