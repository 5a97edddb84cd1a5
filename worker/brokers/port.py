"""What the worker needs of a broker. An adapter in this folder fulfils it for each broker.

A worker receives a message under a lock: no other worker has it until the lock ends. The lock is
renewed while the worker has the job, and ends when the message is settled, when the lock expires,
or when the worker has died. Then the message is delivered again. A broker may also deliver again a
message that was completed, so the job's recorded outcome decides.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from worker.errors import BrokerUnavailable, Settlement, error_text
from worker.processes.history import NO_HISTORY, DeliveryHistory, LockState, read_history
from worker.processes.lock_journal import LeftMessage, LockJournal, LockJournals

_log = logging.getLogger(__name__)

Connection = TypeVar("Connection")


@dataclass(frozen=True, slots=True, eq=False)
class LockedMessage:
    """A message that this worker has received and locked.

    Attributes:
        body: The bytes of the body; None if the body is not binary or is too large.
        delivery_count: How many times the message was delivered before this delivery.
        locked_until: The time on the broker's clock at which the lock expires without a renewal.
        handle: What the adapter needs to settle the message. No other code uses it.
        sequence_number: Its number in its queue, which a redelivered message keeps; 0 if unknown.
        token: 16 bytes that identify the message or its lock; empty if there are none.
        journal: The lock journal in which the token is noted; None if it is not noted.
    """

    body: bytes | None = field(repr=False)
    delivery_count: int
    enqueued_at: datetime | None
    locked_until: datetime | None
    properties: dict[str, str] = field(repr=False)
    message_id: str
    handle: Any = field(repr=False)
    queue: str = ""
    sequence_number: int = 0
    token: bytes = field(default=b"", repr=False)
    history: DeliveryHistory = NO_HISTORY
    journal: LockJournal | None = field(default=None, repr=False)

    def note_state(self, state: LockState) -> None:
        """Note in the lock journal how far the job of this message has come."""
        if self.journal is not None:
            self.journal.set_state(self.token, state)

    @property
    def key(self) -> tuple[str, int]:
        """The queue and the sequence number, which are the same for each delivery of a message.

        The message's id is not: a new message with the same job id may have a different input.
        """
        return self.queue, self.sequence_number

    def lock_seconds(self, now: datetime) -> float:
        """Return in how many seconds the lock expires; 0 or less if the lock has expired."""
        return (self.locked_until - now).total_seconds() if self.locked_until else 0.0


def earlier_deliveries(properties: Mapping[str, str], delivery_count: int) -> DeliveryHistory:
    """Return what a message's properties say about `delivery_count` earlier deliveries."""
    # Only workers write the history, and none has received a new message.
    return read_history(properties) if delivery_count else NO_HISTORY


@dataclass(frozen=True, slots=True)
class Peeked:
    """A message that was read from a queue without locking it. Another worker may hold its lock."""

    sequence_number: int
    enqueued_at: datetime


class MessageLink(Protocol):
    """A connection to one queue. Only one thread may use it.

    If the queue cannot be reached, a call raises BrokerUnavailable and ends the connection. It
    depends on the broker whether the messages that were received over it can still be settled over
    the next one, or have lost their locks.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the link is connected. A failed call ends the connection."""

    @property
    def has_credit(self) -> bool:
        """Whether the broker may send messages between two calls."""

    def connect(self) -> None:
        """Connect to the queue if necessary. Raises QueueMissing if it does not exist."""

    def disconnect(self) -> None:
        """Close the connection. Messages that are not settled are delivered again."""

    def receive_messages(
        self, limit: int, wait_seconds: float, room: int = 0
    ) -> list[LockedMessage]:
        """Return up to `limit` messages. If there are none, wait for them up to `wait_seconds`.

        If more have already arrived, up to `room` are returned.

        The broker may send and lock more later, for the next call: so many that there are at most
        `room` with those that are returned. So the caller must call again or call `stop_receiving`.
        """

    def serve(self) -> None:
        """Answer what the broker asks of a connection, such as heartbeats, without waiting.

        A thread that hangs does not call this, and so loses its connection and its messages.
        """

    def stop_receiving(self) -> None:
        """Ask the broker to send no more messages, and release those that were not yet returned."""

    def settle_message(
        self,
        delivery: LockedMessage,
        how: Settlement,
        reason: str,
        description: str,
        history: DeliveryHistory | None = None,
    ) -> None:
        """Settle a message, and wait until the broker has confirmed it. Raises LockLost.

        `history` is kept with an abandoned message for its next delivery; None to keep what it has.
        """

    def complete_messages(self, deliveries: Sequence[LockedMessage]) -> list[bool]:
        """Complete messages together. Return for each whether it was before its lock was lost."""

    def renew_lock(self, delivery: LockedMessage, timeout_seconds: float) -> datetime:
        """Renew a message's lock, and return when it then expires. Raises LockLost.

        The message may have been received by another link, in another thread.
        """

    def forget_token(self, delivery: LockedMessage) -> None:
        """Forget a message whose lock is lost, so that it can be delivered again."""

    def peek(self, from_sequence_number: int, count: int) -> list[Peeked]:
        """Return up to `count` messages from this number on, also locked ones. Lock none.

        A broker without this operation returns one message with the largest number if messages
        wait, and says when the link first saw that they do.
        """


