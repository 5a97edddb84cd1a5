"""The queues of RabbitMQ, by aio-pika.

One channel publishes all messages, and many are on their way at the same time: each `send` waits
only for the confirmation of its own message. RabbitMQ confirms a message when most nodes of the
queue have written it.

RabbitMQ stops reading from a connection that publishes while it has too little memory or disk (an
alarm), and says so. Until it reads again, `send` fails at once. A second connection counts messages
and takes dead letters, because RabbitMQ still reads from a connection that does not publish. So an
alarm is only seen by a process that has sent a message during the alarm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    DeliveryError,
    PublishError,
)

from contract.brokers import BrokerMessage
from contract.catalogue import Catalogue
from contract.rabbitmq import dead_queue, declarations, headers_of, read_dead_message
from gateway.brokers.port import HandleLetter, MessageCounts, Queues
from gateway.clock import Clock, utc_now
from gateway.errors import NoAnswer, Unavailable, UnknownQueue

TRY_SECONDS: Final = 5.0
"""How long a call waits for a connection and for the answer."""

REFUSAL: Final = "an alarm of its memory or its disk is on"

_OPEN_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 2.0
_HEARTBEAT_SECONDS: Final = 10
_RETRY_SECONDS: Final = 0.2
_LETTERS_AT_ONCE: Final = 8
_PAUSE_SECONDS: Final = 1.0

_FAILURES = (*CONNECTION_EXCEPTIONS, TimeoutError)

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The library logs each failure, some with a traceback. Our callers get an error, and log that.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class RabbitQueues(Queues):
    """The queues of one virtual host. They are declared when they are first used."""

    broker_name = "RabbitMQ"
    can_see_oldest = False

    def __init__(self, url: str, catalogue: Catalogue, clock: Clock = utc_now) -> None:
        """Create the object, which connects when it is first used."""
        self._declarations = declarations(catalogue)
        self._clock = clock
        self._is_declared = False
        self._sending = _Connection(url, self._declare_all)
        self._looking = _Connection(url, self._declare_all)
        self._has_letters = True
        self._is_refused = False

    async def send(self, queue: str, message: BrokerMessage) -> None:
        """Send a message, and return when the queue has confirmed it. May raise UnknownQueue."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                await self._declare_if_missing(queue, lambda: self._publish(queue, message))
        except PublishError as error:
            raise UnknownQueue("queue", f"the queue {queue} does not exist") from error
        except DeliveryError as error:
            raise Unavailable("queue", f"RabbitMQ has refused a message for {queue}") from error
        except _FAILURES as error:
            raise Unavailable(
                "queue", f"sending a message to the queue {queue} failed: {error!r}"
            ) from error

    async def check(self, queue: str) -> None:
        """Check that RabbitMQ responds, and that it stores messages as far as is known."""
        await self.count(queue)
        self._sending.open_soon()
        await self._check_refusal()

    async def find_refusal(self) -> str | None:
        """Return whether an alarm blocks this process; None without a message in this alarm."""
        is_refused = await self._sending.is_blocked()
        if is_refused and not self._is_refused:
            _log.error("RabbitMQ stores no new messages: %s", REFUSAL)
        elif self._is_refused and not is_refused:
            _log.warning("RabbitMQ stores messages again")
        self._is_refused = is_refused
        return REFUSAL if is_refused else None

    async def oldest(self, queue: str) -> datetime | None:
        """Return None: RabbitMQ does not show a message without delivering it."""
        return None

    async def count(self, queue: str) -> MessageCounts:
        """Return how many messages wait. RabbitMQ does not say here how many are locked."""
        try:
            async with asyncio.timeout(TRY_SECONDS):
                waiting, dead = await asyncio.gather(
                    self._length(queue), self._length(dead_queue(queue))
                )
        except ChannelNotFoundEntity as error:
            raise UnknownQueue("queue", f"the queue {queue} does not exist") from error
        except _FAILURES as error:
            raise NoAnswer("queue", f"RabbitMQ does not respond: {error!r}") from error
        return MessageCounts(waiting, dead=dead)

    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        """Call `handle` for each dead letter of these queues, until this call is cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue in sorted(queues):
                group.create_task(self._watch(queue, handle))

    async def close(self) -> None:
        """Close all connections."""
        await self._sending.close()
        await self._looking.close()

    async def _check_refusal(self) -> None:
        refusal = await self.find_refusal()
        if refusal is not None:
            raise Unavailable("queue", f"RabbitMQ stores no new messages: {refusal}")

    async def _publish(self, queue: str, message: BrokerMessage) -> None:
        sent = aio_pika.Message(
            message.body,
            headers=headers_of(message, self._clock()),
            content_type=message.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            correlation_id=message.correlation_id,
            message_id=message.message_id,
            expiration=message.time_to_live,
        )
        channel = await self._sending.channel()
        await self._check_refusal()
        try:
            await channel.default_exchange.publish(sent, queue, mandatory=True)
        except ChannelInvalidStateError:
            # The connection ended before the message was sent.
            channel = await self._sending.channel()
            await channel.default_exchange.publish(sent, queue, mandatory=True)

    async def _length(self, queue: str) -> int:
        return await self._declare_if_missing(queue, lambda: self._passive_length(queue))

    async def _passive_length(self, queue: str) -> int:
        """Return the number of messages that wait in a queue.

        The channel is used once, because RabbitMQ closes it if the queue does not exist.
        """
        channel = await self._looking.new_channel()
        try:
            underlay = await channel.get_underlay_channel()
            return (await underlay.queue_declare(queue, passive=True)).message_count or 0
        finally:
            self._looking.close_soon(channel)

    async def _declare_if_missing(self, queue: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns. If somebody has deleted our queue, declare it before."""
        try:
            return await call()
        except (ChannelNotFoundEntity, PublishError):
            if queue not in self._declarations:
                raise
            await self._declare(await self._looking.connection(), [queue])
            return await call()

    async def _declare_all(self, connection: AbstractConnection) -> None:
        if not self._is_declared:
            await self._declare(connection, self._declarations)
            self._is_declared = True

    async def _declare(self, connection: AbstractConnection, queues: Iterable[str]) -> None:
        """Declare these queues. A queue that RabbitMQ has with other arguments stays as it is."""
        channel = await connection.channel(publisher_confirms=False)
        for queue in queues:
            if channel.is_closed:
                channel = await connection.channel(publisher_confirms=False)
            try:
                await channel.declare_queue(
                    queue, durable=True, arguments=self._declarations[queue]
                )
            except ChannelClosed as error:
                _log.warning(
                    "the queue %s is not as the catalogue describes it, and is used as it is: %s",
                    *(queue, error),
                )
        if not channel.is_closed:
            await channel.close()

    async def _watch(self, queue: str, handle: HandleLetter) -> None:
        while True:
            try:
                await self._declare_if_missing(
                    dead_queue(queue), lambda: self._take_letters(queue, handle)
                )
            except _FAILURES as error:
                if self._has_letters:
                    _log.warning("dead letters cannot be taken from RabbitMQ: %r", error)
                self._has_letters = False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _take_letters(self, queue: str, handle: HandleLetter) -> None:
        """Take dead letters of a queue until the channel ends, or the dead-letter queue."""
        is_cancelled = asyncio.Event()
        channel = await self._looking.new_channel()
        try:
            await channel.set_qos(_LETTERS_AT_ONCE)
            underlay = await channel.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: is_cancelled.set())
            source = await channel.get_queue(dead_queue(queue), ensure=False)
            await source.consume(_handler(queue, handle))
            if not self._has_letters:
                _log.info("dead letters are taken from RabbitMQ again")
            self._has_letters = True
            await _wait_for_first(channel.closed(), is_cancelled.wait())
        finally:
            self._looking.close_soon(channel)


