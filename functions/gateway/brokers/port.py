"""What the gateway needs of a broker. An adapter in this folder fulfils it for each broker."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from contract.brokers import BrokerMessage, DeadMessage

HandleLetter = Callable[[str, DeadMessage], Awaitable[None]]
"""Handles a dead letter of the queue with this name. Raises Unavailable to get it again later."""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The numbers of messages in a queue.

    `active` includes locked messages if the broker can count them. The gateway soon removes `dead`
    messages from the dead-letter queue.
    """

    active: int
    scheduled: int = 0
    dead: int = 0


class Queues(ABC):
    """The queues of one broker.

    Each method raises Unavailable if the broker fails or does not respond.
    """

    broker_name: str = "The broker"
    """The name of the broker in sentences for people."""

    can_see_oldest: bool = True
    """Whether `oldest` returns times. If not, it is always None, and `count` is cheap."""

    has_dead_letter_trigger: bool = False
    """Whether the Functions host passes dead letters to the app. Then `watch_dead_letters` ends."""

    @abstractmethod
    async def send(self, queue: str, message: BrokerMessage) -> None:
        """Send a message, and return when the queue has stored it. May raise UnknownQueue.

        The message may still be sent if the caller is cancelled. A broker that knows the ids of
        earlier messages drops a second message with the same id. With another broker, a worker may
        run the job twice, and the first recorded outcome counts.
        """

    @abstractmethod
    async def check(self, queue: str) -> None:
        """Check that the broker responds, and stores new messages as far as that is known."""

    async def find_refusal(self) -> str | None:
        """Return why the broker stores no new messages at present; None if it stores them."""
        return None

    @abstractmethod
    async def oldest(self, queue: str) -> datetime | None:
        """Return when the oldest message, locked or not, was enqueued.

        Return None if there is none, or if the broker does not say it.
        """

    @abstractmethod
    async def count(self, queue: str) -> MessageCounts:
        """Return the numbers of messages in the queue."""

    @abstractmethod
    async def watch_dead_letters(self, queues: Collection[str], handle: HandleLetter) -> None:
        """Call `handle` for each dead letter of these queues, and remove it if `handle` succeeds.

        A letter whose handling was not confirmed is handled again, perhaps by another process. The
        call ends only when it is cancelled, also while the broker does not respond.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""
