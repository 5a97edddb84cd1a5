"""Assign the ready messages of a queue to the receivers that have credit."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from emulator.servicebus.broker.message import MessageDelivery, MessageRecord, ReceiveMode
from emulator.servicebus.broker.message_sessions import MessageSessionLock, MessageSessionLocks
from emulator.servicebus.broker.queue_state import QueueState


class CreditListener(Protocol):
    """The interface through which a `Subscription` reports a change of its receiver's credit.

    The credit is the number of messages that may still be delivered to the receiver.
    """

    def credit_changed(self, subscription: "Subscription") -> None:
        """Start or stop deliveries to a receiver after its credit has changed."""
        ...


class Subscription:
    """One receiver of a queue, and the receiver's credit.

    The subscription of a topic is a different concept: its class is `TopicSubscription`.
    """

    __slots__ = ("_closed", "_credit", "_listener", "deliver", "mode", "session_lock")

    def __init__(
        self,
        listener: CreditListener,
        mode: ReceiveMode,
        deliver: Callable[[MessageDelivery], None],
        session_lock: MessageSessionLock | None = None,
    ) -> None:
        self._listener = listener
        self._credit = 0
        self._closed = False
        self.mode = mode
        self.deliver = deliver
        self.session_lock = session_lock
        """The receiver's lock on the message session whose messages it receives, if any."""

    @property
    def credit(self) -> int:
        """The number of messages that may still be delivered to this receiver."""
        return self._credit

    def set_credit(self, credit: int) -> None:
        """Set how many messages may still be delivered to this receiver."""
        self._credit = 0 if self._closed else max(0, credit)
        self._listener.credit_changed(self)

    def close(self) -> None:
        """Stop deliveries to this receiver. Delivered messages stay locked."""
        self._closed = True
        self.set_credit(0)

    @property
    def is_closed(self) -> bool:
        """Whether the receiver gets no more messages."""
        return self._closed

    def spend(self) -> None:
        """Reduce the credit by one, because a message is assigned to this receiver."""
        self._credit -= 1

    def refund(self) -> None:
        """Increase the credit by one, because an assigned message could not be delivered."""
        self.set_credit(self._credit + 1)


class NextSessionRequest:
    """The request of a receiver that waits for the next available message session."""

    def __init__(
        self, accept: Callable[[MessageSessionLock], None], cancel: Callable[[], None]
    ) -> None:
        self.accept = accept
        """The broker calls this function once, with the receiver's lock on the session."""
        self.cancel = cancel
        """Stop waiting."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A message, and the receiver that gets it when the broker's transaction is committed."""

    subscription: Subscription
    record: MessageRecord


class Dispatcher:
    """Assigns the messages of one queue in round-robin order to the receivers that have credit."""

    def __init__(
        self,
        state: QueueState,
        schedule_transaction: Callable[[], None],
        session_locks: MessageSessionLocks,
    ) -> None:
        self._state = state
        self._schedule_transaction = schedule_transaction
        self._session_locks = session_locks
        self._with_credit: OrderedDict[Subscription, None] = OrderedDict()
        self._receivers: set[Subscription] = set()
        self._session_requests: OrderedDict[int, NextSessionRequest] = OrderedDict()
        self._next_request = 1

    @property
    def has_work(self) -> bool:
        """Whether at least one message is ready for a receiver that has credit."""
        return self._next_receiver() is not None

    def _next_receiver(self) -> Subscription | None:
        """Return the first receiver that has credit and for which a message is ready."""
        if not self._with_credit or not self._state.index.ready:
            return None
        return next(
            (each for each in self._with_credit if self._state.has_ready(each.session_lock)), None
        )

    def subscribe(
        self,
        mode: ReceiveMode,
        deliver: Callable[[MessageDelivery], None],
        session_lock: MessageSessionLock | None = None,
    ) -> Subscription:
        """Return a subscription without credit for a receiver, whose messages go to `deliver`."""
        receiver = Subscription(self, mode, deliver, session_lock)
        self._receivers.add(receiver)
        return receiver

    @property
    def has_receivers(self) -> bool:
        """Whether the queue has a receiver, with or without credit, or one waits for a session."""
        return bool(self._receivers or self._session_requests)

    def lock_session(self, session_id: str, now: datetime) -> MessageSessionLock:
        """Lock an unlocked message session for a receiver, and return the lock."""
        until = now + self._state.settings.lock_duration
        lock = self._session_locks.add(self._state.number, session_id, until)
        self._state.lock_session(lock)
        self._schedule_transaction()  # which sets the timer for the lock's expiry
        return lock

    def request_session(self, accept: Callable[[MessageSessionLock], None]) -> NextSessionRequest:
        """Register a request for the next session, which `offer_sessions` accepts later."""
        number = self._next_request
        self._next_request += 1
        request = NextSessionRequest(accept, lambda: self._cancel_request(number))
        self._session_requests[number] = request
        return request

    def _cancel_request(self, number: int) -> None:
        self._session_requests.pop(number, None)

    def offer_sessions(self, now: datetime) -> None:
        """Lock unlocked sessions with ready messages for the receivers that wait for one."""
        while self._session_requests:
            session_id = self._state.next_session_id()
            if session_id is None:
                return
            _, request = self._session_requests.popitem(last=False)
            request.accept(self.lock_session(session_id, now))

    def credit_changed(self, subscription: Subscription) -> None:
        """Start or stop deliveries to a receiver after its credit has changed."""
        if subscription.is_closed:
            self._receivers.discard(subscription)
        if not subscription.credit:
            self._with_credit.pop(subscription, None)
            return
        self._with_credit[subscription] = None
        # Each change that makes a message ready schedules a transaction itself.
        if self._state.index.ready:
            self._schedule_transaction()

    def close(self) -> None:
        """Stop all deliveries, because the queue has been deleted."""
        for subscription in list(self._with_credit):
            subscription.close()
        self._session_requests.clear()

    def assign(self, now: datetime, budget_bytes: int, assignments: list[Assignment]) -> None:
        """Assign ready messages to receivers with credit, up to `budget_bytes`.

        Peek-lock locks a message; receive-and-delete removes it.
        """
        while budget_bytes > 0 and (subscription := self._next_receiver()) is not None:
            record = self._state.take(subscription.mode, now, subscription.session_lock)
            assert record is not None
            subscription.spend()
            if subscription.credit:
                self._with_credit.move_to_end(subscription)
            else:
                del self._with_credit[subscription]
            assignments.append(Assignment(subscription, record))
            budget_bytes -= record.size_bytes
