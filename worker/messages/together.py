"""Many at once: what costs one round trip for all costs a busy worker less than one for each.

The SDK settles messages one by one and waits for the broker's word each time. AMQP has no such
need: a range of deliveries has one disposition, and the words come as they come.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from azure.servicebus._pyamqp.error import (
    AMQPException,
    MessageException,
    MessageSettlementUnconfirmed,
)
from azure.servicebus._pyamqp.outcomes import Accepted
from azure.servicebus._pyamqp.performatives import DispositionFrame

T = TypeVar("T")


class Gathering(Generic[T]):
    """Calls of many threads made as one: whoever comes while a call runs is in the next."""

    def __init__(
        self, call: Callable[[Sequence[T]], None], limit: int, moment_seconds: float = 0.0
    ) -> None:
        """`call` gets `limit` things at most; what it raises is raised in all who are in it.

        Each call waits a moment for what comes together with its first thing.
        """
        self._call = call
        self._limit = limit
        self._moment_seconds = moment_seconds
        self._joining = threading.Lock()
        self._calling = threading.Lock()
        self._waiting: deque[_Group[T]] = deque()

    def __call__(self, thing: T) -> None:
        """Have the thing in a call, and wait for the end of it."""
        with self._joining:
            if not self._waiting or len(self._waiting[-1].things) >= self._limit:
                self._waiting.append(_Group())
            group = self._waiting[-1]
            group.things.append(thing)
        with self._calling:
            while not group.is_called:
                self._call_next()
        if group.error is not None:
            raise group.error

    @property
    def waiting_count(self) -> int:
        """How many things are in no call yet."""
        with self._joining:
            return sum(len(group.things) for group in self._waiting)

    def _call_next(self) -> None:
        if self._moment_seconds:
            time.sleep(self._moment_seconds)
        with self._joining:
            group = self._waiting.popleft()
        group.is_called = True
        try:
            self._call(group.things)
        except Exception as error:  # noqa: BLE001  handed on to each that waits for this call
            group.error = error


class _Group(Generic[T]):
    def __init__(self) -> None:
        self.things: list[T] = []
        self.is_called = False
        self.error: Exception | None = None


def complete(receiver: Any, messages: Sequence[Any], timeout_seconds: float) -> list[bool]:
    """Complete messages that `can_complete`, and wait for all words; tells which came in time.

    RuntimeError, or what the SDK raises, where a word is missing: what has become of the messages
    is unknown then, and the link is of no use any more. Private all the way, since the SDK has
    nothing like it: the frames are those of its own `complete_message`, but for the range in them.
    """
    link = receiver._handler._link
    for message in messages:
        link._pending_dispositions[message._delivery_id] = {"settled": False, "outcome": None}
        link._received_delivery_tags.discard(message._delivery_tag)
    try:
        for first, last in ranges(message._delivery_id for message in messages):
            link._session._outgoing_disposition(
                DispositionFrame(link.role, first, last, False, Accepted(), None)
            )
        return [_is_completed(link, message, timeout_seconds) for message in messages]
    except AMQPException as error:
        raise RuntimeError(f"the settlement was not confirmed: {error}") from error


def _is_completed(link: Any, message: Any, timeout_seconds: float) -> bool:
    try:
        link._wait_for_disposition_outcome([message._delivery_id], timeout_seconds)
    except MessageSettlementUnconfirmed:
        raise
    except MessageException:
        return False
    message._settled = True
    return True


def can_complete(receiver: Any, message: Any) -> bool:
    """Whether this receiver's link has received the message, and its lock lasts."""
    return (
        message._delivery_tag in receiver._handler._link._received_delivery_tags
        and not message._settled
        and not message._lock_expired
    )


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The first and last of each run of neighbours."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
