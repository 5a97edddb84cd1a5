"""Send replies to the reply queues of producers, and gather the calls of several threads."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Generic, TypeVar

from contract.catalogue import Catalogue
from contract.queues import may_take_replies, names
from worker.brokers.port import SendReply
from worker.errors import BrokerUnavailable, ReplyForbidden, ReplyUndelivered
from worker.retries import Wait, backoff_seconds

T = TypeVar("T")


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


class QueueReplies:
    """Sends replies to the reply queues of producers. Keeps one connection open for each queue."""

    def __init__(
        self,
        open_sender: Callable[[str], SendReply],
        catalogue: Catalogue,
    ) -> None:
        self._open = open_sender
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
