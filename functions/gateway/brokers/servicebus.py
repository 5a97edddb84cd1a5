"""A client of Service Bus that sends messages and counts the messages in a queue.

The client keeps one open sender for each queue to which it sends, and one open receiver for each
queue at which it peeks. It replaces those that have failed. Messages that wait while a batch is
being sent are sent together as the next batch.

The client counts messages with the management API. In Azure, this requires the access right Manage
on the queues, or the role Azure Service Bus Data Owner. An emulator serves this API over plain http
at SERVICE_BUS_ADMIN_URL. For such a URL, the client replaces the SDK's transport, because version
7.15.0 of the SDK always uses https.
"""

import asyncio
import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import azure.functions as func
from azure.core.exceptions import AzureError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.aio.management import ServiceBusAdministrationClient
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    ServiceBusAuthorizationError,
    ServiceBusError,
    ServiceBusServerBusyError,
)

from contract.brokers import BrokerMessage, DeadMessage
from contract.settings import AzureEndpoint
from gateway.brokers.port import HandleLetter, MessageCounts, Queues
from gateway.errors import NoAnswer, Unavailable, UnknownQueue

_SEND_TIMEOUT_SECONDS = 5.0

BUSY_PAUSE_SECONDS: Final = 2.0
"""The pause before a throttled batch is sent again, for which Service Bus asks (error 50009)."""

BUSY_ATTEMPTS: Final = 3
"""How often a throttled batch is sent. After that, the `enqueue` activity sends the messages."""

PEEK_SECONDS: Final = 5.0
"""How long to wait for the answer to a peek, with the time to open its AMQP link."""

MAX_OPENING: Final = 100
"""How many AMQP links for peeks are opened at the same time, to all end within PEEK_SECONDS."""

MAX_BATCH_MESSAGES: Final = 100
MAX_BATCH_BYTES: Final = 200_000
"""The largest size in bytes of a batch of messages. The Standard tier permits 256 KiB."""

_MESSAGE_OVERHEAD_BYTES: Final = 500

_FAILURES = (ServiceBusError, OSError, TimeoutError)
_UNKNOWN = (MessagingEntityNotFoundError, ServiceBusAuthorizationError)

_log = logging.getLogger(__name__)


class ServiceBusQueues(Queues):
    """The queues of one Service Bus namespace.

    The Functions host passes dead letters to the app, through a trigger for each queue.
    """

    broker_name = "Service Bus"
    has_dead_letter_trigger = True

    def __init__(
        self,
        endpoint: AzureEndpoint,
        admin_url: str | None = None,
        early_queues: Collection[str] = (),
    ) -> None:
        """Create a client, which connects when it is first used.

        Without `admin_url`, the endpoint also serves the management API. The first successful check
        opens the senders of `early_queues`, so that the first job of a model does not wait for its
        sender.
        """
        self._endpoint = endpoint
        self._early_queues = early_queues
        self._administration = Administration(endpoint, admin_url)
        self._client: ServiceBusClient | None = None
        self._senders: dict[str, BatchingSender] = {}
        self._peekers: dict[str, PeekLink] = {}
        self._opening = asyncio.Semaphore(MAX_OPENING)

    async def send(self, queue: str, message: BrokerMessage) -> None:
        """Send a message, and return when the queue has stored it. May raise UnknownQueue."""
        try:
            await self._sender(queue).send(message)
        except _UNKNOWN as error:
            raise UnknownQueue(
                "queue", f"the queue {queue} does not exist, or access is denied: {error!r}"
            ) from error
        except _FAILURES as error:
            raise Unavailable(
                "queue", f"sending a message to the queue {queue} failed: {error!r}"
            ) from error

    async def check(self, queue: str) -> None:
        """Check that the queue responds, by a peek, which locks no message."""
        await self.oldest(queue)
        early_queues, self._early_queues = self._early_queues, ()
        for each in early_queues:
            self._sender(each).open_soon()

    async def oldest(self, queue: str) -> datetime | None:
        """Return when the oldest message, locked or not, was enqueued; None if there is none.

        The link stays open for the next call.
        """
        peek_link = self._peekers.get(queue)
        if peek_link is None:
            peek_link = self._peekers[queue] = PeekLink(
                lambda: _open_without_pauses(self._connected().get_queue_receiver(queue)),
                self._opening,
            )
        try:
            return await peek_link.peek()
        except ServiceBusServerBusyError as error:
            raise Unavailable("queue", f"Service Bus throttles the requests: {error!r}") from error
        except _FAILURES as error:
            raise Unavailable("queue", f"peeking at the queue {queue} failed: {error!r}") from error

    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        """End at once, because the Functions host passes dead letters to the app."""

    async def count(self, queue: str) -> MessageCounts:
        """Return the numbers of messages in the queue."""
        return await self._administration.count(queue)

    async def close(self) -> None:
        """Close all connections."""
        await self._administration.close()
        while self._senders:
            await self._senders.popitem()[1].close()
        peek_links, self._peekers = self._peekers, {}
        await asyncio.gather(*(peek_link.close() for peek_link in peek_links.values()))
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _sender(self, queue: str) -> "BatchingSender":
        sender = self._senders.get(queue)
        if sender is None:
            sender = BatchingSender(
                lambda: _open_without_pauses(self._connected().get_queue_sender(queue))
            )
            self._senders[queue] = sender
        return sender

    def _connected(self) -> ServiceBusClient:
        if self._client is None:
            # Durable Functions repeats the whole activity, so the SDK need not retry for long.
            options = dict[str, Any](retry_total=1, retry_backoff_factor=0.2, retry_backoff_max=1)
            if self._endpoint.connection_string:
                self._client = ServiceBusClient.from_connection_string(
                    self._endpoint.connection_string, **options
                )
            else:
                from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow, rare

                self._client = ServiceBusClient(
                    self._endpoint.address or "", DefaultAzureCredential(), **options
                )
        return self._client


