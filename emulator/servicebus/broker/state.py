"""The life of the messages of one queue, without any input or output: time is an argument."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from emulator.servicebus.broker.duplicates import DuplicateHistory, Sighting
from emulator.servicebus.broker.entry import Entry, Lock
from emulator.servicebus.broker.errors import (
    ArgumentError,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
)
from emulator.servicebus.broker.ledger import Ledger
from emulator.servicebus.broker.message import IncomingMessage, MessageState, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings

_MAX_REASON_LENGTH = 4096


class QueueState:
    """One queue, or one dead-letter queue, whose messages neither expire nor move on."""

    def __init__(
        self,
        number: int,
        settings: QueueSettings,
        ledger: Ledger,
        dead_letters: "QueueState | None",
        next_sequence_number: int = 1,
    ) -> None:
        self.number = number
        self.settings = settings
        self.shelf = ledger.shelf(number)
        self.duplicates = DuplicateHistory()
        self.next_sequence_number = next_sequence_number
        self.committed_sequence_number = next_sequence_number
        """What ``next_sequence_number`` was at the last commit."""
        self._ledger = ledger
        self._dead_letters = dead_letters

    # Transactions: the ledger takes entries back, the queue what it keeps beside them.

    def commit(self) -> None:
        """Let what happened since the last commit stand."""
        self.committed_sequence_number = self.next_sequence_number
        self.duplicates.commit()

    def rollback(self) -> None:
        """Take back what happened since the last commit."""
        self.next_sequence_number = self.committed_sequence_number
        self.duplicates.rollback()

    # Coming in

    def accept(self, message: IncomingMessage, now: datetime) -> tuple[int, Entry | None]:
        """Take a message in; returns its sequence number, and no entry for a duplicate.

        A duplicate is accepted and dropped: it gets the number of the message that it repeats.
        """
        window = self.settings.duplicate_detection_window
        if window is not None and message.message_id is not None:
            self.duplicates.forget(now, window)
            known = self.duplicates.find(message.message_id)
            if known is not None:
                return known, None
        number = self._new_sequence_number()
        if window is not None and message.message_id is not None:
            self.duplicates.record(Sighting(number, message.message_id, now))
        later = message.scheduled_at is not None and message.scheduled_at > now
        entry = Entry(
            id=self._ledger.new_id(),
            queue=self.number,
            sequence_number=number,
            enqueue_sequence_number=number,
            enqueued_at=now,
            size_bytes=message.size_bytes,
            state=MessageState.SCHEDULED if later else MessageState.ACTIVE,
            time_to_live=message.time_to_live,
            scheduled_at=message.scheduled_at,
            expires_at=None if later else self._expiry(message.time_to_live, now),
        )
        self._ledger.put(entry)
        return number, entry

    def cancel(self, sequence_numbers: Iterable[int]) -> None:
        """Take scheduled messages out again, all or none; raises MessageNotFound."""
        for entry in self._find(sequence_numbers, MessageState.SCHEDULED):
            self._ledger.remove(entry.id)

    # Going out

    def take(self, mode: ReceiveMode, now: datetime) -> Entry | None:
        """Hand out the first message that is ready."""
        number = self.shelf.ready.first()
        return None if number is None else self._hand_out(number, mode, now)

    def take_deferred(
        self, sequence_numbers: Iterable[int], mode: ReceiveMode, now: datetime
    ) -> list[Entry]:
        """Hand out deferred messages, all or none; raises MessageNotFound."""
        found = self._find(sequence_numbers, MessageState.DEFERRED)
        return [self._hand_out(entry.sequence_number, mode, now) for entry in found]

    def _hand_out(self, sequence_number: int, mode: ReceiveMode, now: datetime) -> Entry:
        entry = self.shelf.by_sequence[sequence_number]
        if mode is ReceiveMode.RECEIVE_AND_DELETE:
            self._ledger.remove(entry.id)
            return entry
        locked = replace(entry, lock=Lock(uuid4(), now + self.settings.lock_duration))
        self._ledger.put(locked)
        return locked

    def _find(self, sequence_numbers: Iterable[int], state: MessageState) -> list[Entry]:
        found = []
        for number in dict.fromkeys(sequence_numbers):
            entry = self.shelf.by_sequence.get(number)
            if entry is None or entry.state is not state or entry.lock is not None:
                raise MessageNotFound(
                    f"no {state.name.lower()} message has the sequence number {number}"
                )
            found.append(entry)
        return found

    # Settling

    def complete(self, token: UUID, now: datetime) -> None:
        """Let the message go."""
        self._ledger.remove(self._locked(token, now).id)

    def abandon(self, token: UUID, now: datetime) -> None:
        """Give the message back as one whose delivery failed."""
        self._give_back(self._locked(token, now), now, failed=True)

    def release(self, token: UUID, now: datetime) -> None:
        """Give the message back as one that was never looked at."""
        self._give_back(self._locked(token, now), now, failed=False)

    def defer(self, token: UUID, now: datetime) -> None:
        """Set the message aside until it is asked for by its sequence number."""
        entry = self._locked(token, now)
        self._give_back(replace(entry, state=MessageState.DEFERRED), now, failed=False)

    def dead_letter(
        self, token: UUID, reason: str | None, description: str | None, now: datetime
    ) -> None:
        """Move the message to the dead-letter queue."""
        entry = self._locked(token, now)
        if self._dead_letters is None:
            raise NotAllowed("a message in a dead-letter queue cannot be dead-lettered")
        for text in (reason, description):
            if text is None:
                continue
            if len(text) > _MAX_REASON_LENGTH:
                raise ArgumentError(
                    f"a dead-letter reason or description is over {_MAX_REASON_LENGTH} characters"
                )
            raise_if_unwritable(text)
        self._move_to_dead_letters(entry, reason, description)

    def renew(self, tokens: Sequence[UUID], now: datetime) -> list[datetime]:
        """Let the locks last for the lock duration from now on, all or none."""
        until = now + self.settings.lock_duration
        for entry in [self._locked(token, now) for token in tokens]:
            self._ledger.put(replace(entry, lock=Lock(self._token(entry), until)))
        return [until] * len(tokens)

    def _locked(self, token: UUID, now: datetime) -> Entry:
        entry = self.shelf.by_token.get(token)
        if entry is None or entry.lock is None or entry.lock.until <= now:
            raise MessageLockLost(
                "the lock is lost: it expired, or the message was settled or received again"
            )
        return entry

    @staticmethod
    def _token(entry: Entry) -> UUID:
        assert entry.lock is not None
        return entry.lock.token

    # What happens by itself

    def advance(self, entry: Entry, now: datetime) -> None:
        """Do what is due: a lock or a time to live that is over, a scheduled message's start."""
        if entry.lock is not None:
            self._give_back(entry, now, failed=True)
        elif entry.state is MessageState.SCHEDULED:
            self._activate(entry, now)
        else:
            self._expire(entry)

    def _activate(self, entry: Entry, now: datetime) -> None:
        # As in Azure it joins the end of the queue, with the number and the time of this moment.
        self._ledger.put(
            replace(
                entry,
                sequence_number=self._new_sequence_number(),
                enqueued_at=now,
                state=MessageState.ACTIVE,
                expires_at=self._expiry(entry.time_to_live, now),
            )
        )

    def _give_back(self, entry: Entry, now: datetime, *, failed: bool) -> None:
        entry = replace(entry, lock=None, delivery_count=entry.delivery_count + failed)
        limit = self.settings.max_delivery_count
        if failed and self._dead_letters is not None and entry.delivery_count >= limit:
            self._move_to_dead_letters(
                entry,
                "MaxDeliveryCountExceeded",
                f"Message could not be consumed after {limit} delivery attempts.",
            )
        elif entry.expired(now):
            self._expire(entry)
        else:
            self._ledger.put(entry)

    def _expire(self, entry: Entry) -> None:
        if self.settings.dead_lettering_on_message_expiration:
            self._move_to_dead_letters(
                entry, "TTLExpiredException", "The message expired and was dead lettered."
            )
        else:
            self._ledger.remove(entry.id)

    def _move_to_dead_letters(
        self, entry: Entry, reason: str | None, description: str | None
    ) -> None:
        assert self._dead_letters is not None
        self._ledger.put(
            replace(
                entry,
                queue=self._dead_letters.number,
                state=MessageState.ACTIVE,
                expires_at=None,
                lock=None,
                dead_letter_reason=reason,
                dead_letter_description=description,
            )
        )

    def _new_sequence_number(self) -> int:
        self.next_sequence_number += 1
        return self.next_sequence_number - 1

    def _expiry(self, time_to_live: timedelta | None, now: datetime) -> datetime | None:
        lives = [self.settings.default_message_time_to_live, time_to_live]
        shortest = min((life for life in lives if life is not None), default=None)
        if shortest is None:
            return None
        try:
            return now + shortest
        except OverflowError:
            return None


def raise_if_unwritable(text: str) -> None:
    """Raise ArgumentError for a text that is not valid Unicode, which no database would take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentError("a text is not valid Unicode") from None
