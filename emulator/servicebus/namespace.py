"""Connect AMQP links to the queues and topics of a broker, and check the access of peers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from uuid import UUID

from emulator.clock import UtcClock
from emulator.servicebus.accepted_sessions import (
    NON_EXCLUSIVE_FILTER,
    SESSION_FILTER,
    AcceptedSessions,
)
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.connection import IDLE_SECONDS, Connection
from emulator.servicebus.amqp.errors import LinkFault, MessageFault
from emulator.servicebus.amqp.link import (
    AttachDetails,
    DeliverySender,
    IncomingLink,
    Link,
    LinkSource,
    LinkTarget,
    SourceRequest,
)
from emulator.servicebus.amqp.outcomes import Accepted, Modified, Outcome, Rejected, Released
from emulator.servicebus.amqp.transport import Latency
from emulator.servicebus.broker.authorization import AccessRight
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.message import MessageDelivery, ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.cbs import CbsTokens
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.messages import encode_changes, read_messages, write_message
from emulator.servicebus.request_response import ReplyLinks, RequestTarget
from emulator.servicebus.tracking import add_tracking

CONTAINER_ID = "azure-local-emulator"

_CBS = "$cbs"
_MANAGEMENT = "/$management"


class Namespace:
    """A Service Bus namespace, which serves all queues and topics of a broker over AMQP."""

    def __init__(
        self,
        broker: Broker,
        policies: AccessPolicies,
        clock: UtcClock,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.faults = NamespaceFaults(clock)
        self._broker = broker
        self._policies = policies
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._connections: set[_TrackedConnection] = set()

    def connect(self) -> asyncio.Protocol:
        """Create the asyncio protocol for a new connection."""
        peer = self.peer(CbsTokens(self._policies, self._clock))
        latency = self.faults.latency
        return _TrackedConnection(self._connections, peer, self._idle_seconds, latency)

    def peer(self, tokens: CbsTokens) -> "_NamespaceConnection":
        """Return the object that serves one connection. `tokens` stores the tokens of the peer."""
        return _NamespaceConnection(self._broker, tokens, self.faults)

    def detach_links(self, queue: str | None = None) -> int:
        """Detach a queue's links or all, as Azure for maintenance; return their number."""

        def find_fault(link: Link) -> LinkFault | None:
            if not _belongs_to(link.address, queue):
                return None
            return _detached(link, "The service is undergoing maintenance.")

        return sum(each.detach_links(find_fault) for each in list(self._connections))

    def detach_disabled_links(self, queue: Queue) -> int:
        """Detach the links that a queue's new status forbids; return their number."""

        def find_fault(link: Link) -> LinkFault | None:
            entity, is_management = _split(link.address)
            if self._broker.find_owner(entity) is not queue:
                return None
            try:
                if is_management:
                    queue.check_enabled()
                elif isinstance(link, IncomingLink):
                    queue.check_sending()
                else:
                    queue.check_receiving()
            except BrokerError as error:
                return LinkFault(error.condition, add_tracking(str(error), entity))
            return None

        return sum(each.detach_links(find_fault) for each in list(self._connections))

    def detach_idle_links(self) -> int:
        """Detach the links that were idle for too long; return their number."""
        limit_seconds = self.faults.idle_link_seconds
        if limit_seconds is None:
            return 0
        idle_since = asyncio.get_running_loop().time() - limit_seconds
        text = f"IdleTimerExpired: Idle timeout: {timedelta(seconds=limit_seconds)}."

        def find_fault(link: Link) -> LinkFault | None:
            if link.used_at > idle_since or not _belongs_to(link.address, None):
                return None
            return _detached(link, text)

        return sum(each.detach_links(find_fault) for each in list(self._connections))

    async def delete_idle(self) -> None:
        """Delete the queues, topics and subscriptions that were idle for too long."""
        await self._broker.delete_idle()

    def close(self) -> None:
        """Close all connections, and inform each peer that the server is shutting down."""
        for connection in list(self._connections):
            connection.shut_down()


def _belongs_to(address: str, queue: str | None) -> bool:
    if address == _CBS:
        return False
    return queue is None or f"{address}/".casefold().startswith(f"{queue}/".casefold())


def _detached(link: Link, details: str) -> LinkFault:
    text = f"The link '{link.name}' is force detached. Details: {details}"
    return LinkFault("amqp:link:detach-forced", add_tracking(text, link.address))


class _TrackedConnection(Connection):
    """A connection that is in the set `open_connections` from its start until it is lost.

    `open_connections` is an argument of the constructor. The namespace uses the set to find all
    connections.
    """

    def __init__(
        self,
        open_connections: "set[_TrackedConnection]",
        peer: "_NamespaceConnection",
        idle_seconds: float,
        latency: Latency,
    ) -> None:
        super().__init__(peer, CONTAINER_ID, idle_seconds, latency)
        self._open_connections = open_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._open_connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_connections.discard(self)
        super().connection_lost(exc)


