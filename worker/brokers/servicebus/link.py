"""Receive, settle and peek at the messages of one queue, and renew their locks, through the SDK.

In the worker, only this folder imports azure-servicebus. The SDK has no public functions to stop
the delivery of messages on an open link, to release a message, to abandon a message by its lock
token, to note a message as soon as it arrives, to complete several messages at once (see
`batched_settlement`), and to open a link without pauses. This folder uses the SDK's private
functions for these operations. The SDK's version is pinned, and the conformance tests fail if a new
version changes these functions.
"""

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from azure.core.exceptions import AzureError
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    parse_connection_string,
)
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessagingEntityNotFoundError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from contract.errors import InvalidSetting
from contract.messages import MAX_MESSAGE_BYTES
from contract.settings import AzureEndpoint
from worker.brokers.port import BrokerLink, LockedMessage, Peeked, earlier_deliveries
from worker.brokers.servicebus.batched_settlement import can_complete, complete, has_range
from worker.errors import (
    BrokerUnavailable,
    LockLost,
    QueueMissing,
    Settlement,
    error_text,
)
from worker.processes.history import DeliveryHistory
from worker.processes.lock_journal import LeftMessage, LockJournal, LockJournals

_log = logging.getLogger(__name__)

# The time limit for opening a link and for a management request.
TRY_SECONDS = 10.0
# While a link opens, the SDK checks the time limit this often.
_DEADLINE_CHECK_SECONDS = 1.0
# How often the link tries to abandon a message by its lock token.
_MAX_TRIES = 3
# After a failed attempt to complete a range of messages, so many calls complete them one by one.
# Each further failure doubles the number.
_CALLS_WITHOUT_RANGES = 100

# The errors that the SDK raises: its own classes, those of the credential, and built-in errors if a
# link is closed while the SDK uses it.
SDK_ERRORS = (ServiceBusError, AzureError, OSError, ValueError, AttributeError, RuntimeError)

_LOST = (MessageLockLostError, MessageAlreadySettled)


