"""Read the messages that senders send, and encode the messages that receivers receive.

The broker stores the sections of a message as the sender encoded them. For a delivery, only the
header and the annotations are encoded again. The properties that receivers set when they settled a
message are added to its application properties. A dead-lettered message also gets the application
properties `DeadLetterReason` and `DeadLetterErrorDescription`.

See "Messages, payloads, and serialization" and "AMQP 1.0 in Azure Service Bus protocol guide"
(learn.microsoft.com).
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from emulator.servicebus.amqp.codec import decode, encode, encode_list
from emulator.servicebus.amqp.errors import DecodeError, MessageFault
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    Sections,
    list_items,
    map_items,
    replace_pairs,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import Raw, Symbol, Timestamp, UInt, ULong
from emulator.servicebus.broker.durations import format_duration
from emulator.servicebus.broker.message import IncomingMessage, PropertyChanges, StoredMessage
from emulator.servicebus.broker.property_values import MessageProperties, PropertyUpdate, Value

BATCH_FORMAT = 0x80013700
_MAX_BATCH_MESSAGES = 4500
_GROUP_ID_FIELD = 10

_SCHEDULED = "x-opt-scheduled-enqueue-time"
_LOCK_TOKEN = "x-opt-lock-token"  # noqa: S105 - the name of an annotation
_REASON = "DeadLetterReason"
_DESCRIPTION = "DeadLetterErrorDescription"


def _key(name: str) -> bytes:
    return encode(Symbol(name))


_LOCK_TOKEN_KEY = _key(_LOCK_TOKEN) + b"\x98"
_SEQUENCE_NUMBER_KEY = _key("x-opt-sequence-number") + b"\x81"
_ENQUEUED_KEY = _key("x-opt-enqueued-time") + b"\x83"
_ENQUEUE_SEQUENCE_KEY = _key("x-opt-enqueue-sequence-number") + b"\x81"
_STATE_KEY = _key("x-opt-message-state") + b"\x54"
_LOCKED_UNTIL_KEY = _key("x-opt-locked-until") + b"\x83"
_SOURCE_KEY = _key("x-opt-deadletter-source")
_OURS = frozenset(
    (
        "x-opt-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-enqueue-sequence-number",
        "x-opt-message-state",
        "x-opt-locked-until",
        "x-opt-deadletter-source",
    )
)
_INT64 = struct.Struct(">q").pack


# Reading messages from a sender


def read_messages(payload: bytes, message_format: int) -> list[IncomingMessage]:
    """Read a delivery, which is one message or a batch.

    Raises DecodeError if it is malformed, and MessageFault for another format or an empty or too
    large batch.
    """
    if message_format == 0:
        return [read_message(payload)]
    if message_format != BATCH_FORMAT:
        raise MessageFault(
            "amqp:not-implemented", f"the message format 0x{message_format:x} is not supported"
        )
    parts = split(payload).body
    if not parts or any(part[2] != DATA for part in parts):
        raise MessageFault(
            "amqp:invalid-field", "a batch must have at least one message, each in a data section"
        )
    if len(parts) > _MAX_BATCH_MESSAGES:
        raise MessageFault(
            "amqp:not-allowed", f"a batch has more than {_MAX_BATCH_MESSAGES} messages"
        )
    messages = [section_value(part) for part in parts]
    if not all(isinstance(message, bytes) for message in messages):
        raise DecodeError("a data section of a batch must contain a binary value")
    return [read_message(message) for message in messages]


def read_message(payload: bytes) -> IncomingMessage:
    """Read a message; without an id it gets 32 hexadecimal digits. Raises DecodeError."""
    sections = split(payload)
    annotations = map_items(sections.message_annotations)
    # Check these sections now, while the message can still be refused. A delivery adds pairs to the
    # sections, which is not possible if they are malformed.
    map_items(sections.delivery_annotations)
    map_items(sections.application_properties)
    header = list_items(sections.header)
    properties = list_items(sections.properties)
    message_id = _message_id(properties[0]) if properties else None
    if message_id is None:
        new_id = encode(uuid4().hex)
        sections = replace(sections, properties=_section_of_properties([new_id, *properties[1:]]))
    return IncomingMessage(
        header=sections.header,
        annotations=sections.delivery_annotations + sections.message_annotations,
        bare=sections.bare,
        message_id=message_id,
        time_to_live=_time_to_live(header[2]) if len(header) > 2 else None,
        scheduled_at=_instant(annotations[_SCHEDULED][1]) if _SCHEDULED in annotations else None,
        session_id=_session_id(properties),
    )


def _section_of_properties(items: Sequence[bytes]) -> bytes:
    return b"\x00\x53" + bytes((PROPERTIES,)) + encode_list(list(map(Raw, items)))


def _message_id(encoded: bytes) -> str | None:
    value = decode(encoded)
    if value is None:
        return None
    return value.hex() if isinstance(value, bytes) else str(value)


def _session_id(properties: Sequence[bytes]) -> str | None:
    """Return the id of the message session, which is the field `group-id` of the properties."""
    if len(properties) <= _GROUP_ID_FIELD:
        return None
    value = decode(properties[_GROUP_ID_FIELD])
    # A symbol is a str, too, but the broker compares and lists the ids as plain strings.
    return str(value) if isinstance(value, str) else None


def _time_to_live(encoded: bytes) -> timedelta | None:
    value = decode(encoded)
    if value is None:
        return None
    if not isinstance(value, UInt):
        raise DecodeError("the ttl of a message must be a uint")
    return timedelta(milliseconds=value)


def _instant(encoded: bytes) -> datetime | None:
    value = decode(encoded)
    if value is None:
        return None
    if not isinstance(value, Timestamp):
        raise DecodeError(f"{_SCHEDULED} must be a timestamp")
    try:
        return value.instant()
    except OverflowError:
        raise DecodeError(f"the time in {_SCHEDULED} must be in the years 1 to 9999") from None


def encode_changes(properties: Mapping[Any, Any]) -> PropertyChanges:
    """Encode the properties that a settlement sets. Raises MessageFault for other names."""
    if not all(isinstance(name, str) for name in properties):
        raise MessageFault(
            "com.microsoft:argument-error",
            "the name of a property to modify is neither a string nor a symbol",
        )
    return tuple((str(name), encode(value)) for name, value in properties.items())


# Reading and changing the properties that rules of subscriptions use

_SYSTEM_FIELDS = {
    "MessageId": 0,
    "To": 2,
    "Label": 3,
    "ReplyTo": 4,
    "CorrelationId": 5,
    "ContentType": 6,
    "SessionId": 10,
    "ReplyToSessionId": 12,
}
"""The positions of system properties in the section `properties`."""

_FIELD_COUNT = 13
_SYMBOLS = {"ContentType"}
_PARTITION_KEY = "x-opt-partition-key"
_NULL = encode(None)
_MAX_LONG = 2**63 - 1


class AmqpMessageFormat:
    """Reads and changes the properties of messages that are encoded in AMQP."""

    def read_properties(self, message: IncomingMessage) -> MessageProperties:
        """Return the properties that filters can compare, so no lists or decimals."""
        sections = split(message.annotations + message.bare)
        system: dict[str, Value] = {}
        fields = list_items(sections.properties)
        for name, position in _SYSTEM_FIELDS.items():
            value = _filtered_value(fields[position]) if position < len(fields) else None
            if value is not None:
                system[name.casefold()] = str(value)
        annotations = map_items(sections.message_annotations)
        if _PARTITION_KEY in annotations:
            key = _filtered_value(annotations[_PARTITION_KEY][1])
            if isinstance(key, str):
                system["partitionkey"] = key
        application: dict[str, Value] = {}
        for name, (_, item) in map_items(sections.application_properties).items():
            value = _filtered_value(item)
            if value is not None:
                application.setdefault(name.casefold(), value)
        return MessageProperties(system, application)

    def update_properties(
        self, message: IncomingMessage, updates: Sequence[PropertyUpdate]
    ) -> IncomingMessage:
        """Apply `updates` to the properties of a message, and return the changed message."""
        sections = split(message.bare)
        fields = list_items(sections.properties)
        fields += [_NULL] * (_FIELD_COUNT - len(fields))
        changed: dict[str, PropertyUpdate] = {}
        for update in updates:
            if update.is_system:
                fields[_SYSTEM_FIELDS[update.name]] = _encode_system(update)
            else:
                changed[update.name.casefold()] = update
        # A message may have several properties whose names differ only in upper and lower case.
        names = map_items(sections.application_properties)
        replaced = {name: name.casefold() for name in names if name.casefold() in changed}
        spellings = {key: name for name, key in replaced.items()}
        ours = [
            encode(spellings.get(key, update.name)) + encode(amqp_value_of(update.value))
            for key, update in changed.items()
            if not update.is_removed
        ]
        properties = replace_pairs(
            APPLICATION_PROPERTIES,
            sections.application_properties,
            b"".join(ours),
            len(ours),
            frozenset(replaced),
        )
        bare = (_section_of_properties(fields), properties, *sections.body, sections.footer)
        return replace(message, bare=b"".join(bare))


def _encode_system(update: PropertyUpdate) -> bytes:
    if update.value is None:
        return _NULL
    text = str(update.value)
    return encode(Symbol(text) if update.name in _SYMBOLS and text.isascii() else text)


def _filtered_value(encoded: bytes) -> Value | None:
    try:
        return convert_value(decode(encoded))
    except DecodeError:
        return None


def convert_value(value: object) -> Value | None:
    """Convert a property's value to a type that filters can compare, or None."""
    if isinstance(value, Timestamp):
        try:
            return value.instant()
        except OverflowError:
            return None
    if isinstance(value, bool | UUID):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


