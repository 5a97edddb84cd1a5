"""The receiver's rounds on a clock that only the test moves, with a broker in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from worker.errors import BrokerAway, LockLost, QueueMissing, Settlement
from worker.servicebus.link import Delivery
from worker.servicebus.locks import LockRenewer
from worker.servicebus.receiver import Receiver, Settled, SettleRequest
from worker.telemetry.recording import ServiceStatus


def delivery(number: int = 1) -> Delivery:
    return Delivery(b"", 0, None, None, {}, f"job-{number}", cast(Any, None), "queue", number)


@dataclass
class Broker:
    """What a link does, and what was asked of it."""

    waiting: list[Delivery] = field(default_factory=list)
    settled: list[tuple[str, Settlement]] = field(default_factory=list)
    fails_with: Exception | None = None
    is_open: bool = False
    has_credit: bool = False
    drains: int = 0

    def open(self) -> None:
        self._fail()
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def receive(self, wait_seconds: float) -> Delivery | None:
        self._fail()
        self.has_credit = not self.waiting
        return self.waiting.pop(0) if self.waiting else None

    def stop_receiving(self) -> None:
        self.has_credit = False
        self.drains += 1

    def settle(self, delivery: Delivery, how: Settlement, reason: str, description: str) -> None:
        self._fail()
        self.settled.append((delivery.message_id, how))

    def _fail(self) -> None:
        if self.fails_with is not None:
            self.is_open = False
            raise self.fails_with


class World:
    """One receiver whose waits take no time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.broker = Broker()
        self.has_room = True
        self.accepted: list[Delivery] = []
        self.settled: list[tuple[str, bool]] = []
        self.leases = LockRenewer(lambda: self.now)
        self.receiver = Receiver(
            cast(Any, self.broker), self.leases, ServiceStatus("queue"), lambda: self.now
        )
        self.free_count: Callable[[], int] = lambda: int(self.has_room)
        self.accept: Callable[[Delivery], None] = self.accepted.append

    @property
    def is_empty(self) -> bool:
        return self.receiver.is_empty

    @property
    def credit(self) -> int:
        return int(self.broker.has_credit)

    def turn(self) -> None:
        # A pause that a test runs into would be a long one.
        self.receiver.wake()
        for event in self.receiver.turn(self.free_count):
            if isinstance(event, Settled):
                self.settled.append((event.request.delivery.message_id, event.in_time))
            else:
                self.accept(event)

    def received(self) -> Delivery:
        self.broker.waiting.append(delivery())
        self.turn()
        return self.accepted[-1]

    def settle(self, of: Delivery, how: Settlement, delay_seconds: float = 0.0) -> None:
        self.receiver.settle(SettleRequest(of, None, how, delay_seconds=delay_seconds))


@pytest.fixture
def world() -> World:
    return World()


def test_a_message_that_is_to_wait_is_settled_when_its_time_has_come(world: World) -> None:
    world.settle(world.received(), Settlement.ABANDON, delay_seconds=4.0)
    for world.now in (100.0, 103.9):
        world.turn()
        assert world.broker.settled == []
    world.now = 104.0
    world.turn()
    assert world.broker.settled == [("job-1", Settlement.ABANDON)]
    assert world.settled == [("job-1", True)]


def test_a_message_that_waits_keeps_no_other_from_being_settled(world: World) -> None:
    world.settle(world.received(), Settlement.ABANDON, delay_seconds=4.0)
    world.settle(world.received(), Settlement.COMPLETE)
    world.turn()
    assert world.broker.settled == [("job-1", Settlement.COMPLETE)]


def test_who_leaves_gives_back_at_once_what_waits(world: World) -> None:
    world.settle(world.received(), Settlement.ABANDON, delay_seconds=60.0)
    world.turn()
    world.settle(world.received(), Settlement.ABANDON, delay_seconds=60.0)
    world.receiver.stop()
    world.turn()
    assert world.broker.settled == [("job-1", Settlement.ABANDON)] * 2
    assert world.receiver.is_finished


def test_the_lock_of_a_message_that_waits_is_kept(world: World) -> None:
    renewals: list[float] = []

    def renew(delivery: Delivery, timeout_seconds: float) -> float:
        renewals.append(world.now)
        return 9.0

    message = world.received()
    lease = world.leases.hold(message, renew, 9.0, 1e6)
    ending = SettleRequest(message, lease, Settlement.ABANDON, delay_seconds=20.0)
    world.receiver.settle(ending)
    for _ in range(22):
        world.now += 1.0
        world.leases.turn()
        world.turn()
    assert len(renewals) >= 6
    assert renewals[-1] <= 121.0
    assert world.broker.settled == [("job-1", Settlement.ABANDON)]


def test_a_lost_lock_is_never_settled(world: World) -> None:
    def renew(delivery: Delivery, timeout_seconds: float) -> float:
        raise LockLost("gone")

    message = world.received()
    lease = world.leases.hold(message, renew, 9.0, 1e6)
    world.now += 5.0
    world.leases.turn()
    world.receiver.settle(SettleRequest(message, lease, Settlement.COMPLETE))
    world.turn()
    assert world.broker.settled == []
    assert world.settled == [("job-1", False)]


@pytest.mark.parametrize("leave", [False, True])
def test_takes_its_credit_back_when_it_receives_no_more(world: World, leave: bool) -> None:
    world.turn()
    assert world.credit == 1, "it may be sent a message between two calls"
    if leave:
        world.receiver.stop()
    world.has_room = False
    world.turn()
    world.turn()
    assert world.credit == 0
    assert world.broker.drains == 1


def test_no_credit_is_left_after_a_message(world: World) -> None:
    world.received()
    world.has_room = False
    world.turn()
    assert world.broker.drains == 0


def test_is_dry_once_the_queue_has_nothing_to_give(world: World) -> None:
    seen = [world.is_empty]
    world.turn()
    seen.append(world.is_empty)
    world.received()
    seen.append(world.is_empty)
    world.turn()
    seen.append(world.is_empty)
    assert seen == [False, True, False, True]
    world.broker.fails_with = BrokerAway("no route")
    world.turn()
    assert not world.is_empty, "nobody can tell"


def test_what_could_not_be_settled_is_settled_on_the_next_link(world: World) -> None:
    world.settle(world.received(), Settlement.COMPLETE)
    world.broker.fails_with = BrokerAway("no route")
    world.turn()
    assert world.settled == []
    world.broker.fails_with = None
    world.turn()
    assert world.broker.settled == [("job-1", Settlement.COMPLETE)]


def test_a_missing_queue_is_named_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.broker.fails_with = QueueMissing("there is no such queue")
    # Else it would wait for half a minute before it looks again.
    world.receiver.stop()
    world.turn()
    world.turn()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["queue does not answer, trying on: there is no such queue"]
    assert not world.receiver.is_connected


def test_it_tells_whether_a_message_may_still_come_without_room() -> None:
    world = World()
    world.turn()
    world.has_room = False
    assert world.receiver.may_receive, "the broker may push one on the credit that it has"
    world.turn()
    assert not world.receiver.may_receive


def test_it_may_receive_from_before_it_looks_for_room_until_the_message_is_in_hand() -> None:
    world = World()
    seen: list[bool] = []
    world.broker.waiting = [delivery()]

    def look() -> int:
        seen.append(world.receiver.may_receive)
        return 1

    def accept(taken: Delivery) -> None:
        seen.append(world.receiver.may_receive)

    world.free_count, world.accept = look, accept
    world.turn()
    assert seen == [True, True]
    assert not world.receiver.may_receive
