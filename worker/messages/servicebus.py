"""The Service Bus SDK behind one small class: nothing else here knows azure-servicebus.

Taking credit back, releasing a message and, in `together`, completing several at once are not in
its public interface and are reached for here alone, each with its reason; the SDK's version is
pinned, and the conformance tests fail where it changes.
"""

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    parse_connection_string,
)
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusError,
)

from contract.messages import MAX_MESSAGE_BYTES
from worker.errors import (
    BrokerAway,
    LockLost,
    QueueMissing,
    ReplyForbidden,
    SettingsError,
    Settlement,
)
from worker.memory.pending import Peeked
from worker.messages.together import Gathering, can_complete, complete
from worker.settings import Endpoint

_log = logging.getLogger(__name__)

# How long a receive call sits in the socket before it looks at its own time limit again. The
# SDK's own 0.2 s would hold back the settling of finished jobs for as long.
_SOCKET_SECONDS = 0.02
# Bounds the opening of a link and a management request.
_TRY_SECONDS = 10.0
_DESCRIPTION_CHARACTERS = 1024
_REPLIES_TOGETHER = 64
# The jobs of a batch are answered within such a moment: one send for all of them.
_REPLIES_WAIT_SECONDS = 0.002

# What the SDK raises: its own tree, the credential's, and plain ones where a link went away
# between two of its steps.
_SDK_ERRORS = (ServiceBusError, AzureError, OSError, ValueError, AttributeError, RuntimeError)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One locked message. `body` is None where it holds no bytes or too many to be ours.

    `sequence_number` is the broker's own for the message in its `queue`, the same each time that
    it is delivered.
    """

    body: bytes | None = field(repr=False)
    delivery_count: int
    enqueued_at: datetime | None
    locked_until: datetime | None
    properties: dict[str, str] = field(repr=False)
    message_id: str
    message: ServiceBusReceivedMessage = field(repr=False)
    queue: str = ""
    sequence_number: int = 0

    def lock_seconds(self, now: datetime) -> float:
        """What is left of the lock."""
        return (self.locked_until - now).total_seconds() if self.locked_until else 0.0


class QueueLink:
    """One receiver on a connection of its own, for one thread.

    Every method raises BrokerAway where the queue cannot be reached; the link is closed then
    and the next `open` makes a new one. What an earlier link received can be settled and renewed
    on a later one.
    """

    def __init__(
        self, endpoint: Endpoint, queue: str, socket_seconds: float = _SOCKET_SECONDS
    ) -> None:
        self._endpoint = endpoint
        self._queue = queue
        self._socket_seconds = socket_seconds
        self._client: ServiceBusClient | None = None
        self._receiver: ServiceBusReceiver | None = None

    @property
    def is_open(self) -> bool:
        """Whether the link stood when it was last used."""
        return self._receiver is not None

    def open(self) -> None:
        """Connect, sign in and attach to the queue; QueueMissing. Nothing is received yet."""
        if self._receiver is not None:
            return
        try:
            client = _client(self._endpoint)
            receiver = client.get_queue_receiver(self._queue, socket_timeout=self._socket_seconds)
            self._client = client
            receiver.__enter__()
        except MessagingEntityNotFoundError:
            self.close()
            raise QueueMissing("there is no such queue: its jobs are not received") from None
        except _SDK_ERRORS as error:
            self.close()
            raise BrokerAway(_text(error)) from None
        self._receiver = receiver

    def close(self) -> None:
        """Close the link; what is locked but not settled stays so until its lock expires."""
        client, self._client, self._receiver = self._client, None, None
        if client is None:
            return
        try:
            client.close()
        except _SDK_ERRORS as error:
            _log.debug("closing the link to %s: %s", self._queue, error)

    def receive(self, wait_seconds: float) -> Delivery | None:
        """The next message, at once if there is one, or None after about `wait_seconds`.

        One at a time, since the SDK waits 0.2 s for a second one whenever it may take more. A
        call that ends with nothing leaves its one credit with the broker, which may push a
        message at any time: call again soon, or `stop_receiving`.
        """
        receiver = self._opened()
        try:
            messages = receiver.receive_messages(max_message_count=1, max_wait_time=wait_seconds)
        except _SDK_ERRORS as error:
            raise self._broken(error) from None
        return _delivery(messages[0], self._queue) if messages else None

    def receive_many(self, limit: int, wait_seconds: float) -> list[Delivery]:
        """Several at once, for when there are surely as many: else it waits the whole time.

        What could not be had leaves its credit with the broker, as in `receive`.
        """
        receiver = self._opened()
        try:
            messages = receiver.receive_messages(limit, wait_seconds)
        except _SDK_ERRORS as error:
            raise self._broken(error) from None
        return [_delivery(message, self._queue) for message in messages]

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """See Window. Opens the link where need be; locks nothing, and sees what others locked."""
        self.open()
        receiver = self._opened()
        try:
            messages = receiver.peek_messages(
                count, sequence_number=from_sequence_number, timeout=_TRY_SECONDS
            )
        except _SDK_ERRORS as error:
            raise self._broken(error) from None
        return [
            Peeked(message.sequence_number, message.enqueued_time_utc)
            for message in messages
            if message.sequence_number is not None and message.enqueued_time_utc is not None
        ]

    def stop_receiving(self) -> None:
        """Take back the credit, and let go of what the broker pushed meanwhile."""
        receiver = self._opened()
        try:
            # Private: publicly only closing does this, and the link is still needed to settle.
            transport: Any = receiver._amqp_transport
            transport.drain_and_release_messages(receiver._handler)
        except _SDK_ERRORS as error:
            raise self._broken(error) from None

    def settle(self, delivery: Delivery, how: Settlement, reason: str, description: str) -> None:
        """End the message and wait for the broker's word. LockLost where it was too late."""
        receiver, message = self._opened(), delivery.message
        try:
            match how:
                case Settlement.COMPLETE:
                    receiver.complete_message(message)
                case Settlement.ABANDON:
                    receiver.abandon_message(message)
                case Settlement.DEAD_LETTER:
                    receiver.dead_letter_message(
                        message, reason, description[:_DESCRIPTION_CHARACTERS]
                    )
                case Settlement.RELEASE:
                    self._release(receiver, message)
                case Settlement.LEAVE:
                    pass
        except (MessageLockLostError, MessageAlreadySettled) as error:
            raise LockLost(_text(error)) from None
        except _SDK_ERRORS as error:
            raise self._broken(error) from None

    def complete(self, deliveries: Sequence[Delivery]) -> list[bool]:
        """Complete several for one wait; tells which were completed in time."""
        receiver = self._opened()
        try:
            here = [each.message for each in deliveries if can_complete(receiver, each.message)]
            done = dict(zip(map(id, here), complete(receiver, here, _TRY_SECONDS), strict=True))
        except _SDK_ERRORS as error:
            raise self._broken(error) from None
        return [
            done[id(each.message)] if id(each.message) in done else self._complete_alone(each)
            for each in deliveries
        ]

    def _complete_alone(self, delivery: Delivery) -> bool:
        try:
            self.settle(delivery, Settlement.COMPLETE, "", "")
        except LockLost:
            return False
        return True

    def renew(self, delivery: Delivery, timeout_seconds: float) -> datetime:
        """Lock for another full duration; returns the end of it. LockLost where it is gone."""
        self.open()
        receiver = self._opened()
        try:
            return receiver.renew_message_lock(delivery.message, timeout=timeout_seconds)
        except (MessageLockLostError, MessageAlreadySettled) as error:
            raise LockLost(_text(error)) from None
        except _SDK_ERRORS as error:
            if delivery.message.lock_token is None:
                raise LockLost("the message was settled meanwhile") from None
            raise self._broken(error) from None

    def _release(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        # Private: publicly there is only abandon, which counts as a failed delivery, and a worker
        # that leaves three times would bury the job. The SDK itself releases so when it closes.
        handler: Any = receiver._handler
        try:
            handler.settle_messages(message._delivery_id, message._delivery_tag, "released")
            message._settled = True
        except _SDK_ERRORS:
            receiver.abandon_message(message)

    def _opened(self) -> ServiceBusReceiver:
        if self._receiver is None:
            raise BrokerAway("the link is closed")
        return self._receiver

    def _broken(self, error: BaseException) -> BrokerAway:
        self.close()
        return BrokerAway(_text(error))


class QueueSender:
    """One sender on a connection of its own, for any thread; what comes meanwhile goes together."""

    def __init__(self, endpoint: Endpoint, queue: str) -> None:
        self._endpoint = endpoint
        self._queue = queue
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._send = Gathering(self._send_together, _REPLIES_TOGETHER, _REPLIES_WAIT_SECONDS)

    def send(self, body: bytes, job_id: str) -> None:
        """Send a reply and wait for the broker's word. BrokerAway; ReplyForbidden: no such queue.

        The message id is the job's, so that a queue that detects duplicates keeps one.
        """
        message = ServiceBusMessage(
            body, content_type="application/json", message_id=job_id, correlation_id=job_id
        )
        self._send(message)

    def _send_together(self, messages: Sequence[ServiceBusMessage]) -> None:
        try:
            sender = self._opened()
            try:
                sender.send_messages(
                    messages[0] if len(messages) == 1 else [*messages], timeout=_TRY_SECONDS
                )
            except MessageSizeExceededError:
                # Each fits by itself: results that are large go to a blob.
                for message in messages:
                    sender.send_messages(message, timeout=_TRY_SECONDS)
        except MessagingEntityNotFoundError:
            self._close()
            raise ReplyForbidden(f"there is no queue {self._queue!r} for replies") from None
        except _SDK_ERRORS as error:
            self._close()
            raise BrokerAway(_text(error)) from None

    def _opened(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = _client(self._endpoint)
            self._sender = self._client.get_queue_sender(self._queue)
        return self._sender

    def _close(self) -> None:
        client, self._client, self._sender = self._client, None, None
        if client is not None:
            with contextlib.suppress(*_SDK_ERRORS):
                client.close()


def check_endpoint(endpoint: Endpoint) -> None:
    """SettingsError where the connection string cannot be one; nothing is connected."""
    try:
        if endpoint.connection_string is not None:
            parse_connection_string(endpoint.connection_string)
    # The text would repeat the connection string.
    except ValueError:
        raise SettingsError("SERVICE_BUS: cannot be used as a connection string") from None


def _client(endpoint: Endpoint) -> ServiceBusClient:
    # No retries of the SDK's own: they would keep the thread from all else for seconds.
    if endpoint.connection_string is not None:
        return ServiceBusClient.from_connection_string(
            endpoint.connection_string, retry_total=0, try_timeout=_TRY_SECONDS
        )
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415  only where it is needed

    return ServiceBusClient(
        endpoint.address or "", DefaultAzureCredential(), retry_total=0, try_timeout=_TRY_SECONDS
    )


def _delivery(message: ServiceBusReceivedMessage, queue: str) -> Delivery:
    return Delivery(
        body=_body(message),
        delivery_count=message.delivery_count or 0,
        enqueued_at=message.enqueued_time_utc,
        locked_until=message.locked_until_utc,
        properties=_properties(message),
        message_id=message.message_id or "?",
        message=message,
        queue=queue,
        sequence_number=message.sequence_number or 0,
    )


def _body(message: ServiceBusReceivedMessage) -> bytes | None:
    """The bytes of a data body. A value or sequence body, which no producer of ours sends: None."""
    parts, size_bytes = [], 0
    try:
        for part in message.body:
            size_bytes += len(part)
            if not isinstance(part, bytes) or size_bytes > MAX_MESSAGE_BYTES:
                return None
            parts.append(part)
    except TypeError:
        return None
    return b"".join(parts)


def _properties(message: ServiceBusReceivedMessage) -> dict[str, str]:
    return {
        _decoded(name): _decoded(value)
        for name, value in (message.application_properties or {}).items()
        if isinstance(name, bytes | str) and isinstance(value, bytes | str)
    }


def _decoded(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _text(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def utc_now() -> datetime:
    """The time of day that locks are told in."""
    return datetime.now(UTC)