def amqp_value_of(value: Value | None) -> Any:
    """Convert the result of `convert_value` back to a value that can be encoded."""
    match value:
        case datetime():
            return Timestamp.of(value)
        case timedelta():
            return format_duration(value)
        case int() if value > _MAX_LONG:
            return ULong(value)
        case _:
            return value


# Encoding messages for a receiver


def write_message(
    message: StoredMessage, lock_token: UUID | None, locked_until: datetime | None
) -> bytes:
    """Encode a message for a receiver."""
    sender = split(message.annotations) if message.annotations else _NOTHING
    return b"".join(
        (
            _header(message),
            _delivery_annotations(sender.delivery_annotations, lock_token),
            _message_annotations(sender.message_annotations, message, locked_until),
            _bare(message),
        )
    )


_NOTHING = Sections()
_SECTION_OF_HEADER = b"\x00\x53" + bytes((HEADER,))


def _header(message: StoredMessage) -> bytes:
    count = UInt(message.delivery_count)
    items = list_items(message.header)[:3]
    fields = [*map(Raw, items), *[None] * (4 - len(items)), count]
    return _SECTION_OF_HEADER + encode_list(fields)


def _delivery_annotations(sender_section: bytes, lock_token: UUID | None) -> bytes:
    if lock_token is None:
        return sender_section
    ours = _LOCK_TOKEN_KEY + lock_token.bytes
    return replace_pairs(DELIVERY_ANNOTATIONS, sender_section, ours, 1, frozenset((_LOCK_TOKEN,)))