class _NamespaceConnection:
    """Authenticates the peer of one connection, and opens the links of this connection."""

    def __init__(self, broker: Broker, tokens: CbsTokens, faults: NamespaceFaults) -> None:
        self._broker = broker
        self._tokens = tokens
        self._faults = faults
        self._replies = ReplyLinks()
        self._accepted_sessions = AcceptedSessions()

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Return whether this SASL response permits the peer to connect."""
        return self._tokens.authenticate(mechanism, response)

    def open_target(self, address: str) -> LinkTarget:
        """Return the target of the peer's messages to this address. Raises LinkFault."""
        if address == _CBS:
            return RequestTarget(address, self._tokens.handle, self._replies)
        entity, is_management = _split(address)
        # As in Azure, the management node requires Listen, even to schedule a message.
        right = AccessRight.LISTEN if is_management else AccessRight.SEND
        rights = self._check_access(address, right)
        queue = self._queue(entity)
        if is_management:
            with _refuse_link(entity):
                queue.check_enabled()
            handle = partial(manage, queue, self._faults, rights, self._accepted_sessions)
            return RequestTarget(address, handle, self._replies)
        if queue.is_subqueue:
            raise LinkFault(
                "amqp:not-allowed",
                f"messages cannot be sent to {entity!r}, which is a dead-letter queue",
            )
        with _refuse_link(entity):
            queue.check_sending()
        return QueueLinkTarget(queue, self._faults)

    def open_source(
        self, requested: SourceRequest, sender: DeliverySender
    ) -> LinkSource | asyncio.Future[LinkSource]:
        """Return the source for the peer, or a future of it for the next session.

        Raises LinkFault if the peer may not receive messages from the requested address.
        """
        if requested.address == _CBS:
            return self._replies.open(_CBS, requested.reply_address, sender)
        entity, is_management = _split(requested.address)
        self._check_access(requested.address, AccessRight.LISTEN)
        queue = self._queue(entity)
        if is_management:
            return self._replies.open(requested.address, requested.reply_address, sender)
        if any(str(name).startswith(NON_EXCLUSIVE_FILTER) for name in requested.filters):
            raise LinkFault(
                "amqp:not-implemented",
                "non-exclusive locks on message sessions are not supported: accept the session "
                "exclusively",
            )
        with _refuse_link(entity):
            if SESSION_FILTER in requested.filters:
                open_source = partial(QueueLinkSource, queue, sender, requested.is_presettled)
                return self._accepted_sessions.open(queue, requested, sender, open_source)
            return QueueLinkSource(queue, sender, requested.is_presettled)

    def _check_access(self, address: str, right: AccessRight) -> frozenset[AccessRight]:
        # The JavaScript client sends a token for the whole address of a queue's management node.
        rights = self._tokens.check_access(address, right)
        self._faults.check_link(address)
        return rights

    def _queue(self, entity: str) -> Queue:
        with _refuse_link(entity):
            return self._broker.queue(entity)


@contextmanager
def _refuse_link(entity: str) -> Iterator[None]:
    """Convert an error of the broker during the `with` block to a LinkFault."""
    try:
        yield
    except BrokerError as error:
        raise LinkFault(error.condition, add_tracking(str(error), entity)) from error


def _split(address: str) -> tuple[str, bool]:
    if address.casefold().endswith(_MANAGEMENT):
        return address[: -len(_MANAGEMENT)], True
    return address, False


_TAG_FOR_DELETED = b"\x00" * 16
_REASON = "DeadLetterReason"
_DESCRIPTION = "DeadLetterErrorDescription"


def _as_message_fault(error: BrokerError, entity: str) -> MessageFault:
    """Convert an error of the broker to an AMQP error. `entity` is the address of the queue."""
    return MessageFault(error.condition, add_tracking(str(error), entity), error.status_code)


class QueueLinkTarget:
    """The target of a link on which a peer sends messages to a queue."""

    def __init__(self, queue: Queue, faults: NamespaceFaults) -> None:
        self._queue = queue
        self._faults = faults
        self.max_message_bytes = queue.settings.max_message_bytes

    async def put(self, payload: bytes, message_format: int) -> None:
        """Store a message or batch in the queue, or none of it with MessageFault."""
        self._faults.check_message(self._queue.address)
        try:
            await self._queue.send(read_messages(payload, message_format))
        except BrokerError as error:
            raise _as_message_fault(error, self._queue.address) from error


class QueueLinkSource:
    """The source of a link on which a peer receives messages from a queue."""

    attach_details: AttachDetails | None = None

    def __init__(
        self,
        queue: Queue,
        sender: DeliverySender,
        is_presettled: bool,
        session_lock: MessageSessionLock | None = None,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self.is_presettled = is_presettled
        self._session_lock = session_lock
        mode = ReceiveMode.RECEIVE_AND_DELETE if is_presettled else ReceiveMode.PEEK_LOCK
        self._subscription = queue.subscribe(mode, self._deliver, session_lock)

    def set_credit(self, credit: int) -> None:
        """Set how many messages the queue may still deliver on this link."""
        self._subscription.set_credit(credit)

    def close(self) -> None:
        """Stop deliveries on this link. Delivered messages stay locked."""
        self._subscription.close()

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Settle a message with the receiver's outcome. Raises MessageFault if refused."""
        token = UUID(bytes_le=tag)
        try:
            if self._session_lock is not None:
                self._queue.check_session_lock(self._session_lock)
            await self._apply(token, outcome)
        except BrokerError as error:
            raise _as_message_fault(error, self._queue.address) from error

    async def _apply(self, token: UUID, outcome: Outcome) -> None:
        match outcome:
            case Accepted():
                await self._queue.complete(token)
            case Released():
                await self._queue.release(token)
            case Rejected(info=info):
                further = {key: info[key] for key in info if key not in (_REASON, _DESCRIPTION)}
                reason, description = _text(info.get(_REASON)), _text(info.get(_DESCRIPTION))
                await self._queue.dead_letter(token, reason, description, encode_changes(further))
            case Modified(undeliverable_here=True, annotations=changes):
                await self._queue.defer(token, encode_changes(changes))
            case Modified(annotations=changes):
                await self._queue.abandon(token, encode_changes(changes))

    def _deliver(self, delivery: MessageDelivery) -> None:
        token = delivery.lock_token
        # The tag is the lock token in the byte order of a .NET GUID, because clients expect this
        # order.
        tag = _TAG_FOR_DELETED if token is None else token.bytes_le
        self._sender.send(tag, write_message(delivery.message, token, delivery.locked_until))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
