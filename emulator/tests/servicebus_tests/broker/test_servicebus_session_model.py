"""Apply random operations to a queue with sessions and to a simple model; compare the results.

`ModelSessions` adds sessions to the model `ModelQueue`. Some operations restart the broker or make
its database writes fail.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, multiple, precondition, rule

from emulator.servicebus.broker.errors import (
    MessageNotFound,
    MessageStoreError,
    SessionAlreadyLocked,
    SessionLockLost,
)
from emulator.servicebus.broker.message import IncomingMessage, MessageState, ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import message
from servicebus_tests.broker.model_machine import LOCK_SECONDS, PHASES, ModelMachine, seconds
from servicebus_tests.broker.model_queue import ModelMessage, ModelQueue

session_ids = st.sampled_from(["", "one"])


@dataclass(eq=False)
class ModelLock:
    session_id: str
    until: datetime
    is_lost: bool = False


@dataclass
class ModelSessions(ModelQueue):
    """A simple model of a queue with message sessions, which keeps its messages in memory."""

    session_of: dict[int, str] = field(default_factory=dict)
    """The session of each message by the message's id."""
    locks: dict[str, ModelLock] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    waiting: list[list[ModelLock]] = field(default_factory=list)
    """For each receiver that waits for a session, the list that gets its lock."""

    def send(self, message: IncomingMessage) -> int:
        number = super().send(message)
        assert message.session_id is not None
        self.session_of.setdefault(self.sent_count, message.session_id)
        return number

    def messages_of(self, session_id: str) -> list[ModelMessage]:
        living = self.living(dead=False)
        return [each for each in living if self.session_of[each.id] == session_id]

    def ready(self, session_id: str) -> list[ModelMessage]:
        return [
            each
            for each in self.messages_of(session_id)
            if each.token is None and each.state is MessageState.ACTIVE
        ]

    def accept(self, session_id: str) -> ModelLock:
        lock = ModelLock(session_id, self.now + self.settings.lock_duration)
        self.locks[session_id] = lock
        return lock

    def lock(self, message: ModelMessage, token: UUID) -> None:
        message.token = token  # until the lock on the session ends

    def end(self, lock: ModelLock, *, failed: bool) -> None:
        if lock.is_lost:
            return
        lock.is_lost = True
        del self.locks[lock.session_id]
        for each in self.messages_of(lock.session_id):
            if each.token is not None:
                self.give_back(each, failed=failed)

    def advance(self, duration: timedelta) -> None:
        self.now += duration
        for lock in list(self.locks.values()):
            if lock.until <= self.now:
                self.end(lock, failed=True)
        super().advance(timedelta(0))

    def restart(self, downtime: timedelta) -> None:
        for lock in list(self.locks.values()):
            self.end(lock, failed=False)
        self.waiting.clear()
        super().restart(downtime)

    def offer(self) -> None:
        """Give available sessions to the receivers that wait for a session."""
        while self.waiting:
            unlocked = set(self.session_of.values()) - set(self.locks)
            heads = [self.ready(each)[0] for each in unlocked if self.ready(each)]
            if not heads:
                return
            oldest = min(heads, key=lambda each: each.number)
            self.waiting.pop(0).append(self.accept(self.session_of[oldest.id]))


Locks = tuple[MessageSessionLock, ModelLock]
"""The broker's lock on a session and the model's."""
# A choice from all locks would mostly be a lost lock, because each session has only one other lock.
locks = st.runner().flatmap(lambda machine: st.sampled_from(machine.useful_locks()))
has_locks = precondition(lambda machine: machine.locks)


