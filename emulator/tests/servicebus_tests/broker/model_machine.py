"""Apply random operations to a queue and to a simple model of the queue, and compare the results.

`ModelMachine` has the operations that a queue with message sessions and a queue without sessions
have in common. Its subclasses add the operations that send and receive messages.
"""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Generic, TypeVar
from uuid import UUID

import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from emulator.servicebus.broker.errors import BrokerError, MessageLockLost, NotAllowed
from emulator.servicebus.broker.message import MessageDelivery, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of
from servicebus_tests.broker.model_queue import ModelMessage, ModelQueue

Model = TypeVar("Model", bound=ModelQueue)

LOCK_SECONDS = 30
ADDRESSES = {False: "q", True: "q/$DeadLetterQueue"}
# Omit the explain phase, because it traces every line of the broker and takes minutes.
PHASES = Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink
seconds = st.integers(0, 70)


class ModelMachine(RuleBasedStateMachine, Generic[Model]):
    """A broker with the queue `q`, a model of this queue, and operations on both."""

    held = Bundle("held")
    """Pairs of a lock token, and whether the message is in the dead-letter queue."""

    model: Model

    def start(self, chosen: QueueSettings, kind: type[Model]) -> None:
        """Start the broker and its model, which is an instance of the class `kind`."""
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.servicebus = self.runner.run(RunningBroker.open(Path(self.folder.name), chosen))
        self.model = kind(chosen, self.servicebus.clock.moment)
        self.body_count = 0

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.servicebus.broker.close())
            self.runner.close()
            self.folder.cleanup()

    def next_body(self) -> str:
        self.body_count += 1
        return str(self.body_count)

    def take(
        self, expected: ModelMessage, mode: ReceiveMode, delivery: MessageDelivery
    ) -> list[tuple[UUID, bool]]:
        """Lock the message `expected` in the model, or delete it, depending on the receive mode.

        Returns the items to add to the bundle `held`: if the message is locked, its lock token and
        whether it is in the dead-letter queue; otherwise nothing.
        """
        if mode is ReceiveMode.RECEIVE_AND_DELETE:
            self.model.messages.remove(expected)
            return []
        token = lock_token_of(delivery)
        self.model.lock(expected, token)
        return [(token, expected.dead)]

    @rule(
        hold=consumes(held),
        way=st.sampled_from(["complete", "abandon", "release", "defer", "dead_letter"]),
    )
    def settle(self, hold: tuple[UUID, bool], way: str) -> None:
        token, dead = hold
        queue = self.servicebus.queue(ADDRESSES[dead])
        arguments = (token, "Bad", None) if way == "dead_letter" else (token,)
        call = getattr(queue, way)(*arguments)
        mine = self.model.find_locked(token)
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

    @rule(duration=seconds)
    def advance(self, duration: int) -> None:
        self.model.advance(timedelta(seconds=duration))
        self.servicebus.advance(duration)

    @precondition(lambda self: self.body_count)
    @rule(downtime=st.just(0) | seconds)
    def restart(self, downtime: int) -> None:
        async def restart() -> None:
            await self.servicebus.broker.close()
            self.servicebus.clock.moment = self.servicebus.after(downtime)
            await self.servicebus.restart()

        self.runner.run(restart())
        self.model.restart(timedelta(seconds=downtime))

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
