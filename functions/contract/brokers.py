"""The messages of a broker, in words of no vendor.

The gateway and the worker have one adapter each for every broker. Only an adapter imports the
library of its broker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class BrokerMessage:
    """A message to send. A broker may drop a second message with the same id.

    Without `time_to_live`, the message has the longest time of its queue. Then it is dead-lettered.
    """

    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    time_to_live: timedelta | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A message of a dead-letter queue, with the reason for which it is there.

    `delivery_count` is how often the message was delivered; None if the broker does not count.
    """

    body: bytes = field(repr=False)
    message_id: str
    correlation_id: str | None = None
    reason: str | None = None
    description: str | None = None
    delivery_count: int | None = None
    enqueued_at: datetime | None = None
    content_type: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)


REASON_EXPIRED: Final = "TTLExpiredException"
"""The reason of a message whose time to live has expired, as Service Bus gives it."""

REASON_TOO_MANY: Final = "MaxDeliveryCountExceeded"
"""The reason of a message that was delivered as often as allowed, as Service Bus gives it."""
