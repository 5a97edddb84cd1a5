"""Service Bus queue triggers, which receive messages with Microsoft's SDK in threads.

Each thread processes one message at a time. If the function returns, its message is completed. If
the function raises an exception, the message is abandoned. If the app process ends, the message is
not settled, and is redelivered when its lock expires.

Source of the trigger metadata: the .NET Service Bus extension.
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
from emulator.functions.shared_log import RECEIVER_THREAD

_TRACE_PROPERTIES = ("traceparent", "Diagnostic-Id")
_log = logging.getLogger("functions.servicebus")
_DEAD_LETTER_SUFFIX = "/$deadletterqueue"
_POLL_SECONDS = 1.0
# With the SDK's default, each idle trigger wakes up five times a second.
_SOCKET_SECONDS = 0.5
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 30.0
_IDLE_POLLS_OF_EXTRA = 30
_STOP_SECONDS = 8.0
_SHORTEST_RENEWAL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TriggerMessage:
    """The body, trigger metadata and trace context that a function receives for a message."""

    body: bytes
    metadata: dict[str, Any]
    trace: list[str] | None


def read_delivery(message: ServiceBusReceivedMessage) -> TriggerMessage:
    """Convert a received message to the data that a function receives.

    The metadata are those that the .NET Service Bus extension passes, and no more.
    """
    properties = _plain(message.application_properties or {})
    metadata: dict[str, Any] = {
        "MessageId": message.message_id,
        "CorrelationId": message.correlation_id,
        "ContentType": message.content_type,
        # Unlike the Python SDK, the .NET client of Azure's host also counts the current delivery.
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
    return TriggerMessage(_body(message), metadata, trace)


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
    """Format a time in the format that the converter of azure.functions reads."""
    return None if value is None else value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _plain(value: Any) -> Any:
    """Convert an AMQP value to a value that JSON can express."""
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


InvokeFunction = Callable[[TriggerMessage], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class QueueSource:
    """The queue or dead-letter queue from which a trigger receives messages.

    `function` is the name of the function that the trigger runs. `connection_string` is the
    connection string of the Service Bus namespace that contains the queue.
    """

    function: str
    queue: str
    is_dead_letter: bool
    connection_string: str = field(repr=False)

    def __str__(self) -> str:
        suffix = "/$DeadLetterQueue" if self.is_dead_letter else ""
        return f"{self.queue}{suffix} (Functions.{self.function})"


def split_queue_name(name: str) -> tuple[str, bool]:
    """Return a trigger's queue, and whether its name had the suffix `/$DeadLetterQueue`."""
    if name.lower().endswith(_DEAD_LETTER_SUFFIX):
        return name[: -len(_DEAD_LETTER_SUFFIX)], True
    return name, False


class ServiceBusTrigger:
    """Receives messages from a queue in threads, and runs one function for each message.

    If all threads are busy, the trigger adds a thread. `maxConcurrentCalls` of host.json limits the
    number of threads.
    """

    def __init__(
        self, source: QueueSource, options: ServiceBusOptions, invoke: InvokeFunction
    ) -> None:
        self._source = source
        self._options = options
        self._invoke = invoke
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._busy = 0
        self._is_unreachable = False

    def start(self) -> None:
        """Start to receive messages. The queue does not have to be reachable yet."""
        self._add_thread(is_extra=False)

    async def stop(self) -> None:
        """Stop receiving messages, and wait up to 8 s for running functions."""
        self._stopping.set()
        deadline = self._loop.time() + _STOP_SECONDS
        for thread in list(self._threads):
            await asyncio.to_thread(thread.join, max(0.0, deadline - self._loop.time()))

    def _add_thread(self, *, is_extra: bool) -> None:
        thread = threading.Thread(
            target=self._serve,
            args=(is_extra,),
            name=self._source.function + RECEIVER_THREAD,
            daemon=True,
        )
        self._threads.add(thread)
        thread.start()

    def _serve(self, is_extra: bool) -> None:
        """Receive messages in this thread until the host stops, and reconnect after errors.

        A thread that was added because all others were busy (`is_extra`) ends when it is idle.
        """
        delay_seconds = _FIRST_DELAY_SECONDS
        try:
            while not self._stopping.is_set():
                try:
                    if self._receive(is_extra):
                        return
                    delay_seconds = _FIRST_DELAY_SECONDS
                except Exception as error:  # noqa: BLE001 - the thread must not end
                    self._log_outage(error)
                    # The pause is random, so that the triggers do not reconnect at the same time.
                    self._stopping.wait(delay_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret
                    delay_seconds = min(delay_seconds * 2, _LONGEST_DELAY_SECONDS)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _receive(self, is_extra: bool) -> bool:
        """Receive messages on one connection until the host stops.

        Return whether this is an extra thread that has been idle for 30 s and must end.
        """
        source = self._source
        client = ServiceBusClient.from_connection_string(source.connection_string, retry_total=0)
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if source.is_dead_letter else None
        with (
            client,
            client.get_queue_receiver(
                source.queue, sub_queue=sub_queue, socket_timeout=_SOCKET_SECONDS
            ) as receiver,
        ):
            idle_polls = 0
            while not self._stopping.is_set():
                # With a larger count, the SDK waits another 0.2 s after the first message.
                received = receiver.receive_messages(
                    max_message_count=1, max_wait_time=_POLL_SECONDS
                )
                self._log_recovery()
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
                "%s: the lock of message %.200r was lost; Service Bus redelivers the message",
                self._source,
                message.message_id,
            )
        finally:
            with self._lock:
                self._busy -= 1

    def _enter(self) -> None:
        """Count a message in flight, and add a thread if all are busy and it is allowed."""
        with self._lock:
            self._busy += 1
            count = len(self._threads)
            all_busy = self._busy >= count and count < self._options.max_concurrent_calls
        if all_busy and not self._stopping.is_set():
            self._add_thread(is_extra=True)

    async def _run(self, delivery: TriggerMessage) -> bool | None:
        """Invoke the function; return whether it succeeded, None without the app process."""
        try:
            await self._invoke(delivery)
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
        """Wait for the function, and renew the message lock in the meantime.

        Return whether it succeeded; None if the app process ended, or the host stops before.
        """
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
                _log.warning(
                    "%s: the lock of message %.200r could not be renewed: %s",
                    *(self._source, message.message_id, error),
                )

    def _log_outage(self, error: Exception) -> None:
        with self._lock:
            was_unreachable, self._is_unreachable = self._is_unreachable, True
        if not was_unreachable:
            _log.warning(
                "no messages can be received from %s; the trigger tries again: %s",
                self._source,
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )

    def _log_recovery(self) -> None:
        with self._lock:
            was_unreachable, self._is_unreachable = self._is_unreachable, False
        if was_unreachable:
            _log.info("messages can be received from %s again", self._source)


def _left_seconds(message: ServiceBusReceivedMessage) -> float:
    until = message.locked_until_utc
    return 0.0 if until is None else (until - datetime.now(UTC)).total_seconds()
