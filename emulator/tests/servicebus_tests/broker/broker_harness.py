"""A broker in a folder of its own, with a clock that stands still until it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.dispatcher import Subscription
from emulator.servicebus.broker.message import Delivery, IncomingMessage, ReceiveMode
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import QueueSettings

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class HeldClock:
    at: datetime = START

    def now(self) -> datetime:
        return self.at


def message(
    body: str = "",
    *,
    message_id: str | None = None,
    time_to_live_seconds: float | None = None,
    scheduled_at: datetime | None = None,
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
    )


@dataclass
class World:
    broker: Broker
    clock: HeldClock
    database: Path
    settings: Sequence[QueueSettings]
    inboxes: list["Inbox"] = field(default_factory=list)

    @classmethod
    async def open(cls, folder: Path, *settings: QueueSettings) -> "World":
        clock, database = HeldClock(), folder / "broker.sqlite"
        chosen = settings or (QueueSettings("q"),)
        return cls(await Broker.open(database, chosen, clock), clock, database, chosen)

    async def restart(self) -> None:
        await self.broker.close()
        self.broker = await Broker.open(self.database, self.settings, self.clock)

    def queue(self, address: str = "q") -> Queue:
        return self.broker.queue(address)

    def dead_letters(self, name: str = "q") -> Queue:
        return self.queue(f"{name}/$DeadLetterQueue")

    def advance(self, seconds: float) -> None:
        self.clock.at += timedelta(seconds=seconds)
        self.broker.tick()

    def after(self, seconds: float) -> datetime:
        return self.clock.at + timedelta(seconds=seconds)

    def receiver(
        self, address: str = "q", mode: ReceiveMode = ReceiveMode.PEEK_LOCK, credit: int = 0
    ) -> "Inbox":
        inbox = Inbox(self)
        inbox.subscription = self.queue(address).subscribe(mode, inbox.deliveries.append)
        inbox.subscription.set_credit(credit)
        self.broker.tick()
        return inbox

    def receive(self, address: str = "q", mode: ReceiveMode = ReceiveMode.PEEK_LOCK) -> Delivery:
        """Receive one message that must be there."""
        inbox = self.receiver(address, mode, credit=1)
        inbox.subscription.close()
        (delivery,) = inbox.deliveries
        return delivery

    def bodies(self, address: str = "q") -> list[str]:
        return [each.bare.decode() for each in self.queue(address).peek(0, 10_000)]


@dataclass
class Inbox:
    world: World
    deliveries: list[Delivery] = field(default_factory=list)
    subscription: Subscription = field(init=False)

    @property
    def bodies(self) -> list[str]:
        return [each.message.bare.decode() for each in self.deliveries]


def token_of(delivery: Delivery) -> UUID:
    assert delivery.lock_token is not None
    return delivery.lock_token