def _message_annotations(
    sender_section: bytes, message: StoredMessage, locked_until: datetime | None
) -> bytes:
    ours = [
        _SEQUENCE_NUMBER_KEY,
        _INT64(message.sequence_number),
        _ENQUEUED_KEY,
        _INT64(Timestamp.of(message.enqueued_at)),
        _ENQUEUE_SEQUENCE_KEY,
        _INT64(message.enqueue_sequence_number),
        _STATE_KEY,
        bytes((message.state,)),
    ]
    count = 4
    if locked_until is not None:
        ours += _LOCKED_UNTIL_KEY, _INT64(Timestamp.of(locked_until))
        count += 1
    if message.dead_letter_source is not None:
        ours += _SOURCE_KEY, encode(message.dead_letter_source)
        count += 1
    return replace_pairs(MESSAGE_ANNOTATIONS, sender_section, b"".join(ours), count, _OURS)


def _bare(message: StoredMessage) -> bytes:
    own = dict(message.property_changes)
    if message.dead_letter_reason is not None:
        own[_REASON] = encode(message.dead_letter_reason)
    if message.dead_letter_description is not None:
        own[_DESCRIPTION] = encode(message.dead_letter_description)
    if not own:
        return message.bare
    sections = split(message.bare)
    ours = b"".join(encode(name) + value for name, value in own.items())
    properties = replace_pairs(
        APPLICATION_PROPERTIES, sections.application_properties, ours, len(own), frozenset(own)
    )
    return b"".join((sections.properties, properties, *sections.body, sections.footer))
