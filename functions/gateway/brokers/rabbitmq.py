"""The queues of RabbitMQ, by aio-pika.

One channel publishes all messages, and many are on their way at the same time: each `send` waits
only for the confirmation of its own message. RabbitMQ confirms a message when most nodes of the
queue have written it. Other connections count messages and take dead letters, because RabbitMQ
stops reading from connections that publish while it has too little memory or disk (an alarm).
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, DeliveryError, PublishError

from contract.brokers import BrokerMessage
from contract.catalogue import Catalogue
from contract.rabbitmq import (
    dead_queue,
    declarations,
    headers_of,
    read_dead_message,
)
from gateway.brokers.port import HandleLetter, MessageCounts, Queues
from gateway.clock import Clock, utc_now
from gateway.errors import NoAnswer, Unavailable, UnknownQueue

TRY_SECONDS: Final = 5.0
"""How long to wait for a connection, or for the answer to a request."""

_HEARTBEAT_SECONDS: Final = 20
_LETTERS_AT_ONCE: Final = 8
_PAUSE_SECONDS: Final = 1.0

# RuntimeError is raised for a channel or a connection that has been closed meanwhile.
_FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError, ssl.SSLError)

_log = logging.getLogger(__name__)


class RabbitQueues(Queues):
    """The queues of one virtual host. They are declared when a connection is opened."""

    def __init__(self, url: str, catalogue: Catalogue, clock: Clock = utc_now) -> None:
        """Create the object, which connects when it is first used."""
        self._url = url
        self._declarations = declarations(catalogue)
        self._clock = clock
        self._sending = _Connection(self._open_sending)
        self._looking = _Connection(self._open_looking)

    async def send(self, queue: str, message: BrokerMessage) -> None:
        """Send a message, and return when the queue has confirmed it. May raise UnknownQueue."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                channel = await self._sending.channel()
                await channel.default_exchange.publish(
                    aio_pika.Message(
                        message.body,
                        headers=headers_of(message, self._clock()),
                        content_type=message.content_type,
                        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                        correlation_id=message.correlation_id,
                        message_id=message.message_id,
                        expiration=message.time_to_live,
                    ),
                    queue,
                    mandatory=True,
                )
        except PublishError as error:
            raise UnknownQueue("queue", f"the queue {queue} does not exist") from error
        except DeliveryError as error:
            raise Unavailable("queue", f"RabbitMQ has refused a message for {queue}") from error
        except _FAILURES as error:
            raise Unavailable(
                "queue", f"sending a message to the queue {queue} failed: {error!r}"
            ) from error

    async def check(self, queue: str) -> None:
        """Check that RabbitMQ responds. An alarm does not show here."""
        await self.count(queue)

    async def oldest(self, queue: str) -> datetime | None:
        """Return None: RabbitMQ does not show a message without delivering it."""
        return None

    async def count(self, queue: str) -> MessageCounts:
        """Return how many messages wait. RabbitMQ does not say here how many are locked."""
        waiting, dead = await asyncio.gather(self._length(queue), self._length(dead_queue(queue)))
        return MessageCounts(waiting, dead=dead)

    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        """Call `handle` for each dead letter of these queues, until this call is cancelled."""
        is_available = True
        while True:
            try:
                async with self._connected() as connection:
                    is_available = True
                    await self._take_letters(connection, queues, handle)
            except _FAILURES as error:
                if is_available:
                    _log.warning("dead letters cannot be taken from RabbitMQ: %r", error)
                is_available = False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self) -> None:
        """Close all connections."""
        await self._sending.close()
        await self._looking.close()

    async def _take_letters(
        self, connection: AbstractConnection, queues: Collection[str], handle: HandleLetter
    ) -> None:
        """Take dead letters until the connection ends."""
        channel = await connection.channel()
        await self._declare(channel)
        await channel.set_qos(_LETTERS_AT_ONCE)
        for queue in sorted(queues):
            source = await channel.get_queue(dead_queue(queue), ensure=False)
            await source.consume(_handler(queue, handle))
        with suppress(AMQPError):
            await channel.closed()

    async def _length(self, queue: str) -> int:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                channel = await self._looking.channel()
                found = await channel.declare_queue(queue, passive=True)
        except ChannelNotFoundEntity as error:
            # This has closed the channel.
            raise UnknownQueue("queue", f"the queue {queue} does not exist") from error
        except _FAILURES as error:
            raise NoAnswer("queue", f"RabbitMQ does not respond: {error!r}") from error
        return found.declaration_result.message_count or 0

    async def _open_sending(self) -> tuple[AbstractConnection, AbstractChannel]:
        connection = await self._connect()
        channel = await connection.channel(on_return_raises=True)
        await self._declare(channel)
        return connection, channel

    async def _open_looking(self) -> tuple[AbstractConnection, AbstractChannel]:
        connection = await self._connect()
        return connection, await connection.channel(publisher_confirms=False)

    async def _connect(self) -> AbstractConnection:
        return await aio_pika.connect(self._url, timeout=TRY_SECONDS, heartbeat=_HEARTBEAT_SECONDS)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AbstractConnection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            await _close_quietly(connection)

    async def _declare(self, channel: AbstractChannel) -> None:
        for name, arguments in self._declarations.items():
            await channel.declare_queue(name, durable=True, arguments=_typed(arguments))


class _Connection:
    """A connection with one channel, which is opened again after it has ended."""

    def __init__(self, open_channel: Callable[[], Any]) -> None:
        self._open = open_channel
        self._lock = asyncio.Lock()
        self._found: tuple[AbstractConnection, AbstractChannel] | None = None

    async def channel(self) -> AbstractChannel:
        """Return the open channel. Only one caller opens it, and the others wait."""
        if (channel := self._opened()) is not None:
            return channel
        async with self._lock:
            if (channel := self._opened()) is not None:
                return channel
            await self.close()
            self._found = await self._open()
            return self._found[1]

    async def close(self) -> None:
        """Close the connection."""
        found, self._found = self._found, None
        if found is not None:
            await _close_quietly(found[0])

    def _opened(self) -> AbstractChannel | None:
        if self._found is None:
            return None
        connection, channel = self._found
        return None if connection.is_closed or channel.is_closed else channel


def _handler(queue: str, handle: HandleLetter) -> Callable[[AbstractIncomingMessage], Any]:
    async def on_message(message: AbstractIncomingMessage) -> None:
        letter = read_dead_message(
            message.body,
            _plain(message.headers),
            message.message_id,
            message.correlation_id,
            message.content_type,
        )
        try:
            await handle(queue, letter)
        except Exception as error:  # noqa: BLE001 - the letter is delivered again
            _log.warning("dead letter %.100r: it is handled again: %r", letter.message_id, error)
            await asyncio.sleep(_PAUSE_SECONDS)
            await message.nack(requeue=True)
        else:
            await message.ack()

    return on_message


def _plain(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return headers with the types that the contract knows."""
    return dict(headers or {})


def _typed(arguments: Mapping[str, object]) -> dict[str, Any]:
    return dict(arguments)


async def _close_quietly(connection: AbstractConnection) -> None:
    with suppress(*_FAILURES):
        async with asyncio.timeout(2):
            await connection.close()
