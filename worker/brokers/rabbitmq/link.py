"""Receive and settle the messages of one queue of RabbitMQ.

A lock is a delivery that is not acknowledged: RabbitMQ delivers it again when the channel or the
connection ends. So a lock has no time, and a worker that dies loses its messages at once.
Consumers receive the messages. RabbitMQ sends a consumer no more messages than its prefetch count
that are not acknowledged, and the count of a consumer cannot change. So a link with more room adds
a consumer, and one with less room cancels all of them and begins again.

RabbitMQ counts every delivery that ended without an acknowledgement. What these deliveries did is
in the lock journals of dead workers on this machine. If no journal explains several deliveries of a
message, its job may have killed its workers, so it runs alone (`worker.processes.history`).
"""

import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

from contract.messages import MAX_MESSAGE_BYTES
from contract.names import PROPERTY_WORKER_DEATH
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
from worker.brokers.port import BrokerLink, LockedMessage, Peeked, earlier_deliveries
from worker.brokers.rabbitmq.connection import (
    ERRORS,
    HEARTBEAT_SECONDS,
    TRY_SECONDS,
    connect,
    declare,
    describe,
)
from worker.brokers.rabbitmq.sender import Publisher
from worker.clock import utc_now
from worker.errors import BrokerUnavailable, LockLost, ReplyForbidden, Settlement
from worker.processes.history import DeliveryHistory
from worker.processes.lock_journal import LeftMessage, LockJournals

_log = logging.getLogger(__name__)

_MOST_PREFETCHED: Final = 1000
_TOKEN_BYTES: Final = 16
# How long messages may take to arrive for which RabbitMQ has a consumer, and how often to look.
_ARRIVAL_SECONDS: Final = 0.1
_ARRIVAL_CHECK_SECONDS: Final = 0.002
# A number that no message has: RabbitMQ cannot show messages without delivering them.
_LAST_NUMBER: Final = 2**62
_ENDED: Final = "the connection that has received the message has ended"


@dataclass(eq=False)
class _Session:
    """One channel, and the deliveries on it that were not acknowledged. Another thread reads it."""

    connection: pika.BlockingConnection
    channel: BlockingChannel
    is_open: bool = True
    served_at: float = field(default_factory=time.monotonic)
    unsettled: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)
    """Those of the present consumers, which count for their prefetch counts."""
    arrived: deque["_Delivery"] = field(default_factory=deque)
    consumers: list[str] = field(default_factory=list)
    prefetch: int = 0
    """The sum of the prefetch counts of the present consumers."""

    @property
    def may_arrive_count(self) -> int:
        """How many messages may arrive before one is settled, with those not yet returned."""
        return max(0, self.prefetch - len(self.received)) + len(self.arrived)

    def serve(self, seconds: float) -> None:
        """Send and receive, and wait up to `seconds` for something to arrive."""
        self.connection.process_data_events(seconds)
        self.served_at = time.monotonic()

    def has(self, delivery: "_Delivery") -> bool:
        """Return whether a delivery is of this channel, and not settled."""
        return delivery.session is self and delivery.tag in self.unsettled

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
    token: bytes

    @property
    def headers(self) -> dict[str, Any]:
        return self.properties.headers or {}


