"""Receive and settle the messages of one queue of RabbitMQ.

A lock is a delivery that is not acknowledged: RabbitMQ delivers it again when the channel or the
connection ends. So a lock has no time, and a worker that dies loses its messages at once. A
consumer with a prefetch count receives the messages: RabbitMQ sends no more than so many that are
not acknowledged. A count cannot change while the consumer exists, so the consumer is made again if
the worker has much more room, or if it has less.

RabbitMQ counts every delivery that ended without an acknowledgement. What these deliveries did is
in the lock journals of dead workers on this machine. If no journal explains several deliveries of a
message, its job may have killed its workers, so it runs alone (`worker.processes.history`).
"""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

from contract.messages import MAX_MESSAGE_BYTES
from contract.rabbitmq import (
    BROKERS_COUNT,
    HEADER_DELIVERIES,
    HEADER_DESCRIPTION,
    HEADER_ENQUEUED,
    HEADER_REASON,
    HIGH_PRIORITY,
    dead_queue,
    expiration_of,
    from_milliseconds,
    properties_of,
    time_left,
    whole,
)
from worker.brokers.port import LockedMessage, Peeked
from worker.brokers.rabbitmq.connection import ERRORS, TRY_SECONDS, connect, declare, describe
from worker.brokers.rabbitmq.sender import Publisher
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, LockLost, Settlement
from worker.processes.history import DeliveryHistory, read_history
from worker.processes.lock_journal import LeftMessage, LockJournal, LockJournals

_log = logging.getLogger(__name__)

_MOST_PREFETCHED: Final = 1000
_TOKEN_BYTES: Final = 16
_DESCRIPTION_CHARACTERS: Final = 1024
# A number that no message has: RabbitMQ cannot show messages without delivering them.
_LAST_NUMBER: Final = 2**62


@dataclass(eq=False)
class _Session:
    """One channel, and the deliveries on it that were not acknowledged. Another thread reads it."""

    connection: pika.BlockingConnection
    channel: BlockingChannel
    is_open: bool = True
    unsettled: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)
    """Those of the present consumer, which count for its prefetch count."""
    arrived: deque["_Delivery"] = field(default_factory=deque)
    consumer: str | None = None
    prefetch: int = 0

    def forget(self, *tags: int) -> None:
        """Record that deliveries are settled."""
        self.unsettled.difference_update(tags)
        self.received.difference_update(tags)


@dataclass(frozen=True, slots=True, eq=False)
class _Delivery:
    """A delivery with its content, on the channel on which it can be settled."""

    session: _Session
    tag: int
    properties: pika.BasicProperties
    body: bytes

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}

    @property
    def token(self) -> bytes:
        """A digest, because a message may have any id, and two messages the same."""
        digest = hashlib.blake2b(digest_size=_TOKEN_BYTES)
        digest.update(repr((self.properties.message_id, self._enqueued)).encode())
        digest.update(self.body)
        return digest.digest()

    @property
    def _enqueued(self) -> object:
        return self.headers.get(HEADER_ENQUEUED)