class SessionMachine(ModelMachine[ModelSessions]):
    @initialize(
        default_seconds=st.none() | st.integers(1, 90), max_delivery_count=st.integers(1, 3)
    )
    def open(self, default_seconds: int | None, max_delivery_count: int) -> None:
        default = None if default_seconds is None else timedelta(seconds=default_seconds)
        chosen = QueueSettings(
            "q",
            lock_duration=timedelta(seconds=LOCK_SECONDS),
            max_delivery_count=max_delivery_count,
            default_message_time_to_live=default,
            duplicate_detection_window=timedelta(seconds=40),
            requires_session=True,
        )
        self.start(chosen, ModelSessions)
        self.locks: list[Locks] = []
        self.offered: list[tuple[list[MessageSessionLock], list[ModelLock]]] = []

    @rule(
        facts=st.lists(
            st.tuples(session_ids, st.sampled_from([None, "1", "2"]), st.none() | seconds),
            min_size=1,
            max_size=4,
        )
    )
    def send(self, facts: list[tuple[str, str | None, int | None]]) -> None:
        messages = []
        for session_id, message_id, delay in facts:
            due = None if delay is None else self.servicebus.after(delay)
            messages.append(
                message(
                    self.next_body(),
                    message_id=message_id,
                    scheduled_at=due,
                    session_id=session_id,
                )
            )
        expected = [self.model.send(each) for each in messages]
        assert self.runner.run(self.servicebus.queue().send(messages)) == expected
        self.advance(0)

    def useful_locks(self) -> list[Locks]:
        """Return all locks that are not lost, and the newest lost lock if there is one."""
        lost = [pair for pair in self.locks if pair[1].is_lost]
        return [pair for pair in self.locks if not pair[1].is_lost] + lost[-1:]

    @rule(session_id=session_ids)
    def accept(self, session_id: str) -> None:
        if session_id in self.model.locks:
            with pytest.raises(SessionAlreadyLocked):
                self.servicebus.queue().accept_session(session_id)
            return
        lock = self.servicebus.queue().accept_session(session_id)
        expected = self.model.accept(session_id)
        assert lock.until == expected.until
        self.locks.append((lock, expected))

    @rule()
    def wait_for_the_next_session(self) -> None:
        ours: list[MessageSessionLock] = []
        expected: list[ModelLock] = []
        self.servicebus.queue().request_session(ours.append)
        self.model.waiting.append(expected)
        self.offered.append((ours, expected))

    @precondition(lambda self: any(ours for ours, _ in self.offered))
    @rule()
    def take_the_next_session(self) -> None:
        at = next(at for at, (ours, _) in enumerate(self.offered) if ours)
        (lock,), (expected,) = self.offered.pop(at)
        self.locks.append((lock, expected))

    @has_locks
    @rule(pair=locks, fails=st.booleans())
    def release(self, pair: Locks, fails: bool) -> None:
        lock, expected = pair
        queue = self.servicebus.queue()
        if fails:
            with self.servicebus.failing_writes():
                queue.release_session(lock)
                with pytest.raises(MessageStoreError):
                    self.runner.run(queue.send([message("never", session_id="never")]))
            self.servicebus.retry_write()
        else:
            queue.release_session(lock)
        self.model.end(expected, failed=False)

    @has_locks
    @rule(pair=locks)
    def renew(self, pair: Locks) -> None:
        lock, expected = pair
        if expected.is_lost:
            with pytest.raises(SessionLockLost):
                self.servicebus.queue().renew_session_lock(lock)
            return
        expected.until = self.model.now + timedelta(seconds=LOCK_SECONDS)
        assert self.servicebus.queue().renew_session_lock(lock) == expected.until

    @has_locks
    @rule(pair=locks, state=st.none() | st.binary(max_size=3))
    def set_state(self, pair: Locks, state: bytes | None) -> None:
        lock, expected = pair
        call = self.servicebus.queue().set_session_state(lock, state)
        if expected.is_lost:
            with pytest.raises(SessionLockLost):
                self.runner.run(call)
            return
        before = self.servicebus.queue().session_state(lock)
        assert before == self.model.states.get(lock.session_id)
        self.runner.run(call)
        self.model.states.pop(lock.session_id, None)
        if state is not None:
            self.model.states[lock.session_id] = state

    @has_locks
    @rule(
        target=ModelMachine.held,
        pair=locks,
        count=st.integers(1, 3),
        mode=st.sampled_from(ReceiveMode),
    )
    def receive(self, pair: Locks, count: int, mode: ReceiveMode) -> object:
        lock, expected_lock = pair
        receiver = self.servicebus.receiver("q", mode, count, lock)
        receiver.subscription.close()
        if expected_lock.is_lost:
            assert not receiver.deliveries
            return multiple()
        ready = self.model.ready(lock.session_id)[:count]
        assert receiver.bodies == [each.body.decode() for each in ready]
        taken = []
        for expected, delivery in zip(ready, receiver.deliveries, strict=True):
            assert delivery.message.delivery_count == expected.delivery_count
            taken += self.take(expected, mode, delivery)
        return multiple(*taken)

    @has_locks
    @rule(
        target=ModelMachine.held,
        pair=locks,
        number=st.integers(1, 12),
        mode=st.sampled_from(ReceiveMode),
    )
    def receive_deferred(self, pair: Locks, number: int, mode: ReceiveMode) -> object:
        lock, expected_lock = pair
        found = [
            each
            for each in self.model.messages_of(lock.session_id)
            if (each.number, each.state, each.token) == (number, MessageState.DEFERRED, None)
        ]
        call = self.servicebus.queue().receive_deferred([number], mode, lock)
        if expected_lock.is_lost or not found:
            with pytest.raises(SessionLockLost if expected_lock.is_lost else MessageNotFound):
                self.runner.run(call)
            return multiple()
        (delivery,) = self.runner.run(call)
        return multiple(*self.take(found[0], mode, delivery))

    @precondition(lambda self: self.body_count)
    @rule(downtime=st.just(0) | seconds)
    def restart(self, downtime: int) -> None:
        super().restart(downtime)
        self.offered = []

    @invariant()
    def the_broker_shows_what_the_model_has(self) -> None:
        if not hasattr(self, "runner"):
            return
        self.servicebus.broker.transactions.tick()
        self.model.offer()
        for ours, expected in self.offered:
            assert [(each.session_id, each.until) for each in ours] == [
                (each.session_id, each.until) for each in expected
            ]
        super().the_broker_shows_what_the_model_has()
        assert self.servicebus.queue().session_ids() == sorted(
            {
                self.model.session_of[each.id]
                for each in self.model.living(dead=False)
                if each.state is MessageState.ACTIVE or each.token is not None
            }.union(self.model.states)
        )


SessionMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=30, phases=PHASES)
TestMessageSessions = SessionMachine.TestCase