class RabbitLink(BrokerLink[_Session]):
    """A connection to one queue, as `MessageLink` says. Only one thread may use it.

    A message can be settled only over the connection that has received it.
    """

    errors = ERRORS

    def __init__(
        self,
        parameters: pika.URLParameters,
        queue: str,
        declarations: dict[str, dict[str, object]],
        lock_seconds: float,
        journals: LockJournals | None = None,
    ) -> None:
        """Create the object without connecting. `declarations` has the arguments of queues."""
        place = f"{parameters.host}:{parameters.port}/{parameters.virtual_host}"
        super().__init__(place, queue, journals)
        self._parameters = parameters
        self._declarations = declarations
        self._lock_seconds = lock_seconds
        self._publisher = Publisher(parameters)
        # What the journals of dead workers say about messages, by token. The sequence number in a
        # journal of this adapter is the number of the message's deliveries until then.
        self._left: dict[bytes, LeftMessage] = {}
        self._waits_since: datetime | None = None
        self._numbers = itertools.count()

    @property
    def has_credit(self) -> bool:
        """Whether RabbitMQ may send a message, or has sent one that was not returned."""
        session = self._connection
        return session is not None and session.may_arrive_count > 0

    def serve(self) -> None:
        """Send and receive heartbeats, and receive what has arrived."""
        self._publisher.close_idle()
        with self._use_connection() as session:
            session.serve(0)

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        """Return up to `limit` messages, and up to `room` if more have arrived.

        If there are none, wait up to `wait_seconds`.
        """
        with self._use_connection() as session:
            self._consume(session, limit, room)
            ends_at = time.monotonic() + wait_seconds
            while not session.arrived and (left := ends_at - time.monotonic()) > 0:
                session.serve(left)
        count = min(max(limit, room), len(session.arrived))
        found = [session.arrived.popleft() for _ in range(count)]
        return [self._returned(delivery) for delivery in found]

    def stop_receiving(self) -> None:
        """Stop the consumer, and release the messages that were not yet returned."""
        with self._use_connection() as session:
            self._cancel(session)
            self._release_arrived(session, 0)

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        """Settle a message. Raises LockLost if the connection that received it has ended."""
        handle: _Delivery = delivery.handle
        with self._use_connection() as session:
            if not session.has(handle):
                self._remove_note(delivery.token)
                raise LockLost(_ENDED)
            match how:
                case Settlement.COMPLETE:
                    is_done = True
                case Settlement.ABANDON | Settlement.RELEASE:
                    if how is Settlement.RELEASE:
                        # Otherwise this link could get the copy at once.
                        self._cancel(session)
                    # RabbitMQ would count a release, and cannot change a message.
                    count = delivery.delivery_count + (how is Settlement.ABANDON)
                    kept = delivery.history if history is None else history
                    changed = {HEADER_DELIVERIES: count, **kept.to_properties()}
                    is_done = self._publish_copy(delivery, self._queue, changed)
                case Settlement.DEAD_LETTER:
                    changed = {
                        HEADER_DELIVERIES: delivery.delivery_count + 1,
                        HEADER_REASON: reason,
                        HEADER_DESCRIPTION: description,
                    }
                    is_done = self._publish_copy(delivery, dead_queue(self._queue), changed)
                case Settlement.LEAVE:
                    return
            if is_done:
                # If the process dies before this line, there are two messages. The outcome of the
                # job counts once.
                session.channel.basic_ack(handle.tag)
            else:
                # RabbitMQ without memory or disk takes no copy, but this. It counts the delivery.
                session.channel.basic_nack(handle.tag, requeue=True)
        session.forget(handle.tag)
        self._remove_note(delivery.token)

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        """Acknowledge messages, with one request if no other delivery is older."""
        with self._use_connection() as session:
            in_time = [session.has(each.handle) for each in deliveries]
            here = {each.handle.tag for each in itertools.compress(deliveries, in_time)}
            oldest = [*itertools.takewhile(here.__contains__, sorted(session.unsettled))]
            # Private: the public function waits after each of them until it has been sent.
            channel = session.channel._impl
            if oldest:
                channel.basic_ack(oldest[-1], multiple=True)
            for tag in sorted(here.difference(oldest)):
                channel.basic_ack(tag)
            session.serve(0)
        session.forget(*here)
        for each in deliveries:
            self._remove_note(each.token)
        return in_time

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        """Return when the lock must be looked at again. Raises LockLost.

        The receiving thread answers the heartbeats of RabbitMQ, so no lock is renewed while this
        thread hangs.
        """
        del timeout_seconds
        session = delivery.handle.session
        if not session.is_open:
            raise LockLost(_ENDED)
        if time.monotonic() - session.served_at > HEARTBEAT_SECONDS:
            raise BrokerUnavailable("the thread that receives messages does not answer RabbitMQ")
        return utc_now() + timedelta(seconds=self._lock_seconds)

    def forget_token(self, delivery: LockedMessage) -> None:
        """Give a message back whose lock is lost in this process, so that it is delivered again."""
        self._remove_note(delivery.token)
        handle: _Delivery = delivery.handle
        if self._connection is None or not self._connection.has(handle):
            return
        with self._use_connection() as session:
            session.channel.basic_nack(handle.tag, requeue=True)
        session.forget(handle.tag)

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return one message if messages wait, with the time at which this was first seen."""
        del from_sequence_number, count
        self.connect()
        with self._use_connection() as session:
            found: Any = session.channel.queue_declare(self._queue, passive=True)
        if not found.method.message_count:
            self._waits_since = None
            return []
        self._waits_since = self._waits_since or utc_now()
        return [Peeked(_LAST_NUMBER, self._waits_since)]

    def _open(self) -> _Session:
        connection = connect(self._parameters)
        try:
            dead = dead_queue(self._queue)
            if dead in self._declarations:
                declare(connection, dead, self._declarations[dead]).close()
            channel = declare(connection, self._queue, self._declarations.get(self._queue))
        except (BrokerUnavailable, *ERRORS):
            with suppress(*ERRORS):
                connection.close()
            raise
        return _Session(connection, channel)

    def _close(self, connection: _Session) -> None:
        connection.is_open = False
        for delivery in connection.arrived:
            self._remove_note(delivery.token)
        # Private: for each consumer that is left here, pika would reject what has arrived.
        connection.channel._consumer_infos.clear()
        self._publisher.close()
        if connection.connection.is_open:
            connection.connection.close()

    def _take_back(self, left: dict[bytes, LeftMessage]) -> None:
        # RabbitMQ itself delivers them again.
        for token in left:
            self._remove_note(token)
        self._left |= left

    def _describe(self, error: BaseException) -> str:
        return describe(error)

    def _consume(self, session: _Session, limit: int, room: int) -> None:
        """Let so many messages arrive that there are `room`, or `limit` if `room` is 0.

        A consumer costs about two milliseconds. So with `room`, a few more or less are accepted:
        the consumers receive as many as the worker once had room for.
        """
        slack = session.prefetch // 2 if room else 0
        room = max(1, min(max(limit, room), _MOST_PREFETCHED))
        surplus = session.may_arrive_count - room
        if surplus > slack:
            self._cancel(session)
            self._release_arrived(session, room)
            surplus = len(session.arrived) - room
        if surplus < -slack or not session.may_arrive_count:
            self._add_consumer(session, -surplus)

    def _add_consumer(self, session: _Session, prefetch: int) -> None:
        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            delivery = _Delivery(
                session, method.delivery_tag, properties, body, _token(properties, body)
            )
            session.unsettled.add(delivery.tag)
            if method.consumer_tag in session.consumers:
                session.received.add(delivery.tag)
            session.arrived.append(delivery)
            self._note_arrival(delivery.token)

        # The consumer's tag is known before its first message arrives.
        tag = f"loosely-{next(self._numbers)}"
        session.consumers.append(tag)
        session.prefetch += prefetch
        session.channel.basic_qos(prefetch_count=prefetch)
        session.channel.basic_consume(self._queue, on_message, consumer_tag=tag)

    def _cancel(self, session: _Session) -> None:
        """Cancel the consumers, so that no delivery is counted that was not returned.

        If a message is on its way to a consumer that is cancelled, RabbitMQ counts its delivery and
        takes it back, and pika's public function rejects it. So this function first waits until
        none is on its way, and sends the request itself.
        """
        if not session.consumers:
            return
        self._await_arrivals(session)
        channel: Any = session.channel._impl
        confirmed: list[object] = []
        for consumer in session.consumers:
            channel._rpc(
                pika.spec.Basic.Cancel(consumer_tag=consumer),
                confirmed.append,
                [(pika.spec.Basic.CancelOk, {"consumer_tag": consumer})],
            )
        ends_at = time.monotonic() + TRY_SECONDS
        while len(confirmed) < len(session.consumers):
            if time.monotonic() > ends_at:
                raise OSError("RabbitMQ did not confirm that the consumers were cancelled")
            session.serve(0.05)
        session.consumers.clear()
        session.received.clear()
        session.prefetch = 0

    def _await_arrivals(self, session: _Session) -> None:
        """Wait until RabbitMQ has sent as many messages as the consumers may receive, or all."""
        ends_at = time.monotonic() + _ARRIVAL_SECONDS
        while session.prefetch > len(session.received) and time.monotonic() < ends_at:
            # RabbitMQ counts the messages after it has sent those that it could send.
            found: Any = session.channel.queue_declare(self._queue, passive=True)
            session.serve(0)
            if not found.method.message_count:
                return
            session.serve(_ARRIVAL_CHECK_SECONDS)

    def _release_arrived(self, session: _Session, kept_count: int) -> None:
        """Release messages that were not yet returned, except the oldest `kept_count`."""
        while len(session.arrived) > kept_count:
            delivery = self._returned(session.arrived.pop())
            self.settle_message(delivery, Settlement.RELEASE, "", "")

    def _publish_copy(self, delivery: LockedMessage, queue: str, changed: dict[str, Any]) -> bool:
        """Publish a copy with changed headers. Return whether RabbitMQ has confirmed it."""
        handle: _Delivery = delivery.handle
        given, headers = handle.properties, {**handle.headers, **delivery.properties, **changed}
        headers.pop(BROKERS_COUNT, None)
        expiration = None
        if queue == self._queue:
            expiration = expiration_of(time_left(headers, utc_now())) or given.expiration
        try:
            self._publisher.publish(
                queue,
                handle.body,
                pika.BasicProperties(
                    content_type=given.content_type,
                    headers=headers,
                    delivery_mode=pika.DeliveryMode.Persistent,
                    priority=HIGH_PRIORITY,
                    correlation_id=given.correlation_id,
                    message_id=given.message_id,
                    expiration=expiration,
                ),
            )
        except (BrokerUnavailable, ReplyForbidden) as error:
            _log.warning("queue %s: no copy of a message could be published: %s", queue, error)
            return False
        return True

    def _returned(self, delivery: _Delivery) -> LockedMessage:
        headers, token = delivery.headers, delivery.token
        count = whole(headers.get(BROKERS_COUNT))
        delivery_count = whole(headers.get(HEADER_DELIVERIES)) + count
        properties = properties_of(headers)
        history = earlier_deliveries(properties, delivery_count)
        if count:
            history, death = self._explain(token, count, history)
            properties |= death
        number = int.from_bytes(token[:7], "little")
        locked = LockedMessage(
            body=delivery.body if len(delivery.body) <= MAX_MESSAGE_BYTES else None,
            delivery_count=delivery_count,
            enqueued_at=from_milliseconds(headers.get(HEADER_ENQUEUED)) or _sent_at(delivery),
            locked_until=utc_now() + timedelta(seconds=self._lock_seconds),
            properties=properties,
            message_id=delivery.properties.message_id or "?",
            handle=delivery,
            queue=self._queue,
            sequence_number=number,
            token=token,
            history=history,
            journal=self.journal,
        )
        return self._note_read(locked, count + 1)

    def _explain(
        self, token: bytes, count: int, history: DeliveryHistory
    ) -> tuple[DeliveryHistory, dict[str, str]]:
        """Return what is known of a message that RabbitMQ has delivered `count` times before.

        The second value has the property that says how its last worker died, if this is known.
        """
        if token not in self._left:
            self._take_back(self._take_over_journals())
        left = self._left.pop(token, None)
        explained, death = 0, {}
        if left is not None:
            explained = max(1, min(left.sequence_number, count))
            if left.death is not None:
                death = {PROPERTY_WORKER_DEATH: str(left.death)}
            history = history.or_longer(left.history)
        # The first may be a lost connection, or the death of a worker on another machine. If the
        # job itself kills its workers, the next one shows it.
        for _ in range(count - explained - 1):
            history = history.add_death(ran_alone=True, is_crash=False)
        return history, death


def _token(properties: pika.BasicProperties, body: bytes) -> bytes:
    """Return a digest, because an id may have any length. Copies of a message have the same."""
    digest = hashlib.blake2b(digest_size=_TOKEN_BYTES)
    enqueued_at = (properties.headers or {}).get(HEADER_ENQUEUED)
    digest.update(repr((properties.message_id, enqueued_at)).encode())
    if properties.message_id is None:
        digest.update(body)
    return digest.digest()


def _sent_at(delivery: _Delivery) -> datetime | None:
    sent_at = delivery.properties.timestamp
    return datetime.fromtimestamp(sent_at, UTC) if isinstance(sent_at, int) else None
