"""A simple imitation of a Service Bus queue in memory, with which a test compares the broker.

`ModelQueue` keeps all messages in one list. Each operation searches the whole list.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from emulator.servicebus.broker.message import IncomingMessage, MessageState
from emulator.servicebus.broker.settings import QueueSettings


@dataclass
class ModelMessage:
    id: int
    number: int
    first_number: int
    body: bytes
    state: MessageState
    scheduled_at: datetime | None
    time_to_live: timedelta | None
    expires_at: datetime | None
    delivery_count: int = 0
    token: UUID | None = None
    locked_until: datetime | None = None
    reason: str | None = None
    dead: bool = False

    @property
    def due_at(self) -> datetime | None:
        if self.token is not None:
            return self.locked_until
        return self.scheduled_at if self.state is MessageState.SCHEDULED else self.expires_at


@dataclass
class ModelQueue:
    settings: QueueSettings
    now: datetime
    messages: list[ModelMessage] = field(default_factory=list)
    seen: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    next_number: int = 1
    sent_count: int = 0

    def living(self, *, dead: bool) -> list[ModelMessage]:
        return sorted((m for m in self.messages if m.dead is dead), key=lambda m: m.number)

    def advance(self, duration: timedelta) -> None:
        self.now += duration
        while due := [m for m in self.messages if m.due_at is not None and m.due_at <= self.now]:
            self._happen(min(due, key=lambda m: (m.due_at, m.id)))

    def _happen(self, message: ModelMessage) -> None:
        if message.token is not None:
            self.give_back(message, failed=True)
        elif message.state is MessageState.SCHEDULED:
            message.state = MessageState.ACTIVE
            message.number = self._new_number()
            message.expires_at = self._expiry(message)
        else:
            self._expire(message)

    def send(self, message: IncomingMessage) -> int:
        window = self.settings.duplicate_detection_window
        if window is not None and message.message_id is not None:
            seen_at, number = self.seen.get(message.message_id, (self.now - window, 0))
            if seen_at > self.now - window:
                return number
            self.seen[message.message_id] = self.now, self.next_number
        number = self._new_number()
        self.sent_count += 1
        later = message.scheduled_at is not None and message.scheduled_at > self.now
        new = ModelMessage(
            id=self.sent_count,
            number=number,
            first_number=number,
            body=message.bare,
            state=MessageState.SCHEDULED if later else MessageState.ACTIVE,
            scheduled_at=message.scheduled_at,
            time_to_live=message.time_to_live,
            expires_at=None,
        )
        if not later:
            new.expires_at = self._expiry(new)
        self.messages.append(new)
        return number

    def first_ready(self, *, dead: bool) -> ModelMessage | None:
        ready = (
            m for m in self.living(dead=dead) if m.token is None and m.state is MessageState.ACTIVE
        )
        return next(ready, None)

    def lock(self, message: ModelMessage, token: UUID) -> None:
        message.token = token
        message.locked_until = self.now + self.settings.lock_duration

    def find_locked(self, token: UUID) -> ModelMessage | None:
        return next((each for each in self.messages if each.token == token), None)

    def restart(self, downtime: timedelta) -> None:
        self.advance(downtime)

    def give_back(self, message: ModelMessage, *, failed: bool) -> None:
        message.token = message.locked_until = None
        message.delivery_count += failed
        limit = self.settings.max_delivery_count
        if failed and not message.dead and message.delivery_count >= limit:
            self.bury(message, "MaxDeliveryCountExceeded")
        elif message.expires_at is not None and message.expires_at <= self.now:
            self._expire(message)

    def bury(self, message: ModelMessage, reason: str) -> None:
        message.dead, message.reason = True, reason
        message.token = message.locked_until = message.expires_at = None
        message.state = MessageState.ACTIVE

    def _expire(self, message: ModelMessage) -> None:
        if self.settings.dead_lettering_on_message_expiration:
            self.bury(message, "TTLExpiredException")
        else:
            self.messages.remove(message)

    def _expiry(self, message: ModelMessage) -> datetime | None:
        lives = [
            life
            for life in (message.time_to_live, self.settings.default_message_time_to_live)
            if life is not None
        ]
        return self.now + min(lives) if lives else None

    def _new_number(self) -> int:
        self.next_number += 1
        return self.next_number - 1
