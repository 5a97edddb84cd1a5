"""Build error texts in the words of Azure Service Bus, because some clients parse these texts.

Azure adds ids to each error text. With these ids, Azure's operators find the error in their logs.
The ids that this module adds are random. Their only purpose is that the texts have the same form as
in Azure.
"""

from datetime import UTC, datetime
from uuid import uuid4

HOST = "localhost"
_MAX_ENTITY_LENGTH = 300


def add_tracking(text: str, entity: str) -> str:
    """Add a tracking id, the address of an entity and the current time to an error text."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return (
        f"{text} TrackingId:{uuid4()}_G0,"
        f" SystemTracker:{HOST}:{entity[:_MAX_ENTITY_LENGTH]}, Timestamp:{now}"
    )


def entity_url(entity: str) -> str:
    """Return the URL that Azure's error texts contain for a queue, topic or subscription."""
    return f"sb://{HOST}/{entity[:_MAX_ENTITY_LENGTH]}"
