"""The properties of a queue in Azure's words, to and from settings.

What would change a queue's behaviour in a way that this broker does not have is refused; what
only tunes Azure's own machinery is accepted.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from emulator.servicebus.broker.duration import UNBOUNDED, format_duration, parse_duration
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.settings import QueueCounts, QueueSettings

_DEFAULT_DUPLICATE_WINDOW = timedelta(minutes=10)
_MEGABYTE = 1024 * 1024
_FORWARDING = "ForwardTo", "ForwardDeadLetteredMessagesTo"
_REFUSED_IF_TRUE = "RequiresSession", "EnablePartitioning"


def properties_of(settings: QueueSettings, counts: QueueCounts) -> list[tuple[str, str]]:
    """Return a queue's properties, in the order in which Azure lists them."""
    return [
        ("LockDuration", format_duration(settings.lock_duration)),
        ("MaxSizeInMegabytes", str(max(1, settings.max_size_bytes // _MEGABYTE))),
        ("RequiresDuplicateDetection", _flag(settings.duplicate_detection_window is not None)),
        ("RequiresSession", "false"),
        (
            "DefaultMessageTimeToLive",
            format_duration(settings.default_message_time_to_live or UNBOUNDED),
        ),
        (
            "DeadLetteringOnMessageExpiration",
            _flag(settings.dead_lettering_on_message_expiration),
        ),
        (
            "DuplicateDetectionHistoryTimeWindow",
            format_duration(settings.duplicate_detection_window or _DEFAULT_DUPLICATE_WINDOW),
        ),
        ("MaxDeliveryCount", str(settings.max_delivery_count)),
        ("EnableBatchedOperations", "true"),
        ("SizeInBytes", str(counts.size_bytes)),
        ("MessageCount", str(counts.total)),
        ("IsAnonymousAccessible", "false"),
        ("Status", "Active"),
        ("SupportOrdering", "true"),
        ("AutoDeleteOnIdle", format_duration(UNBOUNDED)),
        ("EnablePartitioning", "false"),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", "false"),
        ("MaxMessageSizeInKilobytes", str(settings.max_message_bytes // 1024)),
    ]


def count_details(counts: QueueCounts) -> list[tuple[str, int]]:
    """Return the counts of the runtime properties."""
    return [
        ("ActiveMessageCount", counts.active),
        ("DeadLetterMessageCount", counts.dead_letter),
        ("ScheduledMessageCount", counts.scheduled),
        ("TransferDeadLetterMessageCount", counts.transfer_dead_letter),
        ("TransferMessageCount", 0),
    ]


def settings_from(name: str, properties: Mapping[str, str]) -> QueueSettings:
    """Return the settings that the properties ask for; raises ArgumentError."""
    for forwarding in _FORWARDING:
        if properties.get(forwarding):
            raise ArgumentError(f"{forwarding}: forwarding is not supported")
    for refused in _REFUSED_IF_TRUE:
        if _read_flag(properties, refused):
            raise ArgumentError(f"{refused}: is not supported")
    if properties.get("Status", "Active") != "Active":
        raise ArgumentError("Status: only Active is supported")
    if _read_duration(properties, "AutoDeleteOnIdle", UNBOUNDED) < UNBOUNDED:
        raise ArgumentError("AutoDeleteOnIdle: is not supported")
    time_to_live = _read_duration(properties, "DefaultMessageTimeToLive", UNBOUNDED)
    window = _read_duration(
        properties, "DuplicateDetectionHistoryTimeWindow", _DEFAULT_DUPLICATE_WINDOW
    )
    detects_duplicates = _read_flag(properties, "RequiresDuplicateDetection")
    return QueueSettings(
        name=name,
        lock_duration=_read_duration(properties, "LockDuration", timedelta(minutes=1)),
        max_delivery_count=_read_number(properties, "MaxDeliveryCount", 10),
        default_message_time_to_live=time_to_live if time_to_live < UNBOUNDED else None,
        dead_lettering_on_message_expiration=_read_flag(
            properties, "DeadLetteringOnMessageExpiration"
        ),
        duplicate_detection_window=window if detects_duplicates else None,
        max_message_bytes=_read_number(properties, "MaxMessageSizeInKilobytes", 256) * 1024,
        max_size_bytes=_read_number(properties, "MaxSizeInMegabytes", 1024) * _MEGABYTE,
    )


def changed_settings(before: QueueSettings, properties: Mapping[str, str]) -> QueueSettings:
    """Return the settings after an update; raises ArgumentError for what is fixed for life."""
    after = settings_from(before.name, properties)
    if (before.duplicate_detection_window is None) != (after.duplicate_detection_window is None):
        raise ArgumentError("RequiresDuplicateDetection: cannot be changed")
    return replace(after, name=before.name)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _read_flag(properties: Mapping[str, str], name: str) -> bool:
    value = properties.get(name, "false").lower()
    if value not in {"true", "false", "1", "0"}:
        raise ArgumentError(f"{name}: must be true or false")
    return value in {"true", "1"}


def _read_number(properties: Mapping[str, str], name: str, default: int) -> int:
    value = properties.get(name, str(default))
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ArgumentError(f"{name}: must be a whole number")
    return int(value)


def _read_duration(properties: Mapping[str, str], name: str, default: timedelta) -> timedelta:
    if name not in properties:
        return default
    try:
        return parse_duration(properties[name])
    except ValueError as error:
        raise ArgumentError(f"{name}: {error}") from error
