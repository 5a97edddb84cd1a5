"""Entries and settings as the database holds them: instants and durations in microseconds."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from emulator.servicebus.broker.entry import Entry, Lock
from emulator.servicebus.broker.message import MessageState
from emulator.servicebus.broker.settings import QueueSettings

ENTRY_COLUMNS = (
    "id, queue, sequence_number, enqueue_sequence_number, enqueued_at_us, size_bytes, state,"
    " delivery_count, time_to_live_us, scheduled_at_us, expires_at_us, lock_token,"
    " locked_until_us, dead_letter_reason, dead_letter_description"
)
UPDATED_COLUMNS = (
    "queue=?, sequence_number=?, enqueued_at_us=?, state=?, delivery_count=?, expires_at_us=?,"
    " lock_token=?, locked_until_us=?, dead_letter_reason=?, dead_letter_description=?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATES = {state.value: state for state in MessageState}
_DURATIONS = "lock_duration", "default_message_time_to_live", "duplicate_detection_window"


def microseconds(at: datetime) -> int:
    """Return an instant as the database holds it."""
    return (at - _EPOCH) // _MICROSECOND


def instant(since_epoch_us: int) -> datetime:
    """Return an instant that the database holds."""
    return _EPOCH + since_epoch_us * _MICROSECOND


def insert_row(entry: Entry) -> tuple[object, ...]:
    """Return the values of ``ENTRY_COLUMNS``."""
    return (
        entry.id,
        entry.queue,
        entry.sequence_number,
        entry.enqueue_sequence_number,
        microseconds(entry.enqueued_at),
        entry.size_bytes,
        entry.state,
        entry.delivery_count,
        None if entry.time_to_live is None else entry.time_to_live // _MICROSECOND,
        _optional_microseconds(entry.scheduled_at),
        _optional_microseconds(entry.expires_at),
        None if entry.lock is None else entry.lock.token.bytes,
        None if entry.lock is None else microseconds(entry.lock.until),
        entry.dead_letter_reason,
        entry.dead_letter_description,
    )


def update_row(entry: Entry) -> tuple[object, ...]:
    """Return the values of ``UPDATED_COLUMNS``, then the id."""
    return (
        entry.queue,
        entry.sequence_number,
        microseconds(entry.enqueued_at),
        entry.state,
        entry.delivery_count,
        _optional_microseconds(entry.expires_at),
        None if entry.lock is None else entry.lock.token.bytes,
        None if entry.lock is None else microseconds(entry.lock.until),
        entry.dead_letter_reason,
        entry.dead_letter_description,
        entry.id,
    )


def entry_from_row(row: tuple[Any, ...]) -> Entry:
    """Return the entry of a row of ``ENTRY_COLUMNS``."""
    id_, queue, number, first_number, enqueued, size, state, count, ttl, *rest = row
    scheduled, expires, token, locked_until, reason, description = rest
    return Entry(
        id=id_,
        queue=queue,
        sequence_number=number,
        enqueue_sequence_number=first_number,
        enqueued_at=instant(enqueued),
        size_bytes=size,
        state=_STATES[state],
        delivery_count=count,
        time_to_live=None if ttl is None else ttl * _MICROSECOND,
        scheduled_at=_optional_instant(scheduled),
        expires_at=_optional_instant(expires),
        lock=None if token is None else Lock(UUID(bytes=token), instant(locked_until)),
        dead_letter_reason=reason,
        dead_letter_description=description,
    )


def settings_text(settings: QueueSettings) -> str:
    """Return a queue's settings as JSON, durations in microseconds."""
    values: dict[str, Any] = {
        name: getattr(settings, name) for name in QueueSettings.__dataclass_fields__
    }
    for name in _DURATIONS:
        if values[name] is not None:
            values[name] //= _MICROSECOND
    return json.dumps(values)


def settings_from_text(text: str) -> QueueSettings:
    """Return the settings that ``settings_text`` wrote."""
    values: dict[str, Any] = json.loads(text)
    for name in _DURATIONS:
        if values[name] is not None:
            values[name] *= _MICROSECOND
    return QueueSettings(**values)


def _optional_microseconds(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)


def _optional_instant(since_epoch_us: int | None) -> datetime | None:
    return None if since_epoch_us is None else instant(since_epoch_us)
