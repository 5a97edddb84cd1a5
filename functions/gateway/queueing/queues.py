"""Service Bus: one connection, one open sender a queue, replaced when it fails."""

import asyncio
from datetime import datetime
from typing import Any, Protocol

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)

from gateway.errors import Unavailable, UnknownQueue
from gateway.queueing.administration import Administration
from gateway.settings import Endpoint

_SEND_TIMEOUT_SECONDS = 5.0
_FAILURES = (ServiceBusError, OSError, TimeoutError)
_UNKNOWN = (MessagingEntityNotFoundError, ServiceBusAuthorizationError)


class Queues(Protocol):
    """What the gateway asks of the queues. Each verb raises Unavailable."""

    async def send(self, queue: str, message: ServiceBusMessage) -> None:
        """Send; when this returns, the queue has it. UnknownQueue where there is none."""

    async def check(self, queue: str) -> None:
        """Return if the queue answers."""

    async def oldest(self, queue: str) -> datetime | None:
        """When the oldest message came, also one that a worker holds; None for an empty queue."""

    async def length(self, queue: str) -> int:
        """How many messages the queue has, also those that workers hold."""


class ServiceBusQueues:
    """The queues of one Service Bus namespace."""

    def __init__(self, endpoint: Endpoint, admin_url: str | None = None) -> None:
        """`admin_url` is where the management API is, if not where the namespace is."""
        self._endpoint = endpoint
        self._administration = Administration(endpoint, admin_url)
        self._client: ServiceBusClient | None = None
        self._senders: dict[str, ServiceBusSender] = {}
        self._probe: ServiceBusReceiver | None = None
        self._locks: dict[str, asyncio.Lock] = {}

    async def send(self, queue: str, message: ServiceBusMessage) -> None:
        """See Queues."""
        # A sender reads its link's answers itself: two coroutines in it would steal each other's.
        async with self._locks.setdefault(queue, asyncio.Lock()):
            sender = self._senders.get(queue)
            if sender is None:
                sender = self._senders[queue] = self._connected().get_queue_sender(queue)
            try:
                await sender.send_messages(message, timeout=_SEND_TIMEOUT_SECONDS)
            except BaseException as error:
                # Whatever it was, also a cancellation in mid-send: the link's state is unknown.
                del self._senders[queue]
                await _close_quietly(sender)
                if isinstance(error, _UNKNOWN):
                    raise UnknownQueue("queue", f"{queue}: {error!r}") from error
                if isinstance(error, _FAILURES):
                    raise Unavailable("queue", f"send failed: {error!r}") from error
                raise

    async def check(self, queue: str) -> None:
        """See Queues. A peek is a round trip that takes nothing."""
        if self._probe is None:
            self._probe = self._connected().get_queue_receiver(queue)
        try:
            await self._probe.peek_messages(max_message_count=1)
        except BaseException as error:
            probe, self._probe = self._probe, None
            if probe is not None:
                await _close_quietly(probe)
            if isinstance(error, _FAILURES):
                raise Unavailable("queue", f"peek failed: {error!r}") from error
            raise

    async def oldest(self, queue: str) -> datetime | None:
        """See Queues. Once a minute is too seldom to keep a link open for."""
        receiver = self._connected().get_queue_receiver(queue)
        try:
            peeked = await receiver.peek_messages(max_message_count=1)
        except _FAILURES as error:
            raise Unavailable("queue", f"peek failed: {error!r}") from error
        finally:
            await _close_quietly(receiver)
        return peeked[0].enqueued_time_utc if peeked else None

    async def length(self, queue: str) -> int:
        """See Queues."""
        return await self._administration.length(queue)

    async def close(self) -> None:
        """Close what is open."""
        await self._administration.close()
        open_handlers: list[ServiceBusSender | ServiceBusReceiver] = [
            *self._senders.values(),
            *([self._probe] if self._probe else []),
        ]
        self._senders.clear()
        self._probe = None
        for handler in open_handlers:
            await _close_quietly(handler)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> ServiceBusClient:
        if self._client is None:
            # Durable repeats the whole activity; long retries in here would only hide that.
            options: dict[str, Any] = {
                "retry_total": 1,
                "retry_backoff_factor": 0.2,
                "retry_backoff_max": 1,
            }
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


async def _close_quietly(handler: ServiceBusSender | ServiceBusReceiver) -> None:
    try:
        async with asyncio.timeout(2):
            await handler.close()
    except _FAILURES:
        pass  # it is thrown away because it failed
