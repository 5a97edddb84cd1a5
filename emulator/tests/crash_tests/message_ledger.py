"""Compare the messages that a queue delivers with the operations that the queue has acknowledged.

A client records each operation twice: before it sends the operation, and after the queue has
acknowledged the operation. An operation without an acknowledgement is in doubt, because the service
may have been killed before or after the operation.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

COMPLETE, ABANDON, DEAD_LETTER, DEFER = "complete", "abandon", "dead-letter", "defer"
CANCEL = "cancel"
SETTLEMENTS = (COMPLETE, ABANDON, DEAD_LETTER, DEFER)
QUEUE, DEAD_LETTERS = "queue", "dead-letter queue"
DEFERRED_STATE = 1


@dataclass(frozen=True)
class FoundMessage:
    """A message that is in the queue, or in its dead-letter queue, after the last kill.

    `place` is `QUEUE` or `DEAD_LETTERS`. `state` is Service Bus's number for the message's state,
    for example 1 for a deferred message.
    """

    key: str
    place: str
    state: int
    sequence_number: int
    delivery_count: int


@dataclass
class _History:
    """What clients know about one message, such as its sequence number and its last delivery.

    `floor` is the highest sequence number that clients had seen before a client began to send this
    message, so the message must get a higher number. `in_doubt` contains the settlements and the
    cancellation that a client has begun after the last delivery.
    """

    floor: int
    is_acknowledged: bool = False
    sequence_number: int | None = None
    scheduled_number: int | None = None
    delivery_count: int = -1
    locked_until: float = 0.0
    settlement: str | None = None
    in_doubt: set[str] = field(default_factory=set)
    is_settling: bool = False

    def may_be_missing(self) -> bool:
        return bool(self.in_doubt & {COMPLETE, CANCEL})


class MessageLedger:
    """Records the operations on the messages of one queue, and finds contradictions between them.

    Each message has a unique key, which is also its message id. The queue must detect duplicates.
    `violations` contains a sentence for each contradiction.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._messages: dict[str, _History] = {}
        self._highest_number = 0

    def progress(self) -> list[int]:
        """Return how many sends and how many completions were acknowledged so far."""
        return [self.counts["sent"], self.counts[f"acknowledged {COMPLETE}"]]

    # Sending

    def begin_send(self, key: str) -> None:
        """Record that a client begins to send or to schedule a message."""
        self._messages.setdefault(key, _History(self._highest_number))

    def confirm_send(self, key: str) -> None:
        """Record that the queue has acknowledged that it has stored a message."""
        self._messages[key].is_acknowledged = True
        self.counts["sent"] += 1

    def confirm_schedule(self, key: str, sequence_number: int) -> None:
        """Record that the queue has acknowledged a scheduled message with this sequence number."""
        history = self._messages[key]
        history.is_acknowledged = True
        history.scheduled_number = sequence_number
        self._check_number(key, history.floor, sequence_number)
        self.counts["scheduled"] += 1

    def begin_cancel(self, key: str) -> None:
        """Record that a client begins to cancel a scheduled message."""
        self._messages[key].in_doubt.add(CANCEL)

    def confirm_cancel(self, key: str) -> None:
        """Record that the queue has acknowledged the cancellation of a scheduled message."""
        self._messages[key].settlement = CANCEL
        self.counts["cancelled"] += 1

    # Receiving

    def deliver(
        self,
        key: str,
        *,
        sequence_number: int,
        delivery_count: int,
        received_at: float,
        locked_until: float,
    ) -> None:
        """Record a delivery of a message, and add contradictions to earlier operations."""
        self.counts["delivered"] += 1
        history = self._messages.get(key)
        if history is None:
            self._report(key, "was delivered, but no client has sent it")
            return
        if history.settlement is not None:
            self._report(key, f"was delivered after its {history.settlement} was acknowledged")
        if history.sequence_number is None:
            history.sequence_number = sequence_number
            self._check_number(key, history.floor, sequence_number)
        elif history.sequence_number != sequence_number:
            self._report(
                key,
                f"has the sequence number {sequence_number}, and had {history.sequence_number}",
            )
        # Each delivery to this client ended with an abandon or with the end of the lock.
        if delivery_count <= history.delivery_count:
            self._report(
                key,
                f"was delivered again with the delivery count {delivery_count}; the count of the "
                f"delivery before it was {history.delivery_count}",
            )
        if received_at < history.locked_until and not history.is_settling:
            early_seconds = history.locked_until - received_at
            self._report(key, f"was delivered again {early_seconds:.3f} s before its lock ended")
        history.delivery_count = delivery_count
        history.locked_until = locked_until
        history.is_settling = False
        # The operations in doubt have not happened, or the message would not be here.
        history.in_doubt.clear()

    def confirm_renewal(self, key: str, locked_until: float) -> None:
        """Record that the queue has renewed the lock of a message."""
        self._messages[key].locked_until = locked_until
        self.counts["renewed"] += 1

    def begin_settlement(self, key: str, settlement: str) -> None:
        """Record that a client begins to settle a message that it has received."""
        history = self._messages[key]
        history.in_doubt.add(settlement)
        history.is_settling = True

    def confirm_settlement(self, key: str, settlement: str) -> None:
        """Record that the queue has acknowledged the settlement of a message."""
        if settlement != ABANDON:
            self._messages[key].settlement = settlement
        self.counts[f"acknowledged {settlement}"] += 1

    # The end

    def judge(self, found: Iterable[FoundMessage]) -> None:
        """Compare the messages that are found at the end of the test with the acknowledgements.

        Each contradiction, such as a lost message, is added to `violations`.
        """
        by_key: dict[str, FoundMessage] = {}
        for each in found:
            if each.key in by_key:
                self._report(each.key, "is in the queues twice")
            by_key[each.key] = each
        for key, history in self._messages.items():
            self._judge(key, history, by_key.pop(key, None))
        for key in by_key:
            self._report(key, "is in a queue, but no client has sent it")
        self.counts["in doubt at the end"] = sum(
            not each.is_acknowledged or (each.settlement is None and each.may_be_missing())
            for each in self._messages.values()
        )

    def _judge(self, key: str, history: _History, found: FoundMessage | None) -> None:
        settlement = history.settlement
        if settlement in {COMPLETE, CANCEL}:
            if found is not None:
                self._report(key, f"is in the {found.place} after its {settlement}")
        elif found is None:
            if history.is_acknowledged and (settlement or not history.may_be_missing()):
                self._report(key, f"was acknowledged and is lost ({settlement or 'not settled'})")
        else:
            self._judge_found(key, history, found)

    def _judge_found(self, key: str, history: _History, found: FoundMessage) -> None:
        is_deferred = found.place == QUEUE and found.state == DEFERRED_STATE
        is_dead = found.place == DEAD_LETTERS
        if (history.settlement == DEFER and not is_deferred) or (
            history.settlement == DEAD_LETTER and not is_dead
        ):
            self._report(
                key, f"is in the {found.place} (state {found.state}) after {history.settlement}"
            )
        if is_dead and DEAD_LETTER not in history.in_doubt:
            self._report(key, "is in the dead-letter queue, but no client has dead-lettered it")
        if is_deferred and DEFER not in history.in_doubt:
            self._report(key, "is deferred, but no client has deferred it")
        if history.sequence_number not in {None, found.sequence_number} and not is_dead:
            self._report(
                key, f"has the sequence number {found.sequence_number} in the {found.place}"
            )
        if found.delivery_count < history.delivery_count:
            self._report(
                key,
                f"has the delivery count {found.delivery_count} in the {found.place}, and had "
                f"{history.delivery_count}",
            )

    def _check_number(self, key: str, floor: int, sequence_number: int) -> None:
        if sequence_number <= floor:
            self._report(
                key, f"got the sequence number {sequence_number} after {floor} was given out"
            )
        self._highest_number = max(self._highest_number, sequence_number)

    def _report(self, key: str, problem: str) -> None:
        self.violations.append(f"message {key} {problem}")
