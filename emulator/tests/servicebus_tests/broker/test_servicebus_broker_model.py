"""Apply random operations to the broker and to `ModelQueue`, and compare the results.

`ModelQueue` is a simple queue in memory. Some operations restart the broker or make its database
writes fail.
"""

import asyncio
import copy
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from emulator.servicebus.broker.errors import (
    BrokerError,
    MessageLockLost,
    MessageNotFound,
    MessageStoreError,
    NotAllowed,
)
from emulator.servicebus.broker.message import MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message
from servicebus_tests.broker.model_queue import ModelMessage, ModelQueue

LOCK_SECONDS = 30
ADDRESSES = {False: "q", True: "q/$DeadLetterQueue"}
seconds = st.integers(0, 70)


def _duration(count: int | None) -> timedelta | None:
    return None if count is None else timedelta(seconds=count)


class BrokerMachine(RuleBasedStateMachine):
    held = Bundle("held")

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
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.servicebus = self.runner.run(RunningBroker.open(Path(self.folder.name), chosen))
        self.model = ModelQueue(chosen, self.servicebus.clock.at)
        self.body_count = 0

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.servicebus.broker.close())
            self.runner.close()
            self.folder.cleanup()

    def _refuse_writes(self, value: bool) -> None:
        connection = self.servicebus.broker._transactions.store._connection
        connection.execute(f"PRAGMA query_only={int(value)}")

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
            self.body_count += 1
            due = None if delay is None else self.servicebus.after(delay)
            body = f"{self.body_count} " * size
            messages.append(
                message(body, message_id=message_id, time_to_live_seconds=life, scheduled_at=due)
            )
        expected = [self.model.send(each) for each in messages]
        assert self.runner.run(self.servicebus.queue().send(messages)) == expected
        self.advance(0)

    @rule(count=st.integers(1, 3), mode=st.sampled_from(ReceiveMode), dead=st.booleans())
    def fail_to_write(self, count: int, mode: ReceiveMode, dead: bool) -> None:
        self._refuse_writes(True)

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
        if fails:
            self.runner.run(attempt())
        else:
            assert known
        self._refuse_writes(False)
        self.servicebus.broker._transactions._on_timer()

    @rule(
        target=held,
        count=st.integers(1, 3),
        mode=st.sampled_from(ReceiveMode),
        dead=st.booleans(),
    )
    def receive(self, count: int, mode: ReceiveMode, dead: bool) -> object:
        receiver = self.servicebus.receiver(ADDRESSES[dead], mode, count)
        receiver.subscription.close()
        tokens = []
        for delivery in receiver.deliveries:
            expected = self.model.first_ready(dead=dead)
            assert expected is not None
            assert delivery.message.sequence_number == expected.number
            assert delivery.message.bare == expected.body
            assert delivery.message.delivery_count == expected.delivery_count
            tokens.append(self._took(expected, mode, delivery))
        if len(receiver.deliveries) < count:
            assert self.model.first_ready(dead=dead) is None
        return multiple(*[each for each in tokens if each is not None])

    @rule(
        target=held,
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
        tokens = [
            self._took(expected, mode, delivery)
            for expected, delivery in zip(found, deliveries, strict=True)
            if expected is not None
        ]
        return multiple(*[each for each in tokens if each is not None])

    def _took(self, expected: ModelMessage, mode: ReceiveMode, delivery: object) -> object:
        if mode is ReceiveMode.RECEIVE_AND_DELETE:
            self.model.messages.remove(expected)
            return None
        token = lock_token_of(delivery)  # type: ignore[arg-type]
        self.model.lock(expected, token)
        return token, expected.dead

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

    @rule(
        hold=consumes(held),
        way=st.sampled_from(["complete", "abandon", "release", "defer", "dead_letter"]),
    )
    def settle(self, hold: tuple[object, bool], way: str) -> None:
        token, dead = hold
        queue = self.servicebus.queue(ADDRESSES[dead])
        arguments = (token, "Bad", None) if way == "dead_letter" else (token,)
        call = getattr(queue, way)(*arguments)
        mine = next((m for m in self.model.messages if m.token == token), None)
        refusal: type[BrokerError] | None = None
        if mine is None:
            refusal = MessageLockLost
        elif way == "dead_letter" and dead:
            refusal = NotAllowed
        if refusal is not None:
            with pytest.raises(refusal):
                self.runner.run(call)
            return
        assert mine is not None
        self.runner.run(call)
        if way == "complete":
            self.model.messages.remove(mine)
        elif way == "dead_letter":
            self.model.bury(mine, "Bad")
        else:
            if way == "defer":
                mine.state = MessageState.DEFERRED
            self.model.give_back(mine, failed=way == "abandon")

    @rule(hold=held)
    def renew(self, hold: tuple[object, bool]) -> None:
        token, dead = hold
        call = self.servicebus.queue(ADDRESSES[dead]).renew([token])  # type: ignore[list-item]
        mine = next((m for m in self.model.messages if m.token == token), None)
        if mine is None:
            with pytest.raises(MessageLockLost):
                self.runner.run(call)
            return
        self.model.lock(mine, token)  # type: ignore[arg-type]
        assert self.runner.run(call) == [mine.locked_until]

    @rule(duration=seconds)
    def advance(self, duration: int) -> None:
        self.model.advance(timedelta(seconds=duration))
        self.servicebus.advance(duration)

    @precondition(lambda self: self.body_count)
    @rule(downtime=st.just(0) | seconds)
    def restart(self, downtime: int) -> None:
        async def restart() -> None:
            await self.servicebus.broker.close()
            self.servicebus.clock.at = self.servicebus.after(downtime)
            await self.servicebus.restart()

        self.runner.run(restart())
        self.model.advance(timedelta(seconds=downtime))

    @invariant()
    def the_broker_shows_what_the_model_has(self) -> None:
        if not hasattr(self, "runner"):
            return
        for dead, address in ADDRESSES.items():
            shown = [
                (
                    each.sequence_number,
                    each.enqueue_sequence_number,
                    each.bare,
                    each.state,
                    each.delivery_count,
                    each.expires_at,
                    each.dead_letter_reason,
                )
                for each in self.servicebus.queue(address).peek(0, 1000)
            ]
            assert shown == [
                (
                    each.number,
                    each.first_number,
                    each.body,
                    each.state,
                    each.delivery_count,
                    each.expires_at,
                    each.reason,
                )
                for each in self.model.living(dead=dead)
            ]
        counts = self.servicebus.queue().counts()
        living = [each.state for each in self.model.living(dead=False)]
        assert counts.active == living.count(MessageState.ACTIVE)
        assert counts.deferred == living.count(MessageState.DEFERRED)
        assert counts.scheduled == living.count(MessageState.SCHEDULED)
        assert counts.total == len(self.model.messages)
        assert counts.size_bytes == sum(len(each.body) for each in self.model.messages)


BrokerMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    # Omit the explain phase, because it traces every line of the broker and takes minutes.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
TestBroker = BrokerMachine.TestCase
