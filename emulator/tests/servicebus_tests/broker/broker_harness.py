"""Run a broker with its own database and a manual clock in tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.dispatcher import Subscription
from emulator.servicebus.broker.message import IncomingMessage, MessageDelivery, ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.property_values import MessageProperties, PropertyUpdate
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import QueueSettings
from manual_clock import ManualClock


def message(
    body: str = "",
    *,
    message_id: str | None = None,
    time_to_live_seconds: float | None = None,
    scheduled_at: datetime | None = None,
    session_id: str | None = None,
) -> IncomingMessage:
    return IncomingMessage(
        header=b"",
        annotations=b"",
        bare=body.encode(),
        message_id=message_id,
        time_to_live=None
        if time_to_live_seconds is None
        else timedelta(seconds=time_to_live_seconds),
        scheduled_at=scheduled_at,
        session_id=session_id,
    )


class WordFormat:
    """A message format in which each word of the body is a property, for example `color=red`."""

    def read_properties(self, message: IncomingMessage) -> MessageProperties:
        words = (word.partition("=") for word in message.bare.decode().split())
        return MessageProperties({}, {name: value for name, _, value in words})

    def update_properties(
        self, message: IncomingMessage, updates: Sequence[PropertyUpdate]
    ) -> IncomingMessage:
        properties = self.read_properties(message)
        for update in updates:
            properties = properties.with_update(update)
        words = [f"{name}={value}" for name, value in properties.application.items()]
        return replace(message, bare=" ".join(words).encode())


@dataclass
class RunningBroker:
    """A broker and its clock, with methods for operations that many tests need."""

    broker: Broker
    clock: ManualClock
    database: Path
    settings: Sequence[QueueSettings]

    @classmethod
    async def open(cls, folder: Path, *settings: QueueSettings) -> "RunningBroker":
        clock, database = ManualClock(), folder / "broker.sqlite"
        chosen = settings or (QueueSettings("q"),)
        broker = await Broker.open(database, chosen, clock, WordFormat())
        return cls(broker, clock, database, chosen)

    async def restart(self) -> None:
        await self.broker.close()
        self.broker = await Broker.open(self.database, self.settings, self.clock, WordFormat())

    def queue(self, address: str = "q") -> Queue:
        return self.broker.queue(address)

    def dead_letters(self, name: str = "q") -> Queue:
        return self.queue(f"{name}/$DeadLetterQueue")

    def advance(self, seconds: float) -> None:
        self.clock.moment += timedelta(seconds=seconds)
        self.broker.transactions.tick()

    def after(self, seconds: float) -> datetime:
        return self.clock.moment + timedelta(seconds=seconds)

    @contextmanager
    def failing_writes(self) -> Iterator[None]:
        """Make each write to the database fail during the `with` block."""
        connection = self.broker.transactions.store.connection
        connection.execute("PRAGMA query_only=1")
        try:
            yield
        finally:
            connection.execute("PRAGMA query_only=0")

    def retry_write(self) -> None:
        """Make the next attempt to write to the database, as the broker does after one second."""
        self.broker.transactions.retry()

    def receiver(
        self,
        address: str = "q",
        mode: ReceiveMode = ReceiveMode.PEEK_LOCK,
        credit: int = 0,
        session_lock: MessageSessionLock | None = None,
    ) -> "RecordingReceiver":
        """Add a receiver with this link credit, deliver ready messages, and return the receiver.

        For a queue with message sessions, `session_lock` is the lock on the session to receive
        from.
        """
        receiver = RecordingReceiver()
        receiver.subscription = self.queue(address).subscribe(
            mode, receiver.deliveries.append, session_lock
        )
        receiver.subscription.set_credit(credit)
        self.broker.transactions.tick()
        return receiver

    def receive(
        self, address: str = "q", mode: ReceiveMode = ReceiveMode.PEEK_LOCK
    ) -> MessageDelivery:
        """Receive one message. The caller must ensure that a message is ready."""
        receiver = self.receiver(address, mode, credit=1)
        receiver.subscription.close()
        (delivery,) = receiver.deliveries
        return delivery

    def bodies(self, address: str = "q") -> list[str]:
        return [each.bare.decode() for each in self.queue(address).peek(0, 10_000)]


@dataclass
class RecordingReceiver:
    """A receiver that records its deliveries."""

    deliveries: list[MessageDelivery] = field(default_factory=list)
    subscription: Subscription = field(init=False)

    @property
    def bodies(self) -> list[str]:
        return [each.message.bare.decode() for each in self.deliveries]


def lock_token_of(delivery: MessageDelivery) -> UUID:
    assert delivery.lock_token is not None
    return delivery.lock_token
