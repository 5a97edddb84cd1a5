"""Links to queues: messages in, messages out, and what becomes of those."""

from uuid import UUID

from emulator.servicebus.amqp.node import Outlet
from emulator.servicebus.amqp.outcomes import Accepted, Modified, Outcome, Rejected, Released
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.message import Delivery, ReceiveMode
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.errors import MessageFault
from emulator.servicebus.messages import read_messages, write_message

_TAG_FOR_DELETED = b"\x00" * 16
_REASON = "DeadLetterReason"
_DESCRIPTION = "DeadLetterErrorDescription"


def refusal(error: BrokerError) -> MessageFault:
    """Say in AMQP what the broker refuses."""
    return MessageFault(error.condition, str(error), error.status_code)


class QueueSink:
    """Puts into a queue what a peer sends."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.max_message_bytes = queue.settings.max_message_bytes

    async def put(self, payload: bytes, message_format: int) -> None:
        """Put a message, or a whole batch or nothing of it; returns when it is durable."""
        try:
            await self._queue.send(read_messages(payload, message_format))
        except BrokerError as error:
            raise refusal(error) from error


class QueueSource:
    """Gives a peer what is in a queue."""

    def __init__(self, queue: Queue, outlet: Outlet, *, presettled: bool) -> None:
        self._queue = queue
        self._outlet = outlet
        self.presettled = presettled
        mode = ReceiveMode.RECEIVE_AND_DELETE if presettled else ReceiveMode.PEEK_LOCK
        self._subscription = queue.subscribe(mode, self._deliver)

    def set_credit(self, credit: int) -> None:
        """Let the queue deliver so many messages."""
        self._subscription.set_credit(credit)

    def close(self) -> None:
        """Let the queue deliver no more. Locks stay until they expire."""
        self._subscription.close()

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Settle the lock that a delivery tag stands for."""
        token = UUID(bytes_le=tag)
        try:
            await self._apply(token, outcome)
        except BrokerError as error:
            raise refusal(error) from error

    async def _apply(self, token: UUID, outcome: Outcome) -> None:
        match outcome:
            case Accepted():
                await self._queue.complete(token)
            case Released():
                await self._queue.release(token)
            case Rejected(info=info):
                await self._queue.dead_letter(
                    token, _text(info.get(_REASON)), _text(info.get(_DESCRIPTION))
                )
            case Modified(undeliverable_here=True):
                await self._queue.defer(token)
            case Modified(delivery_failed=True):
                await self._queue.abandon(token)
            case Modified():
                await self._queue.release(token)

    def _deliver(self, delivery: Delivery) -> None:
        token = delivery.lock_token
        # The tag is the token in the byte order of .NET, whose clients read it back as a GUID.
        tag = _TAG_FOR_DELETED if token is None else token.bytes_le
        self._outlet.send(tag, write_message(delivery.message, token, delivery.locked_until))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