class QueueLink(BrokerLink[ServiceBusReceiver]):
    """A connection to one queue, to receive and settle messages. Only one thread may use it.

    If the queue cannot be reached, a request raises BrokerUnavailable and ends the connection. The
    next connection can also settle the messages of an earlier one, and renew their locks.
    """

    errors = SDK_ERRORS
    has_credit = False

    def __init__(
        self,
        endpoint: AzureEndpoint,
        queue: str,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting to the queue."""
        super().__init__(_host(endpoint), queue, journals)
        self._endpoint = endpoint
        self._client: ServiceBusClient | None = None
        # The tokens of messages that have arrived and that no receive call has returned.
        self.arrived: set[bytes] = set()
        # The tokens of messages to abandon, because no process works on them, and for each token
        # the application properties to set, and how often this was tried.
        self._orphans: dict[bytes, dict[str, str]] = {}
        self._tries: Counter[bytes] = Counter()
        # The histories of messages that dead processes have left, by sequence number. They are not
        # in the messages if a lock expired before the message was abandoned.
        self._left: dict[int, DeliveryHistory] = {}
        # How many attempts to complete a range have failed since the last one that succeeded, and
        # how many calls still complete messages one by one.
        self._failed_ranges = 0
        self._calls_without_ranges = 0

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        """Return up to `limit` messages. If fewer arrive, wait the full `wait_seconds`.

        Then the broker may send and lock more later, but not more than `limit` in all.
        """
        del room
        with self._use_connection() as receiver:
            # Private: the SDK checks the time limit only after the wait for the socket. Its public
            # setting, by default 0.2 s, is one time for all calls, also for those that send.
            handler: Any = receiver._handler
            socket = handler._connection._transport.sock
            usual_seconds = socket.gettimeout()
            socket.settimeout(min(wait_seconds, usual_seconds))
            try:
                messages = receiver.receive_messages(limit, wait_seconds)
            finally:
                socket.settimeout(usual_seconds)
        self.has_credit = len(messages) < limit
        return [self._returned(message) for message in messages]

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return up to `count` messages, also locked ones, without locking them."""
        self.connect()
        with self._use_connection() as receiver:
            messages = receiver.peek_messages(
                count, sequence_number=from_sequence_number, timeout=TRY_SECONDS
            )
        return [
            Peeked(message.sequence_number, message.enqueued_time_utc)
            for message in messages
            if message.sequence_number is not None and message.enqueued_time_utc is not None
        ]

    def stop_receiving(self) -> None:
        """Ask the broker to send no more messages, and release those that were not yet returned."""
        with self._use_connection() as receiver:
            # Private: the public way is to close the receiver, which is still needed to settle.
            transport: Any = receiver._amqp_transport
            transport.drain_and_release_messages(receiver._handler)
        self.has_credit = False
        for token in tuple(self.arrived):
            self._remove_note(token)
        self.arrived.clear()

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        """Settle a message, and wait for the confirmation. Raises LockLost if its lock has expired.

        `history` is written into an abandoned message; None to keep the one that it has.
        """
        message = delivery.handle
        with self._use_connection() as receiver:
            try:
                match how:
                    case Settlement.COMPLETE:
                        receiver.complete_message(message)
                    case Settlement.ABANDON if history is not None and delivery.token:
                        self._abandon(receiver, delivery.token, history.to_properties())
                        message._settled = True
                    case Settlement.ABANDON:
                        receiver.abandon_message(message)
                    case Settlement.DEAD_LETTER:
                        receiver.dead_letter_message(message, reason, description)
                    case Settlement.RELEASE:
                        self._release(receiver, message)
                    case Settlement.LEAVE:
                        pass
            except _LOST as error:
                self.forget_token(delivery)
                raise LockLost(error_text(error)) from None
        self.forget_token(delivery)

    def forget_token(self, delivery: LockedMessage) -> None:
        """Remove the token of a message from the journal: it is settled, or its lock is lost."""
        self._remove_note(delivery.token)

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        """Complete messages together. Return for each whether it was before its lock was lost."""
        with self._use_connection() as receiver:
            here = [each.handle for each in deliveries if can_complete(receiver, each.handle)]
            uses_ranges = self._calls_without_ranges == 0 and has_range(here)
            self._calls_without_ranges = max(0, self._calls_without_ranges - 1)
            try:
                completed = complete(receiver, here, TRY_SECONDS, uses_ranges=uses_ranges)
            except SDK_ERRORS:
                if uses_ranges:
                    self._note_failed_range()
                raise
        if uses_ranges:
            self._failed_ranges = 0
        done = dict(zip(map(id, here), completed, strict=True))
        for each in deliveries:
            if id(each.handle) in done:
                self.forget_token(each)
        return [
            done[id(each.handle)] if id(each.handle) in done else self._complete_alone(each)
            for each in deliveries
        ]

    def _note_failed_range(self) -> None:
        """Let the next calls of `complete_messages` complete messages one by one.

        The service may refuse ranges, or the connection may have been lost. Each failure may cause
        redeliveries, so each further one doubles the number of these calls.
        """
        self._calls_without_ranges = _CALLS_WITHOUT_RANGES << min(self._failed_ranges, 10)
        self._failed_ranges += 1
        _log.warning(
            "queue %s: completing several messages together failed; in the next %d calls, the "
            "worker completes each message separately",
            *(self._queue, self._calls_without_ranges),
        )

    def _complete_alone(self, delivery: LockedMessage) -> bool:
        try:
            self.settle_message(delivery, Settlement.COMPLETE, "", "")
        except LockLost:
            return False
        return True

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        """Renew a message's lock, and return when it then expires. Raises LockLost."""
        self.connect()
        with self._use_connection() as receiver:
            try:
                return receiver.renew_message_lock(delivery.handle, timeout=timeout_seconds)
            except _LOST as error:
                raise LockLost(error_text(error)) from None
            except ServiceBusServerBusyError as error:
                # The namespace is throttled, and the link is not affected. A new link would need
                # more requests, which are throttled too.
                raise BrokerUnavailable(error_text(error)) from None
            except SDK_ERRORS:
                if delivery.handle.lock_token is None:
                    raise LockLost("the message was settled before its lock was renewed") from None
                raise

    def _open(self) -> ServiceBusReceiver:
        self._client = make_client(self._endpoint)
        try:
            receiver = self._client.get_queue_receiver(self._queue)
            _open_without_pauses(receiver)
            receiver.__enter__()
        except SDK_ERRORS as error:
            with suppress(*SDK_ERRORS):
                self._client.close()
            if isinstance(error, MessagingEntityNotFoundError):
                raise QueueMissing(
                    f"the queue {self._queue} does not exist, so the worker receives no jobs from "
                    "it"
                ) from None
            raise
        return receiver

    def _close(self, connection: ServiceBusReceiver) -> None:
        self.has_credit = False
        # The messages that no receive call has returned are abandoned over the next connection.
        self._orphans |= {token: {} for token in self.arrived}
        self.arrived.clear()
        # This closes its receivers.
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _take_back(self, left: dict[bytes, LeftMessage]) -> None:
        if left:
            _log.info(
                "queue %s: %d messages are still locked for a worker that has died; this worker "
                "abandons them, so that they are delivered again",
                *(self._queue, len(left)),
            )
        self._orphans |= {token: message.properties for token, message in left.items()}
        self._left |= {
            each.sequence_number: each.history
            for each in left.values()
            if each.history is not None and each.sequence_number
        }
        if self.journal is not None:
            with self._use_connection() as receiver:
                self._abandon_orphans(receiver)
                self._note_arrivals(receiver)

    def _returned(self, message: ServiceBusReceivedMessage) -> LockedMessage:
        """Return a message for the caller of a receive call, and note that it was read."""
        delivery = _delivery(message, self._queue, self.journal)
        number = delivery.sequence_number
        if (left := self._left.pop(number, None)) is not None:
            delivery = replace(delivery, history=delivery.history.or_longer(left))
        self.arrived.discard(delivery.token)
        return self._note_read(delivery, number)

    def _abandon_orphans(self, receiver: ServiceBusReceiver) -> None:
        """Abandon the locked messages on which no process works, so that they are delivered again.

        Their properties say whether the delivery counts against the job, and how its worker died.
        """
        for token, properties in list(self._orphans.items()):
            self._tries[token] += 1
            try:
                self._abandon(receiver, token, properties)
            except _LOST as error:
                _log.debug(
                    "queue %s: a locked message on which no process works could not be abandoned: "
                    "%s",
                    self._queue,
                    error,
                )
            except SDK_ERRORS:
                if self._tries[token] >= _MAX_TRIES:
                    self._remove_orphan(token)
                raise
            self._remove_orphan(token)

    @staticmethod
    def _abandon(receiver: ServiceBusReceiver, token: bytes, properties: Mapping[str, str]) -> None:
        """Abandon a message by its lock token, and set application properties of the message."""
        changes = {"properties-to-modify": dict(properties)} if properties else None
        # Private: the public way needs the message itself and changes no properties. The SDK uses
        # this function for messages that an earlier link has received.
        receiver._settle_message_via_mgmt_link("abandoned", [UUID(bytes_le=token)], changes)

    def _remove_orphan(self, token: bytes) -> None:
        del self._orphans[token], self._tries[token]
        self._remove_note(token)

    def _note_arrivals(self, receiver: ServiceBusReceiver) -> None:
        """Let the SDK's private function for arriving frames note each message's lock token."""
        link: Any = receiver._handler._link
        process_frame = link._incoming_transfer

        def note(frame: Any) -> None:
            # In AMQP the delivery tag is in the first frame of a message. In Service Bus it is the
            # lock token.
            if frame[2]:
                self._note_arrival(bytes(frame[2]))
                if self.journal is not None:
                    self.arrived.add(bytes(frame[2]))
            process_frame(frame)
            has_more_frames = frame[5]
            if not has_more_frames and not receiver._receive_context.is_set():
                # Outside of a receive call, the SDK has released the message.
                released = bytes(link._first_frame[2])
                self.arrived.discard(released)
                self._remove_note(released)

        link._incoming_transfer = note

    def _release(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        # Private, because the public `abandon` counts as a failed delivery: after a few shutdowns,
        # the job would be dead-lettered. The SDK releases messages in this way when it closes.
        handler: Any = receiver._handler
        try:
            handler.settle_messages(message._delivery_id, message._delivery_tag, "released")
            message._settled = True
        except SDK_ERRORS:
            receiver.abandon_message(message)


def check_endpoint(endpoint: AzureEndpoint) -> None:
    """Raise InvalidSetting if the connection string is malformed, without connecting."""
    try:
        if endpoint.connection_string is not None:
            parse_connection_string(endpoint.connection_string)
    # The error's text would repeat the connection string.
    except ValueError:
        raise InvalidSetting(
            "SERVICE_BUS is invalid: expected the connection string of a Service Bus namespace"
        ) from None


def make_client(endpoint: AzureEndpoint) -> ServiceBusClient:
    """Return a client of the Service Bus namespace. The client does not connect yet."""
    # No retries by the SDK, because they would block the thread for seconds.
    if endpoint.connection_string is not None:
        return ServiceBusClient.from_connection_string(
            endpoint.connection_string, retry_total=0, try_timeout=TRY_SECONDS
        )
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415  only where it is needed

    return ServiceBusClient(
        endpoint.address or "", DefaultAzureCredential(), retry_total=0, try_timeout=TRY_SECONDS
    )


def _open_without_pauses(receiver: Any) -> None:
    """Let the SDK open the receiver's link without its pauses, which take 0.4 s.

    The SDK calls the private function `client_ready` until the link is open. Each call waits for
    one of the about eight frames, and after each call the SDK sleeps for 50 ms.
    """
    create_handler = receiver._create_handler

    def create(auth: Any) -> None:
        create_handler(auth)
        handler = receiver._handler
        is_ready = handler.client_ready

        def wait_until_ready() -> bool:
            ends_at = time.monotonic() + _DEADLINE_CHECK_SECONDS
            while not is_ready():
                if time.monotonic() >= ends_at:
                    return False
            del handler.client_ready
            return True

        handler.client_ready = wait_until_ready

    receiver._create_handler = create


def _host(endpoint: AzureEndpoint) -> str:
    if endpoint.connection_string is None:
        return endpoint.address or ""
    return parse_connection_string(endpoint.connection_string).fully_qualified_namespace


def _delivery(
    message: ServiceBusReceivedMessage, queue: str, journal: LockJournal | None
) -> LockedMessage:
    delivery_count, properties = message.delivery_count or 0, _properties(message)
    return LockedMessage(
        body=_body(message),
        delivery_count=delivery_count,
        enqueued_at=message.enqueued_time_utc,
        locked_until=message.locked_until_utc,
        properties=properties,
        message_id=message.message_id or "?",
        handle=message,
        queue=queue,
        sequence_number=message.sequence_number or 0,
        token=bytes(message._delivery_tag or b""),
        history=earlier_deliveries(properties, delivery_count),
        journal=journal,
    )


def _body(message: ServiceBusReceivedMessage) -> bytes | None:
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
