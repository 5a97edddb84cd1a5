"""A Service Bus message as the Functions host hands it to a function: body and trigger metadata.

Service Bus queue triggers: peek-lock with Microsoft's own SDK, one thread a message in flight.

A function that returns completes its message, one that raises abandons it; when the app process
goes, the message is left to its lock, and comes again.
"""

import asyncio
import concurrent.futures
import json
import logging
import random
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSubQueue,
)
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import MessageLockLostError

from emulator.functions.errors import AppUnavailable, FunctionFailure
from emulator.functions.settings import ServiceBusOptions

_TRACE_PROPERTIES = ("traceparent", "Diagnostic-Id")
_log = logging.getLogger("functions.servicebus")
_DEAD_LETTER_SUFFIX = "/$deadletterqueue"
_POLL_SECONDS = 1.0
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_IDLE_POLLS_OF_EXTRA = 30
_STOP_SECONDS = 8.0
_SHORTEST_RENEWAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a function is fired with."""

    body: bytes
    metadata: dict[str, Any]
    trace: list[str] | None


def read_delivery(message: ServiceBusReceivedMessage) -> Delivery:
    """Return a received message's body and its metadata: those that the .NET extension gives.

    azure.functions' converter would read more, such as `DeadLetterReason`, but never gets it.
    """
    properties = _plain(message.application_properties or {})
    metadata: dict[str, Any] = {
        "MessageId": message.message_id,
        "CorrelationId": message.correlation_id,
        "ContentType": message.content_type,
        # The .NET client, which the real host uses, counts the delivery that is under way.
        "DeliveryCount": (message.delivery_count or 0) + 1,
        "DeadLetterSource": message.dead_letter_source,
        "EnqueuedTimeUtc": _instant(message.enqueued_time_utc),
        "ExpiresAtUtc": _instant(message.expires_at_utc),
        "Label": message.subject,
        "LockToken": str(message.lock_token),
        "PartitionKey": message.partition_key,
        "ReplyTo": message.reply_to,
        "ReplyToSessionId": message.reply_to_session_id,
        "SequenceNumber": message.sequence_number,
        "SessionId": message.session_id,
        "Subject": message.subject,
        "To": message.to,
        "ApplicationProperties": properties,
        "UserProperties": properties,
    }
    parent = next((properties[name] for name in _TRACE_PROPERTIES if name in properties), None)
    trace = [str(parent), str(properties.get("tracestate", ""))] if parent else None
    return Delivery(_body(message), metadata, trace)


def _body(message: ServiceBusReceivedMessage) -> bytes:
    body: Any = message.body
    if message.body_type is AmqpMessageBodyType.DATA:
        return b"".join(body)
    if isinstance(body, (bytes, bytearray)):
        return bytes(body)
    if isinstance(body, str):
        return body.encode()
    value = body if message.body_type is AmqpMessageBodyType.VALUE else list(body)
    return json.dumps(_plain(value)).encode()


def _instant(value: datetime | None) -> str | None:
    """Return a time in the form that the converter parses."""
    return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(value: Any) -> Any:
    """Return an AMQP value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


