"""Build error texts in the words of Azure Service Bus, because some clients parse these texts.

Azure adds ids to each text, with which its operators find the error in their logs. The ids that
this module adds are random: they only give the texts the same form.
"""

from datetime import UTC, datetime
from uuid import uuid4

HOST = "localhost"
_MAX_ENTITY_LENGTH = 300


def add_tracking(text: str, entity: str) -> str:
    """Return an error text with a tracking id, the name of the entity, and the current time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return (
        f"{text} TrackingId:{uuid4()}_G0,"
        f" SystemTracker:{HOST}:{entity[:_MAX_ENTITY_LENGTH]}, Timestamp:{now}"
    )


def entity_url(entity: str) -> str:
    """Return the URL with which Azure names an entity in error texts."""
    return f"sb://{HOST}/{entity[:_MAX_ENTITY_LENGTH]}"