class RabbitLink:
    """A connection to one queue, as `MessageLink` says. Only one thread may use it.

    A message can be settled only over the connection that has received it.
    """

    def __init__(
        self,
        parameters: pika.URLParameters,
        queue: str,
        declarations: dict[str, dict[str, object]],
        lock_seconds: float,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting. `declarations` has the arguments of queues."""
        self._parameters = parameters
        self._queue = queue
        self._declarations = declarations
        self._lock_seconds = lock_seconds
        self._journals = journals
        self._publisher = Publisher(parameters)
        self.journal: LockJournal | None = None
        self._session: _Session | None = None
        # What the journals of dead workers say about messages, by token. The sequence number in a
        # journal of this adapter is the number of the message's deliveries until then.
        self._left: dict[bytes, LeftMessage] = {}
        self._waits_since: datetime | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the link is connected. A failed call ends the connection."""
        return self._session is not None

    @property
    def has_credit(self) -> bool:
        """Whether RabbitMQ may send a message, or has sent one that was not returned."""
        session = self._session
        if session is None:
            return False
        may_send = session.consumer is not None and session.prefetch > len(session.received)
        return may_send or bool(session.arrived)

    def connect(self) -> None:
        """Connect, and declare the queue with its dead-letter queue. Raises QueueMissing."""
        if self._session is not None:
            return
        if self._journals is not None:
            self._take_over_journals(self._journals)
        connection = connect(self._parameters)
        try:
            dead = dead_queue(self._queue)
            if dead in self._declarations:
                declare(connection, dead, self._declarations[dead]).close()
            channel = declare(connection, self._queue, self._declarations.get(self._queue))
        except BrokerUnavailable:
            _close(connection)
            raise
        except ERRORS as error:
            _close(connection)
            raise BrokerUnavailable(describe(error)) from None
        self._session = _Session(connection, channel)

    def disconnect(self) -> None:
        """Close the connection. RabbitMQ delivers what was not acknowledged again."""
        session, self._session = self._session, None
        if session is None:
            return
        session.is_open = False
        for delivery in session.arrived:
            self._remove_note(delivery.token)
        _close(session.connection)
        self._publisher.close()

    def serve(self) -> None:
        """Send and receive heartbeats, and receive what has arrived."""
        session = self._opened()
        try:
            session.connection.process_data_events(0)
        except ERRORS as error:
            raise self._broken(error) from None

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        """Return up to `limit` messages. If there are none, wait up to `wait_seconds`."""
        session = self._opened()
        try:
            self._consume(session, max(limit, room))
            ends_at = time.monotonic() + wait_seconds
            session.connection.process_data_events(0)
            while not session.arrived and (left := ends_at - time.monotonic()) > 0:
                session.connection.process_data_events(left)
        except ERRORS as error:
            raise self._broken(error) from None
        found = [session.arrived.popleft() for _ in range(min(limit, len(session.arrived)))]
        return [self._returned(delivery) for delivery in found]

    def stop_receiving(self) -> None:
        """Stop the consumer, and release the messages that were not yet returned."""
        session = self._opened()
        try:
            self._cancel(session)
            while session.arrived:
                delivery = self._returned(session.arrived.popleft())
                self.settle_message(delivery, Settlement.RELEASE, "", "")
        except ERRORS as error:
            raise self._broken(error) from None

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        """Settle a message. Raises LockLost if the connection that received it has ended."""
        handle = self._handle(delivery)
        try:
            match how:
                case Settlement.COMPLETE:
                    pass
                case Settlement.ABANDON | Settlement.RELEASE:
                    # RabbitMQ would count a release, and cannot change a message.
                    count = delivery.delivery_count + (how is Settlement.ABANDON)
                    kept = delivery.history if history is None else history
                    headers = {**handle.headers, HEADER_DELIVERIES: count, **kept.to_properties()}
                    left = time_left(headers, utc_now())
                    self._publish_copy(handle, self._queue, headers, left)
                case Settlement.DEAD_LETTER:
                    headers = {
                        **handle.headers,
                        HEADER_DELIVERIES: delivery.delivery_count + 1,
                        HEADER_REASON: reason,
                        HEADER_DESCRIPTION: description[:_DESCRIPTION_CHARACTERS],
                    }
                    self._publish_copy(handle, dead_queue(self._queue), headers, None)
                case Settlement.LEAVE:
                    return
            # If the process dies before this line, there are two messages. The outcome of the job
            # counts once.
            self._acknowledge(handle)
        except BrokerUnavailable:
            self.disconnect()
            raise
        except ERRORS as error:
            raise self._broken(error) from None
        self._remove_note(delivery.token)

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        """Acknowledge messages, with one request if no other delivery is older."""
        session = self._opened()
        here = [
            each.handle
            for each in deliveries
            if each.handle.session is session and each.handle.tag in session.unsettled
        ]
        tags = {handle.tag for handle in here}
        try:
            if tags and all(tag in tags for tag in session.unsettled if tag <= max(tags)):
                session.channel.basic_ack(max(tags), multiple=True)
            else:
                for tag in tags:
                    session.channel.basic_ack(tag)
        except ERRORS as error:
            raise self._broken(error) from None
        session.forget(*tags)
        for each in deliveries:
            self._remove_note(each.token)
        return [each.handle in here for each in deliveries]

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        """Return when the lock must be looked at again. Raises LockLost."""
        del timeout_seconds
        if not delivery.handle.session.is_open:
            raise LockLost("the connection that has received the message has ended")
        return utc_now() + timedelta(seconds=self._lock_seconds)

    def forget_token(self, delivery: LockedMessage) -> None:
        """Give a message back whose lock is lost in this process, so that it is delivered again."""
        self._remove_note(delivery.token)
        handle: _Delivery = delivery.handle
        if handle.session is not self._session or handle.tag not in handle.session.unsettled:
            return
        try:
            handle.session.channel.basic_nack(handle.tag, requeue=True)
        except ERRORS as error:
            raise self._broken(error) from None
        handle.session.forget(handle.tag)

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return one message if messages wait, with the time at which this was first seen."""
        del from_sequence_number, count
        self.connect()
        session = self._opened()
        try:
            found: Any = session.channel.queue_declare(self._queue, passive=True)
        except ERRORS as error:
            raise self._broken(error) from None
        if not found.method.message_count:
            self._waits_since = None
            return []
        self._waits_since = self._waits_since or utc_now()
        return [Peeked(_LAST_NUMBER, self._waits_since)]

    def _consume(self, session: _Session, room: int) -> None:
        """Let a consumer receive about `room` messages, but not more.

        A new consumer costs three round trips. So the present one stays if it can receive most of
        these, now or when messages are settled that it has received.
        """
        room = max(1, min(room, _MOST_PREFETCHED))
        if session.consumer is not None:
            may_arrive = session.prefetch - len(session.received) + len(session.arrived)
            if session.arrived or room - may_arrive <= session.prefetch // 2:
                return
            self._cancel(session)

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            delivery = _Delivery(session, method.delivery_tag, properties, body)
            session.unsettled.add(delivery.tag)
            session.received.add(delivery.tag)
            session.arrived.append(delivery)
            self._note(delivery.token)

        session.received.clear()
        session.prefetch = room
        session.channel.basic_qos(prefetch_count=room)
        session.consumer = session.channel.basic_consume(self._queue, on_message)

    def _cancel(self, session: _Session) -> None:
        consumer, session.consumer = session.consumer, None
        if consumer is None:
            return
        # Private: the public function rejects the messages that arrive meanwhile, and RabbitMQ
        # would count these deliveries.
        channel: Any = session.channel
        done: list[object] = []
        channel._impl._rpc(
            pika.spec.Basic.Cancel(consumer_tag=consumer),
            done.append,
            [(pika.spec.Basic.CancelOk, {"consumer_tag": consumer})],
        )
        ends_at = time.monotonic() + TRY_SECONDS
        while not done:
            if time.monotonic() > ends_at:
                raise OSError("RabbitMQ did not confirm that the consumer was cancelled")
            session.connection.process_data_events(0.05)
        session.connection.process_data_events(0)
        channel._impl._consumers.pop(consumer, None)
        channel._consumer_infos.pop(consumer, None)

    def _publish_copy(
        self, delivery: _Delivery, queue: str, headers: dict[str, Any], left: timedelta | None
    ) -> None:
        """Publish a copy of a message with these headers, and wait for the confirmation."""
        given = delivery.properties
        self._publisher.publish(
            queue,
            delivery.body,
            pika.BasicProperties(
                content_type=given.content_type,
                headers={name: each for name, each in headers.items() if name != BROKERS_COUNT},
                delivery_mode=pika.DeliveryMode.Persistent,
                priority=HIGH_PRIORITY,
                correlation_id=given.correlation_id,
                message_id=given.message_id,
                expiration=expiration_of(left),
            ),
        )

    def _acknowledge(self, delivery: _Delivery) -> None:
        delivery.session.channel.basic_ack(delivery.tag)
        delivery.session.forget(delivery.tag)

    def _handle(self, delivery: LockedMessage) -> _Delivery:
        handle: _Delivery = delivery.handle
        if handle.session is not self._opened() or handle.tag not in handle.session.unsettled:
            self._remove_note(delivery.token)
            raise LockLost("the connection that has received the message has ended")
        return handle

    def _returned(self, delivery: _Delivery) -> LockedMessage:
        headers, token = delivery.headers, delivery.token
        count = whole(headers.get(BROKERS_COUNT))
        history = read_history(properties_of(headers))
        if count:
            history = self._explain(token, count, history)
        number = int.from_bytes(token[:7], "little")
        locked = LockedMessage(
            body=delivery.body if len(delivery.body) <= MAX_MESSAGE_BYTES else None,
            delivery_count=whole(headers.get(HEADER_DELIVERIES)) + count,
            enqueued_at=from_milliseconds(headers.get(HEADER_ENQUEUED)) or _sent_at(delivery),
            locked_until=utc_now() + timedelta(seconds=self._lock_seconds),
            properties=properties_of(headers),
            message_id=delivery.properties.message_id or "?",
            handle=delivery,
            queue=self._queue,
            sequence_number=number,
            token=token,
            history=history,
            journal=self.journal,
        )
        if self.journal is not None:
            self.journal.note_read(token, history, count + 1)
        return locked

    def _explain(self, token: bytes, count: int, history: DeliveryHistory) -> DeliveryHistory:
        """Return what is known of a message that RabbitMQ has delivered `count` times before."""
        if token not in self._left and self._journals is not None:
            self._take_over_journals(self._journals)
        left = self._left.pop(token, None)
        explained = 0
        if left is not None:
            explained = max(1, min(left.sequence_number, count))
            history = left.history or history
        # The first may be a lost connection, or the death of a worker on another machine. If the
        # job itself kills its workers, the next one shows it.
        for _ in range(count - explained - 1):
            history = history.add_death(ran_alone=True, is_crash=False)
        return history

    def _take_over_journals(self, journals: LockJournals) -> None:
        try:
            if self.journal is None:
                host = f"{self._parameters.host}:{self._parameters.port}"
                vhost = self._parameters.virtual_host
                self.journal = LockJournal(journals.folder, f"{host}/{vhost}", self._queue)
            found = self.journal.take_over_journals(journals.death)
        except OSError as error:
            self._stop_noting(error)
            return
        for token in found:
            self.journal.remove_token(token)
        self._left |= found

    def _note(self, token: bytes) -> None:
        if self.journal is None:
            return
        try:
            self.journal.note_arrival(token)
        except OSError as error:
            self._stop_noting(error)

    def _remove_note(self, token: bytes) -> None:
        if self.journal is not None:
            self.journal.remove_token(token)

    def _stop_noting(self, error: OSError) -> None:
        _log.warning(
            "queue %s: the lock journal cannot be written, so nobody knows what a killed worker "
            "ran: %s",
            *(self._queue, error),
        )
        self.journal = self._journals = None

    def _opened(self) -> _Session:
        if self._session is None:
            raise BrokerUnavailable(f"the connection to the queue {self._queue} is closed")
        return self._session

    def _broken(self, error: BaseException) -> BrokerUnavailable:
        self.disconnect()
        return BrokerUnavailable(describe(error))


def _sent_at(delivery: _Delivery) -> datetime | None:
    sent_at = delivery.properties.timestamp
    return datetime.fromtimestamp(sent_at, UTC) if isinstance(sent_at, int) else None


def _close(connection: pika.BlockingConnection) -> None:
    try:
        if connection.is_open:
            connection.close()
    except ERRORS as error:
        _log.debug("closing a connection to RabbitMQ failed: %s", describe(error))