class BrokerLink(MessageLink, Generic[Connection]):
    """What the links of all adapters share: the connection, and the notes in the lock journal.

    An adapter opens, uses and closes its connection, and notes each message that it has locked.

    Attributes:
        errors: What the broker's library raises.
        journal: Where the tokens of this link's messages are noted; None if they are not noted.
    """

    errors: ClassVar[tuple[type[BaseException], ...]]

    def __init__(self, place: str, queue: str, journals: LockJournals | None = None) -> None:
        """Create the object without connecting. `place` is the broker's address for the journal."""
        self.journal: LockJournal | None = None
        self._place = place
        self._queue = queue
        self._journals = journals
        self._connection: Connection | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the link is connected. A failed call ends the connection."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect if necessary, and take over the messages of dead workers on this machine."""
        if self._connection is not None:
            return
        try:
            self._connection = self._open()
        except self.errors as error:
            raise BrokerUnavailable(self._describe(error)) from None
        self._take_back(self._take_over_journals())

    def disconnect(self) -> None:
        """Close the connection. Messages that are not settled are delivered again."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            self._close(connection)
        except self.errors as error:
            _log.debug(
                "closing the connection to queue %s failed: %s", self._queue, self._describe(error)
            )

    def serve(self) -> None:
        """Do nothing: the connection needs no help of this thread."""

    def stop_receiving(self) -> None:
        """Do nothing: the broker sends nothing between two calls."""

    @abstractmethod
    def _open(self) -> Connection:
        """Return a new connection. Raises QueueMissing, or any of `errors`."""

    @abstractmethod
    def _close(self, connection: Connection) -> None:
        """Close a connection, which may be broken. May raise any of `errors`."""

    @abstractmethod
    def _take_back(self, left: dict[bytes, LeftMessage]) -> None:
        """Let messages that dead workers have left be delivered again, with what is known of them.

        Called after each connect. The tokens stay in this link's journal until they are removed.
        """

    def _describe(self, error: BaseException) -> str:
        """Return what an error of the broker's library says. It must contain no password."""
        return error_text(error)

    @contextmanager
    def _use_connection(self) -> Iterator[Connection]:
        """Provide the open connection. Any of `errors` ends it and becomes BrokerUnavailable."""
        if self._connection is None:
            raise BrokerUnavailable(f"the connection to the queue {self._queue} is closed")
        try:
            yield self._connection
        except self.errors as error:
            raise self._broken(error) from None

    def _broken(self, error: BaseException) -> BrokerUnavailable:
        self.disconnect()
        return BrokerUnavailable(self._describe(error))

    def _take_over_journals(self) -> dict[bytes, LeftMessage]:
        """Return what the journals of dead workers say about the messages that they had locked."""
        if self._journals is None:
            return {}
        try:
            if self.journal is None:
                self.journal = LockJournal(self._journals.folder, self._place, self._queue)
            return self.journal.take_over_journals(self._journals.death)
        except OSError as error:
            self._stop_noting(error)
            return {}

    def _note_arrival(self, token: bytes) -> None:
        """Note that a message is locked."""
        if self.journal is not None:
            try:
                self.journal.note_arrival(token)
            except OSError as error:
                self._stop_noting(error)

    def _note_read(self, delivery: LockedMessage, number: int) -> LockedMessage:
        """Note what is known of a message, with a number for `LeftMessage`. Return the message."""
        if self.journal is not None:
            self.journal.note_read(delivery.token, delivery.history, number)
        return delivery

    def _remove_note(self, token: bytes) -> None:
        """Remove a note: the message is settled, or its lock is lost."""
        if self.journal is not None:
            self.journal.remove_token(token)

    def _stop_noting(self, error: OSError) -> None:
        _log.warning(
            "queue %s: the lock journal cannot be written: if this worker is killed, its jobs may "
            "wait until their locks expire, and nobody knows which of them ran: %s",
            *(self._queue, error),
        )
        self.journal = self._journals = None


SendReply = Callable[[bytes, str], None]
"""Sends the body of the reply to a job to one queue, and waits for the confirmation.

Any thread may call it. Raises BrokerUnavailable if the caller may try again, and ReplyForbidden if
there is no such queue. The job id lets a broker drop duplicates.
"""


class MessageBroker(Protocol):
    """Opens connections to one broker."""

    name: str
    """The broker's name in messages to people."""

    modules: Sequence[str]
    """Modules that the broker's library imports late. The parent of a worker imports them early."""

    def open_link(
        self, queue: str, lock_seconds: float, journals: LockJournals | None = None
    ) -> MessageLink:
        """Return a link to a queue without connecting it. A lock lasts `lock_seconds`.

        With `journals`, the link notes which messages it has locked (`worker.processes`).
        """

    def open_sender(self, queue: str) -> SendReply:
        """Return a function that sends replies to a queue."""
