"""Send replies to Service Bus queues."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Generic, TypeVar

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError, MessagingEntityNotFoundError

from contract.catalogue import Catalogue
from contract.queues import may_take_replies, names
from contract.settings import AzureEndpoint
from worker.errors import (
    BrokerUnavailable,
    ReplyForbidden,
    ReplyUndelivered,
)
from worker.retries import Wait, backoff_seconds
from worker.servicebus.link import SDK_ERRORS, TRY_SECONDS, error_text, make_client

T = TypeVar("T")

_MAX_TOGETHER = 64
# The replies of one batch are ready within this time, so that one call can send all of them.
_GATHER_SECONDS = 0.002


class QueueSender:
    """Sends replies to one queue over a separate connection. Any thread may call `send_reply`."""

    def __init__(self, endpoint: AzureEndpoint, queue: str) -> None:
        self._endpoint = endpoint
        self._queue = queue
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._send = CallGatherer(self._send_together, _MAX_TOGETHER, _GATHER_SECONDS)

    def send_reply(self, body: bytes, job_id: str) -> None:
        """Send a reply, and wait for the confirmation. The job id lets the queue drop duplicates.

        Raises BrokerUnavailable if the caller may try again, ReplyForbidden if there is no such
        queue.
        """
        message = ServiceBusMessage(
            body, content_type="application/json", message_id=job_id, correlation_id=job_id
        )
        self._send(message)

    def _send_together(self, messages: Sequence[ServiceBusMessage]) -> None:
        try:
            sender = self._opened()
            try:
                sender.send_messages(
                    messages[0] if len(messages) == 1 else [*messages], timeout=TRY_SECONDS
                )
            except MessageSizeExceededError:
                # Each single reply fits into one message, because large results are stored as
                # blobs.
                for message in messages:
                    sender.send_messages(message, timeout=TRY_SECONDS)
        except MessagingEntityNotFoundError:
            self._close()
            raise ReplyForbidden(f"the reply queue {self._queue!r} does not exist") from None
        except SDK_ERRORS as error:
            self._close()
            raise BrokerUnavailable(error_text(error)) from None

    def _opened(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = make_client(self._endpoint)
            self._sender = self._client.get_queue_sender(self._queue)
        return self._sender

    def _close(self) -> None:
        client, self._client, self._sender = self._client, None, None
        if client is not None:
            with contextlib.suppress(*SDK_ERRORS):
                client.close()


class CallGatherer(Generic[T]):
    """Combines the calls of several threads into one call; later items go into the next one."""

    def __init__(
        self, call: Callable[[Sequence[T]], None], limit: int, wait_seconds: float = 0.0
    ) -> None:
        """Store the function to call, the most items of a call, and how long to gather them."""
        self._call = call
        self._limit = limit
        self._wait_seconds = wait_seconds
        self._joining = threading.Lock()
        self._calling = threading.Lock()
        self._waiting: deque[_Group[T]] = deque()

    def __call__(self, item: T) -> None:
        """Add an item to the next call, wait for the call, and raise the error that it raises."""
        with self._joining:
            if not self._waiting or len(self._waiting[-1].items) >= self._limit:
                self._waiting.append(_Group())
            group = self._waiting[-1]
            group.items.append(item)
        with self._calling:
            while not group.is_called:
                self._call_next()
        if group.error is not None:
            raise group.error

    @property
    def waiting_count(self) -> int:
        """Return how many items wait, without those of the call that is running."""
        with self._joining:
            return sum(len(group.items) for group in self._waiting)

    def _call_next(self) -> None:
        if self._wait_seconds:
            time.sleep(self._wait_seconds)
        with self._joining:
            group = self._waiting.popleft()
        group.is_called = True
        try:
            self._call(group.items)
        except Exception as error:  # noqa: BLE001  raised for each item of this call
            group.error = error


class _Group(Generic[T]):
    def __init__(self) -> None:
        self.items: list[T] = []
        self.is_called = False
        self.error: Exception | None = None


SendReply = Callable[[bytes, str], None]
"""Sends the body of the reply to a job to one queue, as `QueueSender.send_reply` does."""


def open_queue_sender(endpoint: AzureEndpoint, queue: str) -> SendReply:
    """Return a function that sends replies to one queue of Service Bus."""
    return QueueSender(endpoint, queue).send_reply


class QueueReplies:
    """Sends replies to the reply queues of producers. Keeps one connection open for each queue."""

    def __init__(
        self,
        endpoint: AzureEndpoint,
        catalogue: Catalogue,
        open_sender: Callable[[AzureEndpoint, str], SendReply] = open_queue_sender,
    ) -> None:
        self._open = partial(open_sender, endpoint)
        self._own_queues = names(catalogue)
        self._senders: dict[str, SendReply] = {}
        self._lock = threading.Lock()

    def check_reply_queue(self, queue: str) -> None:
        """Raise ReplyForbidden if replies must not be sent to this queue."""
        if not may_take_replies(queue, self._own_queues):
            raise ReplyForbidden(
                f"replies must not be sent to the queue {queue[:100]!r}: it is a model's queue, or "
                "its name is not allowed"
            )

    def send_reply(self, queue: str, body: bytes, job_id: str, wait: Wait) -> None:
        """Send a reply until the broker accepts it. Raises ReplyUndelivered if `wait` gives up."""
        with self._lock:
            send = self._senders.setdefault(queue, self._open(queue))
        for attempt in count():
            try:
                send(body, job_id)
            except BrokerUnavailable as error:
                if not wait(backoff_seconds(attempt)):
                    raise ReplyUndelivered(
                        f"the reply could not be sent to the queue {queue}: {error}"
                    ) from None
            else:
                return
