"""Serve links on which a peer receives the messages of only one message session.

A message session is the group of a queue's messages that have the same session id. To accept a
session, a receiver sets the filter `com.microsoft:session-filter` in the source of its link. The
filter's value is the id of the session, or null for the next available session.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from emulator.servicebus.amqp.errors import LinkFault
from emulator.servicebus.amqp.link import (
    AttachDetails,
    DeliverySender,
    LinkSource,
    SourceRequest,
)
from emulator.servicebus.amqp.outcomes import Outcome
from emulator.servicebus.amqp.types import Described, Long, Symbol
from emulator.servicebus.broker.errors import BrokerError, SessionLockLost
from emulator.servicebus.broker.message_sessions import MessageSessionLock
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.tracking import add_tracking

SESSION_FILTER = "com.microsoft:session-filter"
NON_EXCLUSIVE_FILTER = "com.microsoft:non-exclusive-session"
"""The beginning of the name of the filter that asks for a session without an exclusive lock."""

_LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
_TIMEOUT_SECONDS = 65.0
"""How long a peer without a timeout of its own waits for the next available session."""
_YEAR_ONE = datetime(1, 1, 1, tzinfo=UTC)
_TICK_RATE = 10  # .NET counts time in ticks of 100 ns

SourceFactory = Callable[[MessageSessionLock], LinkSource]


class AcceptedSessions:
    """The message sessions that the peer of one connection has accepted."""

    def __init__(self) -> None:
        self._locks: dict[tuple[Queue, str], MessageSessionLock] = {}

    def find(self, queue: Queue, session_id: str) -> MessageSessionLock:
        """Return the peer's lock, even if it has ended. Raises SessionLockLost without one."""
        try:
            return self._locks[queue, session_id]
        except KeyError:
            raise SessionLockLost from None

    def add(self, queue: Queue, lock: MessageSessionLock) -> None:
        """Add a lock on a session that the peer has accepted."""
        self._locks[queue, lock.session_id] = lock

    def remove(self, queue: Queue, lock: MessageSessionLock) -> None:
        """Remove a lock. Do nothing if the peer now has a newer lock on the same session."""
        if self._locks.get((queue, lock.session_id)) is lock:
            del self._locks[queue, lock.session_id]

    def open(
        self,
        queue: Queue,
        requested: SourceRequest,
        sender: DeliverySender,
        build_source: SourceFactory,
    ) -> LinkSource | asyncio.Future[LinkSource]:
        """Accept a session, and return the source of its messages.

        For the next available session, return a future, which raises LinkFault at the end of the
        peer's timeout. Raises BrokerError if the queue refuses the receiver, and LinkFault if the
        filter is invalid.
        """
        queue.check_accepts_sessions()
        wanted = requested.filters[SESSION_FILTER]
        session_id = wanted.value if isinstance(wanted, Described) else wanted
        if session_id is None:
            return self._open_next(queue, requested, sender, build_source)
        if not isinstance(session_id, str):
            raise LinkFault(
                "amqp:invalid-field", f"the value of {SESSION_FILTER} must be a string or null"
            )
        lock = queue.accept_session(str(session_id))
        return self._build(queue, requested, sender, build_source, lock)

    def _open_next(
        self,
        queue: Queue,
        requested: SourceRequest,
        sender: DeliverySender,
        build_source: SourceFactory,
    ) -> asyncio.Future[LinkSource]:
        loop = asyncio.get_running_loop()
        opening: asyncio.Future[LinkSource] = loop.create_future()
        timeout_seconds = requested.timeout_seconds
        if timeout_seconds is None:
            timeout_seconds = _TIMEOUT_SECONDS

        def accept(lock: MessageSessionLock) -> None:
            if opening.done():
                queue.release_session(lock)
                return
            try:
                opening.set_result(self._build(queue, requested, sender, build_source, lock))
            except BrokerError as error:
                opening.set_exception(_link_fault(queue, error))

        def expire() -> None:
            if not opening.done():
                text = (
                    "The operation did not complete within the allotted timeout of "
                    f"{timedelta(seconds=timeout_seconds)}."
                )
                fault = LinkFault("com.microsoft:timeout", add_tracking(text, queue.address))
                opening.set_exception(fault)

        def stop_waiting(_: object) -> None:
            timer.cancel()
            request.cancel()

        request = queue.request_session(accept)
        timer = loop.call_later(timeout_seconds, expire)
        opening.add_done_callback(stop_waiting)
        return opening

    def _build(
        self,
        queue: Queue,
        requested: SourceRequest,
        sender: DeliverySender,
        build_source: SourceFactory,
        lock: MessageSessionLock,
    ) -> "MessageSessionSource":
        try:
            messages = build_source(lock)
        except BrokerError:
            queue.release_session(lock)
            raise
        self.add(queue, lock)
        lock.on_lost = lambda: sender.detach(_link_fault(queue, SessionLockLost()))
        details = AttachDetails(
            filters={
                Symbol(SESSION_FILTER): _with_value(
                    requested.filters[SESSION_FILTER], lock.session_id
                )
            },
            properties={_LOCKED_UNTIL: _ticks(lock.until)},
        )
        return MessageSessionSource(queue, lock, messages, details, self)


class MessageSessionSource:
    """The source of a link on which a peer receives the messages of one message session.

    If the lock on the session expires, the link is detached. If the link is detached, the session
    is released.
    """

    def __init__(
        self,
        queue: Queue,
        lock: MessageSessionLock,
        messages: LinkSource,
        attach_details: AttachDetails,
        accepted: AcceptedSessions,
    ) -> None:
        """Create the source; `accepted` has `lock` among the peer's locks."""
        self.is_presettled = messages.is_presettled
        self.attach_details: AttachDetails | None = attach_details
        self._queue = queue
        self._lock = lock
        self._messages = messages
        self._accepted = accepted

    def set_credit(self, credit: int) -> None:
        """Set the number of messages that may still be delivered on this link."""
        self._messages.set_credit(credit)

    async def settle(self, tag: bytes, outcome: Outcome) -> None:
        """Settle a message of the session. `tag` contains the message's lock token."""
        await self._messages.settle(tag, outcome)

    def close(self) -> None:
        """Stop deliveries, and release the session with its unsettled messages."""
        self._messages.close()
        self._accepted.remove(self._queue, self._lock)
        self._queue.release_session(self._lock)


def _link_fault(queue: Queue, error: BrokerError) -> LinkFault:
    return LinkFault(error.condition, add_tracking(str(error), queue.address))


def _with_value(wanted: Any, session_id: str) -> Any:
    """Return the peer's session filter, if it has a descriptor with it, for this session."""
    if isinstance(wanted, Described):
        return Described(wanted.descriptor, session_id)
    return session_id


def _ticks(at: datetime) -> Long:
    """Convert a time to the ticks of .NET, which are units of 100 ns since the year 1."""
    return Long((at - _YEAR_ONE) // timedelta(microseconds=1) * _TICK_RATE)
