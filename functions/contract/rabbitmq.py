"""The queues and the headers that the gateway and the workers use on RabbitMQ.

Each queue `Q` is a quorum queue with the dead-letter queue `Q.dead`. The gateway and the workers
declare both when they connect, so their arguments are here. The times in headers are milliseconds
since 1970 in UTC, because AMQP 0-9-1 has only seconds.

RabbitMQ 4.0 counts every way in which a message comes back to its queue in `x-delivery-count`:
nack, reject, the close of a channel, and the loss of a connection. So a worker that returns a
message on purpose publishes a copy, which has a count of its own in its headers, and acknowledges
the original. The copy has a high priority: it is delivered before the jobs that were behind it.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from contract.brokers import REASON_EXPIRED, REASON_TOO_MANY, BrokerMessage, DeadMessage
from contract.catalogue import Catalogue
from contract.names import low_priority_queue
from contract.queues import LONGEST_BATCH_SECONDS, queue_delivery_count

DEAD: Final = ".dead"
"""The end of the name of a dead-letter queue."""

HEADER_ENQUEUED: Final = "enqueued-at"
HEADER_EXPIRES: Final = "expires-at"
HEADER_DELIVERIES: Final = "deliveries"
"""How often the message was delivered before the worker published this copy."""

HEADER_REASON: Final = "dead-letter-reason"
HEADER_DESCRIPTION: Final = "dead-letter-description"
BROKERS_COUNT: Final = "x-delivery-count"

# How long a worker may have a message after the job's deadline.
_AFTER_DEADLINE_SECONDS: Final = 3600

HIGH_PRIORITY: Final = 5
"""Quorum queues have two priorities: from 5 on, a message is delivered before the others."""

_REASONS: Final = {"expired": REASON_EXPIRED, "delivery_limit": REASON_TOO_MANY}
_OURS: Final = frozenset(
    {HEADER_ENQUEUED, HEADER_EXPIRES, HEADER_DELIVERIES, HEADER_REASON, HEADER_DESCRIPTION}
)


def dead_queue(queue: str) -> str:
    """Return the name of the dead-letter queue that belongs to a queue."""
    return f"{queue}{DEAD}"


def dead_queue_arguments() -> dict[str, Any]:
    """Return the arguments with which every dead-letter queue is declared."""
    return {"x-queue-type": "quorum", "x-delivery-limit": -1}


def queue_arguments(longest_seconds: int, delivery_limit: int, queue: str) -> dict[str, Any]:
    """Return the arguments with which a model's queue is declared.

    A message is dead-lettered after `longest_seconds` or `delivery_limit` lost deliveries.
    """
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-message-ttl": longest_seconds * 1000,
        # Otherwise RabbitMQ closes the channel of a worker that has a message for 30 minutes.
        "x-consumer-timeout": (longest_seconds + _AFTER_DEADLINE_SECONDS) * 1000,
        # A dead letter is removed from its queue when the dead-letter queue has confirmed it. This
        # strategy needs the overflow behaviour.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_queue(queue),
    }


def declarations(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    """Return the arguments of all models' queues and dead-letter queues, by name."""
    found: dict[str, dict[str, Any]] = {}
    for model in catalogue.values():
        limit, longest = queue_delivery_count(model), model.max_deadline_seconds
        low = low_priority_queue(model.queue)
        for name, seconds in (
            (model.queue, longest),
            (low, max(longest, LONGEST_BATCH_SECONDS)),
        ):
            found[dead_queue(name)] = dead_queue_arguments()
            found[name] = queue_arguments(seconds, limit, name)
    return found


def to_milliseconds(time: datetime) -> int:
    """Return a time as milliseconds since 1970."""
    return round(time.timestamp() * 1000)


def from_milliseconds(value: object) -> datetime | None:
    """Return the time of a header; None if the header is missing or not valid."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def headers_of(message: BrokerMessage, now: datetime) -> dict[str, Any]:
    """Return the headers of a new message."""
    headers: dict[str, Any] = {**message.properties, HEADER_ENQUEUED: to_milliseconds(now)}
    if message.time_to_live is not None:
        headers[HEADER_EXPIRES] = to_milliseconds(now + message.time_to_live)
    return headers


def expiration_of(time_to_live: timedelta | None) -> str | None:
    """Return the property `expiration` of a message: whole milliseconds, at least 1."""
    if time_to_live is None:
        return None
    return str(max(1, math.ceil(time_to_live.total_seconds() * 1000)))


def time_left(headers: Mapping[str, Any], now: datetime) -> timedelta | None:
    """Return how long a copy of a message may live; None if the message has no such time."""
    expires_at = from_milliseconds(headers.get(HEADER_EXPIRES))
    return None if expires_at is None else expires_at - now


def whole(value: object) -> int:
    """Return the count in a header; 0 if it is missing or not valid."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return int(value) if is_count else 0  # type: ignore[call-overload]  # checked before


def properties_of(headers: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers with a text that are not of this module."""
    return {
        name: value
        for name, value in headers.items()
        if isinstance(value, str) and name not in _OURS and not name.startswith("x-")
    }


def read_dead_message(
    body: bytes,
    headers: Mapping[str, Any],
    message_id: str | None,
    correlation_id: str | None,
    content_type: str | None,
) -> DeadMessage:
    """Return a message of a dead-letter queue, with the reason that a worker or RabbitMQ gave."""
    reason, description = headers.get(HEADER_REASON), headers.get(HEADER_DESCRIPTION)
    if not isinstance(reason, str):
        reason = _brokers_reason(headers)
    enqueued_at = from_milliseconds(headers.get(HEADER_ENQUEUED))
    return DeadMessage(
        body,
        message_id or (f"enqueued-at-{headers.get(HEADER_ENQUEUED)}" if enqueued_at else "unknown"),
        correlation_id,
        reason,
        description if isinstance(description, str) else None,
        whole(headers.get(HEADER_DELIVERIES)) + whole(headers.get(BROKERS_COUNT)),
        enqueued_at,
        content_type,
        properties_of(headers),
    )


def _brokers_reason(headers: Mapping[str, Any]) -> str | None:
    deaths = headers.get("x-death")
    if not isinstance(deaths, list) or not deaths or not isinstance(deaths[0], Mapping):
        return None
    reason = deaths[0].get("reason")
    return _REASONS.get(reason, reason) if isinstance(reason, str) else None