class _Connection:
    """A connection that is opened again after it has ended, with one shared channel."""

    def __init__(
        self, url: str, prepare: Callable[[AbstractConnection], Coroutine[Any, Any, None]]
    ) -> None:
        self._url = url
        self._prepare = prepare
        self._found: tuple[AbstractConnection, AbstractChannel] | None = None
        self._opening: asyncio.Task[tuple[AbstractConnection, AbstractChannel]] | None = None
        self._opens_at = 0.0
        self._closing: set[asyncio.Task[None]] = set()

    async def channel(self) -> AbstractChannel:
        """Return the shared channel, which confirms and returns messages."""
        return (await self._open())[1]

    async def connection(self) -> AbstractConnection:
        """Return the open connection."""
        return (await self._open())[0]

    async def new_channel(self) -> AbstractChannel:
        """Return a new channel, for `close_soon`."""
        return await (await self.connection()).channel(publisher_confirms=False)

    async def is_blocked(self) -> bool:
        """Return whether RabbitMQ has said that it does not read from this connection."""
        connection = self._found[0] if self._is_open() and self._found else None
        if connection is None or connection.transport is None:
            return False
        try:
            async with asyncio.timeout(0):
                await connection.transport.connection.ready()
        except TimeoutError:
            return True
        return False

    def open_soon(self) -> None:
        """Open the connection in a task unless it is open."""
        if not self._is_open():
            self._start_opening()

    def close_soon(self, channel: AbstractChannel) -> None:
        """Close a channel in a task. RabbitMQ may be slow to confirm this."""
        if not channel.is_closed:
            self._keep(asyncio.create_task(_close_quietly(channel)))

    async def close(self) -> None:
        """Close the connection."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        found, self._found = self._found, None
        if found is not None:
            await _close_quietly(found[0])
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open(self) -> tuple[AbstractConnection, AbstractChannel]:
        if self._found is not None and self._is_open():
            return self._found
        # The others still need the connection if one caller is cancelled.
        return await asyncio.shield(self._start_opening())

    def _start_opening(self) -> asyncio.Task[tuple[AbstractConnection, AbstractChannel]]:
        """Return the task that opens the connection, or that has failed a moment ago."""
        now, opening = asyncio.get_running_loop().time(), self._opening
        if opening is not None and (not opening.done() or now < self._opens_at):
            return opening
        opening = self._opening = asyncio.create_task(self._connect())
        opening.add_done_callback(self._note_end)
        return opening

    def _note_end(self, opening: asyncio.Task[Any]) -> None:
        # Perhaps no caller waits any more for the error.
        has_failed = opening.cancelled() or opening.exception() is not None
        pause_seconds = _RETRY_SECONDS if has_failed else 0.0
        self._opens_at = asyncio.get_running_loop().time() + pause_seconds

    async def _connect(self) -> tuple[AbstractConnection, AbstractChannel]:
        ended, self._found = self._found, None
        if ended is not None:
            self._keep(asyncio.create_task(_close_quietly(ended[0])))
        connection = await aio_pika.connect(
            self._url, timeout=TRY_SECONDS, heartbeat=_HEARTBEAT_SECONDS
        )
        try:
            async with asyncio.timeout(_OPEN_SECONDS):
                await self._prepare(connection)
                channel = await connection.channel(on_return_raises=True)
        except BaseException:
            self._keep(asyncio.create_task(_close_quietly(connection)))
            raise
        self._found = connection, channel
        return self._found

    def _is_open(self) -> bool:
        return self._found is not None and not any(each.is_closed for each in self._found)

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _handler(
    queue: str, handle: HandleLetter
) -> Callable[[AbstractIncomingMessage], Coroutine[Any, Any, None]]:
    async def on_message(message: AbstractIncomingMessage) -> None:
        letter = read_dead_message(
            message.body,
            dict(message.headers or {}),
            message.message_id,
            message.correlation_id,
            message.content_type,
        )
        # If the channel has ended meanwhile, the letter is delivered again.
        with suppress(*_FAILURES):
            try:
                await handle(queue, letter)
            except Exception as error:  # noqa: BLE001 - the letter is delivered again
                _log.warning("dead letter %.100r is handled again: %r", letter.message_id, error)
                await asyncio.sleep(_PAUSE_SECONDS)
                await message.nack(requeue=True)
            else:
                await message.ack()

    return on_message


async def _wait_for_first(*calls: Awaitable[object]) -> None:
    """Return when one of the calls has ended, and cancel the others."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _close_quietly(opened: AbstractConnection | AbstractChannel) -> None:
    with suppress(*_FAILURES):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await opened.close()
