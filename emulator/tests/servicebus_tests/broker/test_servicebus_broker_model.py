"""Apply random operations to the broker and to `ModelQueue`, and compare the results.

`ModelQueue` is a simple queue in memory. Some operations restart the broker or make its database
writes fail.
"""

import copy
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, multiple, rule

from emulator.servicebus.broker.errors import MessageLockLost, MessageNotFound, MessageStoreError
from emulator.servicebus.broker.message import MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import message
from servicebus_tests.broker.model_machine import (
    ADDRESSES,
    LOCK_SECONDS,
    PHASES,
    ModelMachine,
    seconds,
)
from servicebus_tests.broker.model_queue import ModelMessage, ModelQueue


def _duration(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(seconds=count)


class BrokerMachine(ModelMachine[ModelQueue]):
    @initialize(
        default_seconds=st.none() | st.integers(1, 90),
        keeps_expired=st.booleans(),
        window_seconds=st.none() | st.integers(20, 60),
        max_delivery_count=st.integers(1, 3),
    )
    def open(
        self,
        default_seconds: int | None,
        keeps_expired: bool,
        window_seconds: int | None,
        max_delivery_count: int,
    ) -> None:
        chosen = QueueSettings(
            "q",
            lock_duration=timedelta(seconds=LOCK_SECONDS),
            max_delivery_count=max_delivery_count,
            default_message_time_to_live=_duration(default_seconds),
            dead_lettering_on_message_expiration=keeps_expired,
            duplicate_detection_window=_duration(window_seconds),
        )
        self.start(chosen, ModelQueue)

    @rule(
        facts=st.lists(
            st.tuples(
                st.sampled_from([None, "1", "2", "3"]),
                st.none() | seconds,
                st.none() | seconds,
                st.sampled_from([1, 3000]),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def send(self, facts: list[tuple[str | None, int | None, int | None, int]]) -> None:
        messages = []
        for message_id, life, delay, size in facts:
            due = None if delay is None else self.servicebus.after(delay)
            body = f"{self.next_body()} " * size
            messages.append(
                message(body, message_id=message_id, time_to_live_seconds=life, scheduled_at=due)
            )
        expected = [self.model.send(each) for each in messages]
        assert self.runner.run(self.servicebus.queue().send(messages)) == expected
        self.advance(0)

    @rule(count=st.integers(1, 3), mode=st.sampled_from(ReceiveMode), dead=st.booleans())
    def fail_to_write(self, count: int, mode: ReceiveMode, dead: bool) -> None:
        async def attempt() -> None:
            receiver = self.servicebus.receiver(ADDRESSES[dead], mode, count)
            sending = self.servicebus.queue().send([message("never", message_id="2")] * count)
            with pytest.raises(MessageStoreError):
                await sending
            assert not receiver.deliveries
            assert receiver.subscription.credit == count
            receiver.subscription.close()

        before = copy.deepcopy(self.model)
        known = self.model.send(message("never", message_id="2"))
        fails = self.model.next_number != before.next_number
        self.model = before
        if not fails:
            assert known
            return
        with self.servicebus.failing_writes():
            self.runner.run(attempt())
        self.servicebus.retry_write()

    @rule(
        target=ModelMachine.held,
        count=st.integers(1, 3),
        mode=st.sampled_from(ReceiveMode),
        dead=st.booleans(),
    )
    def receive(self, count: int, mode: ReceiveMode, dead: bool) -> object:
        receiver = self.servicebus.receiver(ADDRESSES[dead], mode, count)
        receiver.subscription.close()
        taken = []
        for delivery in receiver.deliveries:
            expected = self.model.first_ready(dead=dead)
            assert expected is not None
            assert delivery.message.sequence_number == expected.number
            assert delivery.message.bare == expected.body
            assert delivery.message.delivery_count == expected.delivery_count
            taken += self.take(expected, mode, delivery)
        if len(receiver.deliveries) < count:
            assert self.model.first_ready(dead=dead) is None
        return multiple(*taken)

    @rule(
        target=ModelMachine.held,
        picks=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
        mode=st.sampled_from(ReceiveMode),
    )
    def receive_deferred(self, picks: list[int], mode: ReceiveMode) -> object:
        found = [self._find(number, MessageState.DEFERRED) for number in picks]
        call = self.servicebus.queue().receive_deferred(picks, mode)
        if None in found:
            with pytest.raises(MessageNotFound):
                self.runner.run(call)
            return multiple()
        deliveries = self.runner.run(call)
        taken = []
        for expected, delivery in zip(found, deliveries, strict=True):
            assert expected is not None
            taken += self.take(expected, mode, delivery)
        return multiple(*taken)

    def _find(self, number: int, state: MessageState) -> ModelMessage | None:
        for each in self.model.living(dead=False):
            if (each.number, each.state, each.token) == (number, state, None):
                return each
        return None

    @rule(picks=st.lists(st.integers(1, 12), min_size=1, max_size=2, unique=True))
    def cancel(self, picks: list[int]) -> None:
        found = [self._find(number, MessageState.SCHEDULED) for number in picks]
        call = self.servicebus.queue().cancel_scheduled(picks)
        if None in found:
            with pytest.raises(MessageNotFound):
                self.runner.run(call)
            return
        self.runner.run(call)
        self.model.messages = [each for each in self.model.messages if each not in found]

    @rule(hold=ModelMachine.held)
    def renew(self, hold: tuple[UUID, bool]) -> None:
        token, dead = hold
        call = self.servicebus.queue(ADDRESSES[dead]).renew([token])
        mine = self.model.find_locked(token)
        if mine is None:
            with pytest.raises(MessageLockLost):
                self.runner.run(call)
            return
        self.model.lock(mine, token)
        assert self.runner.run(call) == [mine.locked_until]


BrokerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, phases=PHASES)
TestBroker = BrokerMachine.TestCase
