"""The namespace: which address stands for what, and who may use it."""

import asyncio
from collections.abc import Mapping
from functools import partial

from emulator.servicebus.amqp.connection import IDLE_SECONDS, Connection
from emulator.servicebus.amqp.node import Outlet, Sink, Source, SourceTerms
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import Clock
from emulator.servicebus.broker.errors import BrokerError
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.cbs import Claims
from emulator.servicebus.entity import QueueSink, QueueSource
from emulator.servicebus.errors import LinkFault
from emulator.servicebus.management import manage
from emulator.servicebus.requests import Replies, RequestSink

CONTAINER_ID = "loosely-servicebus"

_CBS = "$cbs"
_MANAGEMENT = "/$management"
_SESSION_FILTER = "com.microsoft:session-filter"


class Namespace:
    """All queues of a broker, for AMQP connections."""

    def __init__(
        self,
        broker: Broker,
        keys: Mapping[str, str],
        clock: Clock,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._broker = broker
        self._keys = keys
        self._clock = clock
        self._idle_seconds = idle_seconds
        self._connections: set[_ListedConnection] = set()

    def connect(self) -> asyncio.Protocol:
        """Return the protocol for a new connection."""
        peer = _Visitor(self._broker, Claims(self._keys, self._clock))
        return _ListedConnection(self._connections, peer, self._idle_seconds)

    def close(self) -> None:
        """Tell all peers that the server stops."""
        for connection in list(self._connections):
            connection.shut_down()


class _ListedConnection(Connection):
    """Is in the namespace's list for as long as it lives."""

    def __init__(
        self, listed: "set[_ListedConnection]", peer: "_Visitor", idle_seconds: float
    ) -> None:
        super().__init__(peer, CONTAINER_ID, idle_seconds)
        self._listed = listed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._listed.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listed.discard(self)
        super().connection_lost(exc)


class _Visitor:
    """The namespace, as one connection may see it."""

    def __init__(self, broker: Broker, claims: Claims) -> None:
        self._broker = broker
        self._claims = claims
        self._replies = Replies()

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Let the peer in, perhaps."""
        return self._claims.authenticate(mechanism, response)

    def sink(self, address: str) -> Sink:
        """Return what takes messages at an address; raises LinkFault."""
        if address == _CBS:
            return RequestSink(address, self._claims.answer, self._replies)
        entity, is_management = _split(address)
        queue = self._queue(entity)
        if is_management:
            return RequestSink(address, partial(manage, queue), self._replies)
        if queue.is_subqueue:
            raise LinkFault("amqp:not-allowed", f"messages cannot be sent to {entity!r}")
        return QueueSink(queue)

    def source(self, terms: SourceTerms, outlet: Outlet) -> Source:
        """Return what gives messages of an address; raises LinkFault."""
        if terms.address == _CBS:
            return self._replies.open(_CBS, terms.reply_address, outlet)
        entity, is_management = _split(terms.address)
        queue = self._queue(entity)
        if is_management:
            return self._replies.open(terms.address, terms.reply_address, outlet)
        if _SESSION_FILTER in terms.filters:
            raise LinkFault(
                "amqp:not-allowed",
                f"a session cannot be accepted: {entity!r} does not have sessions",
            )
        return QueueSource(queue, outlet, presettled=terms.presettled)

    def _queue(self, entity: str) -> Queue:
        self._claims.check(entity)
        try:
            return self._broker.queue(entity)
        except BrokerError as error:
            raise LinkFault(error.condition, str(error)) from error


def _split(address: str) -> tuple[str, bool]:
    if address.casefold().endswith(_MANAGEMENT):
        return address[: -len(_MANAGEMENT)], True
    return address, False