_Link = TypeVar("_Link", ServiceBusSender, ServiceBusReceiver)

# A message, and the future that the caller of `send` awaits.
_Waiting = tuple[BrokerMessage, "asyncio.Future[None]"]


class BatchingSender:
    """Sends messages to one queue. Messages that wait at the same time are sent as one batch.

    Only one task uses the SDK's sender. If two tasks used the sender, one task could receive the
    confirmation of a message that the other task has sent.
    """

    def __init__(
        self,
        make_sender: Callable[[], ServiceBusSender],
        busy_pause_seconds: float = BUSY_PAUSE_SECONDS,
    ) -> None:
        self._make_sender = make_sender
        self._busy_pause_seconds = busy_pause_seconds
        self._sender: ServiceBusSender | None = None
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None

    async def send(self, message: BrokerMessage) -> None:
        """Send a message, and return when the queue has stored it, or raise an SDK's error."""
        sent = asyncio.get_running_loop().create_future()
        self._waiting.append((message, sent))
        if self._task is None:
            self._task = asyncio.create_task(self._send_waiting())
        await sent

    def open_soon(self) -> None:
        """Open the SDK's sender in a task, unless messages are sent. `send` repeats it."""
        if self._task is None and self._sender is None:
            self._task = asyncio.create_task(self._send_waiting(opens_first=True))

    async def close(self) -> None:
        """Close the SDK's sender. Calls of `send` that still wait raise CancelledError."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._drop_sender()

    async def _open(self) -> None:
        try:
            self._sender = self._make_sender()
            async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
                await self._sender.__aenter__()
        except Exception as error:  # noqa: BLE001 - the next `send` opens the link, and raises this
            _log.info(
                "an AMQP link to a queue could not be opened (%r); the next send will try again",
                error,
            )
            await self._drop_sender()

    async def _send_waiting(self, *, opens_first: bool = False) -> None:
        try:
            if opens_first:
                await self._open()
            while batch := self._take_batch():
                await self._send_batch(batch)
        finally:
            self._task = None
            for _, sent in self._waiting:
                sent.cancel()
            self._waiting.clear()

    def _take_batch(self) -> list[_Waiting]:
        """Remove as many waiting messages as fit into one batch, and return them."""
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(batch) < MAX_BATCH_MESSAGES:
            message, sent = self._waiting[0]
            if sent.cancelled():
                self._waiting.popleft()
                continue
            size_bytes += len(message.body) + _MESSAGE_OVERHEAD_BYTES
            if batch and size_bytes > MAX_BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send_batch(self, batch: list[_Waiting]) -> None:
        """Send the messages as one batch, and end the `send` calls that wait for them."""
        error: BaseException | None = None
        try:
            await self._send_unless_busy([_encode(message) for message, _ in batch])
        except ServiceBusServerBusyError as raised:
            # The link is not affected. A new link would need more requests, which are throttled
            # too: an authorisation and an attach.
            error = raised
        except BaseException as raised:  # noqa: BLE001 - passed to the callers
            # After any other error, including a cancellation, the state of the link is unknown.
            error = raised
            await self._drop_sender()
        for _, sent in batch:
            if sent.done():
                continue
            if error is None:
                sent.set_result(None)
            elif isinstance(error, Exception):
                sent.set_exception(error)
            else:
                sent.cancel()
        if error is not None and not isinstance(error, Exception):
            raise error

    async def _send_unless_busy(self, messages: list[AmqpAnnotatedMessage]) -> None:
        """Send one or more messages. If the namespace is throttled, wait and try again.

        Messages that arrive during this time wait for the next batch, so that a throttled namespace
        gets few requests.
        """
        for attempt in range(1, BUSY_ATTEMPTS + 1):
            if self._sender is None:
                self._sender = self._make_sender()
            sender = self._sender
            try:
                content = messages[0] if len(messages) == 1 else await _make_batch(sender, messages)
                await sender.send_messages(content, timeout=_SEND_TIMEOUT_SECONDS)
            except ServiceBusServerBusyError:
                if attempt == BUSY_ATTEMPTS:
                    raise
                await asyncio.sleep(self._busy_pause_seconds)
            else:
                return

    async def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            await _close_quietly(sender)


class PeekLink:
    """Peeks at the oldest message of one queue. Calls at the same time share one peek."""

    def __init__(
        self, make_receiver: Callable[[], ServiceBusReceiver], opening: asyncio.Semaphore
    ) -> None:
        """Create a link, which a peek opens after it has acquired `opening`."""
        self._make_receiver = make_receiver
        self._opening = opening
        self._receiver: ServiceBusReceiver | None = None
        self._task: asyncio.Task[datetime | None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def peek(self) -> datetime | None:
        """Return when the oldest message was enqueued; None if there is none.

        Raises an error of the SDK, or TimeoutError after PEEK_SECONDS.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._peek())
        # The other callers still wait for this peek if one of them is cancelled.
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """Close the SDK's receiver."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._receiver is not None:
            await _close_quietly(self._receiver)
        if self._closing:
            await asyncio.wait(self._closing)

    async def _peek(self) -> datetime | None:
        try:
            async with self._opening if self._receiver is None else contextlib.nullcontext():
                receiver = self._receiver = self._receiver or self._make_receiver()
                async with asyncio.timeout(PEEK_SECONDS):
                    # Without a number, the SDK continues after the last message that was peeked.
                    peeked = await receiver.peek_messages(max_message_count=1, sequence_number=1)
            return peeked[0].enqueued_time_utc if peeked else None
        except ServiceBusServerBusyError:
            raise  # the link is not affected
        except BaseException:
            failed, self._receiver = self._receiver, None
            if failed is not None:
                # A receiver that does not respond also closes slowly, and nobody waits for this.
                closing = asyncio.create_task(_close_quietly(failed))
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
            raise
        finally:
            self._task = None


def _open_without_pauses(link: _Link) -> _Link:
    """Let the SDK open the link without its pauses, which take 0.4 s. Return the link.

    The SDK calls the private function `client_ready_async` until the link is open. Each call waits
    for one of the about eight frames, and after each call the SDK sleeps for 50 ms.
    """
    sdk_link: Any = link
    create_handler = sdk_link._create_handler

    def create(auth: Any) -> None:
        create_handler(auth)
        handler = sdk_link._handler
        is_ready = handler.client_ready_async

        async def wait_until_ready() -> bool:
            while not await is_ready():
                pass  # the SDK cancels this at its time limit
            del handler.client_ready_async
            return True

        handler.client_ready_async = wait_until_ready

    sdk_link._create_handler = create
    return link


async def _close_quietly(handler: ServiceBusSender | ServiceBusReceiver) -> None:
    try:
        async with asyncio.timeout(2):
            await handler.close()
    except _FAILURES:
        pass  # it is being closed because it has failed


_TIMEOUT_SECONDS: Final = 2
_ENDPOINT: Final = re.compile(r"(?<![^;])Endpoint=sb://[^;]*", re.IGNORECASE)
_EMULATOR: Final = re.compile(r"(?<![^;])UseDevelopmentEmulator=true", re.IGNORECASE)


class Administration:
    """A client of the management API of a Service Bus namespace."""

    def __init__(self, endpoint: AzureEndpoint, url: str | None = None) -> None:
        """Create a client. Without `url`, the endpoint serves the management API."""
        self._endpoint = endpoint
        self._url = url
        self._client: ServiceBusAdministrationClient | None = None

    async def count(self, queue: str) -> MessageCounts:
        """Return the numbers of messages in the queue, or raise Unavailable."""
        try:
            self._client = self._client or self._connect()
            found = await self._client.get_queue_runtime_properties(queue)
            active = found.active_message_count
        # The SDK's XML reader raises the last three errors for an invalid response.
        except (AzureError, OSError, ValueError, SyntaxError, AttributeError) as error:
            is_answer = not isinstance(error, OSError | ServiceRequestError | ServiceResponseError)
            raise (Unavailable if is_answer else NoAnswer)(
                "queue", f"the messages in the queue {queue} cannot be counted: {error!r}"
            ) from error
        if active is None:
            raise Unavailable(
                "queue",
                f"the messages in the queue {queue} cannot be counted: the response contains no "
                "number",
            )
        return MessageCounts(
            active, found.scheduled_message_count or 0, found.dead_letter_message_count or 0
        )

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connect(self) -> ServiceBusAdministrationClient:
        seconds = _TIMEOUT_SECONDS
        options = dict[str, Any](retry_total=0, connection_timeout=seconds, read_timeout=seconds)
        given = self._endpoint.connection_string
        if given is None:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415 - slow, and rare

            return ServiceBusAdministrationClient(
                self._endpoint.address or "", DefaultAzureCredential(), **options
            )
        if self._url is None:
            if _EMULATOR.search(given):
                raise Unavailable(
                    "queue",
                    "the messages cannot be counted: SERVICE_BUS_ADMIN_URL is not set; set it to "
                    "the URL of the Service Bus emulator's management API",
                )
            return ServiceBusAdministrationClient.from_connection_string(given, **options)
        url = urlsplit(self._url)
        if url.scheme == "http":
            options["transport"] = _PlainTransport(**options)
        elsewhere = _ENDPOINT.sub(lambda _: f"Endpoint=sb://{url.netloc}", given)
        return ServiceBusAdministrationClient.from_connection_string(elsewhere, **options)


class _PlainTransport(AioHttpTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """An HTTP transport that sends requests over http, although the client's URLs have https."""

    async def send(self, request: Any, **config: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return await super().send(request, **config)


async def _make_batch(
    sender: ServiceBusSender, messages: list[AmqpAnnotatedMessage]
) -> ServiceBusMessageBatch:
    # If `send_messages` gets a list, it converts each message twice.
    batch = await sender.create_message_batch()
    for message in messages:
        batch.add_message(message)
    return batch


def _encode(message: BrokerMessage) -> AmqpAnnotatedMessage:
    # `ServiceBusMessage` is encoded to the same bytes, but sets each property twice.
    # The SDK sends whole seconds, and adds the time of creation and of expiry.
    lifetime = message.time_to_live
    lifetime_ms = None if lifetime is None else int(lifetime.total_seconds()) * 1000
    return AmqpAnnotatedMessage(
        data_body=message.body,
        header={"time_to_live": lifetime_ms},
        properties={
            "message_id": message.message_id,
            "correlation_id": message.correlation_id,
            "content_type": message.content_type,
        },
        application_properties=dict(message.properties) or None,
    )


# Service Bus writes the reason into the message's application properties. In Azure, the attributes
# with these names of azure.functions' message are empty.
_REASON: Final = "DeadLetterReason"
_DESCRIPTION: Final = "DeadLetterErrorDescription"


def read_dead_letter(message: func.ServiceBusMessage) -> DeadMessage:
    """Return the dead letter that the Functions host has passed to the app."""
    properties = message.application_properties or {}
    reason, description = properties.get(_REASON), properties.get(_DESCRIPTION)
    enqueued_at = message.enqueued_time_utc
    if enqueued_at is not None and enqueued_at.tzinfo is None:
        enqueued_at = enqueued_at.replace(tzinfo=UTC)
    return DeadMessage(
        message.get_body(),
        # A producer need not set an id.
        message.message_id or f"sequence-number-{message.sequence_number}",
        message.correlation_id,
        reason if isinstance(reason, str) else None,
        description if isinstance(description, str) else None,
        message.delivery_count,
        enqueued_at,
        message.content_type,
        properties,
    )