Fire = Callable[[Delivery], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class QueueSource:
    """A queue, or its dead-letter queue, and how to reach it."""

    function: str
    queue: str
    is_dead_letter: bool
    connection_string: str = field(repr=False)

    def __str__(self) -> str:
        suffix = "/$DeadLetterQueue" if self.is_dead_letter else ""
        return f"{self.queue}{suffix} (Functions.{self.function})"


def split_queue_name(name: str) -> tuple[str, bool]:
    """Return the queue and whether its dead-letter queue is meant."""
    if name.lower().endswith(_DEAD_LETTER_SUFFIX):
        return name[: -len(_DEAD_LETTER_SUFFIX)], True
    return name, False


class ServiceBusTrigger:
    """Receives for one function, with more threads while every one has a message."""

    def __init__(self, source: QueueSource, options: ServiceBusOptions, fire: Fire) -> None:
        self._source = source
        self._options = options
        self._fire = fire
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._busy = 0
        self._is_away = False

    def start(self) -> None:
        """Begin to receive; the queue need not be reachable yet."""
        self._add_thread(is_extra=False)

    async def stop(self) -> None:
        """Receive no more, give functions that run a little time, and close."""
        self._stopping.set()
        deadline = self._loop.time() + _STOP_SECONDS
        for thread in list(self._threads):
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))

    def _add_thread(self, *, is_extra: bool) -> None:
        thread = threading.Thread(
            target=self._serve, args=(is_extra,), name=f"{self._source.function}-queue", daemon=True
        )
        self._threads.add(thread)
        thread.start()

    def _serve(self, is_extra: bool) -> None:
        """Receive until the host stops, connecting anew for ever; the life of one thread."""
        delay_seconds = _FIRST_DELAY_SECONDS
        try:
            while not self._stopping.is_set():
                try:
                    if self._receive(is_extra):
                        return
                    delay_seconds = _FIRST_DELAY_SECONDS
                except Exception as error:  # noqa: BLE001 - a thread that ends would end the trigger
                    self._note_away(error)
                    # Jitter, so that the triggers of an app do not come back all at once.
                    self._stopping.wait(delay_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                    delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
        finally:
            with self._guard:
                self._threads.discard(threading.current_thread())

    def _receive(self, is_extra: bool) -> bool:
        """Receive on one connection; return True when an extra thread is not needed any more."""
        source = self._source
        client = ServiceBusClient.from_connection_string(source.connection_string, retry_total=0)
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if source.is_dead_letter else None
        with client, client.get_queue_receiver(source.queue, sub_queue=sub_queue) as receiver:
            idle_polls = 0
            while not self._stopping.is_set():
                # For more than one message the SDK waits 0.2 s longer after the first.
                received = receiver.receive_messages(
                    max_message_count=1, max_wait_time=_POLL_SECONDS
                )
                self._note_back()
                for message in received:
                    self._handle(receiver, message)
                idle_polls = 0 if received else idle_polls + 1
                if is_extra and idle_polls >= _IDLE_POLLS_OF_EXTRA:
                    return True
        return False

    def _handle(self, receiver: ServiceBusReceiver, message: ServiceBusReceivedMessage) -> None:
        self._enter()
        try:
            delivery = read_delivery(message)
            running = asyncio.run_coroutine_threadsafe(self._run(delivery), self._loop)
            succeeded = self._await(running, receiver, message)
            if succeeded:
                receiver.complete_message(message)
            elif succeeded is False:
                receiver.abandon_message(message)
        except MessageLockLostError:
            _log.warning(
                "%s: the lock of message %s was lost; the message comes again",
                self._source,
                message.message_id,
            )
        finally:
            with self._guard:
                self._busy -= 1

    def _enter(self) -> None:
        """Count a message in flight, and add a thread when all have one."""
        with self._guard:
            self._busy += 1
            count = len(self._threads)
            all_busy = self._busy >= count and count < self._options.max_concurrent_calls
        if all_busy and not self._stopping.is_set():
            self._add_thread(is_extra=True)

    async def _run(self, delivery: Delivery) -> bool | None:
        """Tell whether the function succeeded; None when it is not known."""
        try:
            await self._fire(delivery)
        except FunctionFailure:
            return False
        except AppUnavailable:
            return None
        return True

    def _await(
        self,
        running: concurrent.futures.Future[bool | None],
        receiver: ServiceBusReceiver,
        message: ServiceBusReceivedMessage,
    ) -> bool | None:
        """Wait for the function, renewing the lock from this thread meanwhile."""
        renewed_seconds = 0.0
        while True:
            left_seconds = _left_seconds(message)
            wait_seconds = max(_SHORTEST_RENEWAL_SECONDS, left_seconds / 2)
            try:
                return running.result(timeout=wait_seconds)
            except concurrent.futures.TimeoutError:
                renewed_seconds += wait_seconds
            if self._stopping.is_set():
                running.cancel()
                return None
            if renewed_seconds > self._options.max_lock_renewal_seconds:
                continue
            try:
                receiver.renew_message_lock(message)
            except (AzureError, ValueError) as error:
                _log.warning("%s: a lock could not be renewed: %s", self._source, error)

    def _note_away(self, error: Exception) -> None:
        with self._guard:
            was_away, self._is_away = self._is_away, True
        if not was_away:
            _log.warning(
                "%s cannot be received from and is tried again for ever: %s",
                self._source,
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )

    def _note_back(self) -> None:
        with self._guard:
            was_away, self._is_away = self._is_away, False
        if was_away:
            _log.info("%s can be received from again", self._source)


def _left_seconds(message: ServiceBusReceivedMessage) -> float:
    until = message.locked_until_utc
    return 0.0 if until is None else (until - datetime.now(UTC)).total_seconds()
