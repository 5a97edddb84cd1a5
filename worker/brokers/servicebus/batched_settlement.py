"""Complete several Service Bus messages in one round trip.

The SDK settles messages one by one and waits for the broker's confirmation each time. In AMQP, one
disposition frame can settle a range of deliveries, and the broker can confirm them in any order.
This module uses private attributes of the pinned SDK, because the SDK has no public function for
this.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from azure.servicebus._pyamqp.error import (
    AMQPException,
    MessageException,
    MessageSettlementUnconfirmed,
)
from azure.servicebus._pyamqp.outcomes import Accepted
from azure.servicebus._pyamqp.performatives import DispositionFrame


def complete(
    receiver: Any, messages: Sequence[Any], timeout_seconds: float, *, uses_ranges: bool = True
) -> list[bool]:
    """Complete messages, and return for each whether it was completed before its lock was lost.

    Each AMQP frame completes a range of messages, unless `uses_ranges` is False. All frames are
    sent before the first confirmation arrives. If one is missing, a RuntimeError or an error of the
    SDK is raised. Then the state of the messages is unknown, so the caller must close the link.
    """
    link = receiver._handler._link
    for message in messages:
        link._pending_dispositions[message._delivery_id] = {"settled": False, "outcome": None}
        link._received_delivery_tags.discard(message._delivery_tag)
    numbers = [message._delivery_id for message in messages]
    frames = ranges(numbers) if uses_ranges else [(number, number) for number in numbers]
    try:
        for first, last in frames:
            link._session._outgoing_disposition(
                DispositionFrame(link.role, first, last, False, Accepted(), None)
            )
        return [_is_completed(link, message, timeout_seconds) for message in messages]
    except AMQPException as error:
        raise RuntimeError(
            f"Service Bus did not confirm that messages were completed: {error}"
        ) from error


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
    """Return whether the current link has received this message, which is not yet settled."""
    return (
        message._delivery_tag in receiver._handler._link._received_delivery_tags
        and not message._settled
        and not message._lock_expired
    )


def has_range(messages: Sequence[Any]) -> bool:
    """Return whether one AMQP frame would complete several of these messages."""
    return any(first != last for first, last in ranges(each._delivery_id for each in messages))


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last number of each group of consecutive numbers."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
