"""Split messages into sections without decoding the sections (chapter 3.2 of the specification).

The bytes of a section are not changed, except for the descriptor. The descriptor is always encoded
as `00 53 code`, because clients rely on this form.
"""

from dataclasses import dataclass, replace
from typing import Any

from emulator.servicebus.amqp.codec import (
    Decoder,
    compound_items,
    decode,
    encode,
    skip,
    wrap_compound,
)
from emulator.servicebus.amqp.errors import DecodeError
from emulator.servicebus.amqp.types import Symbol

HEADER = 0x70
DELIVERY_ANNOTATIONS = 0x71
MESSAGE_ANNOTATIONS = 0x72
PROPERTIES = 0x73
APPLICATION_PROPERTIES = 0x74
DATA = 0x75
SEQUENCE = 0x76
VALUE = 0x77
FOOTER = 0x78

_LISTS = frozenset((HEADER, PROPERTIES))
_MAPS = frozenset((DELIVERY_ANNOTATIONS, MESSAGE_ANNOTATIONS, APPLICATION_PROPERTIES, FOOTER))
_LIST_CODES = frozenset((0x45, 0xC0, 0xD0))
_MAP_CODES = frozenset((0xC1, 0xD1))
_DESCRIPTOR_BYTES = 3
_BY_NAME = {
    Symbol("amqp:header:list"): HEADER,
    Symbol("amqp:delivery-annotations:map"): DELIVERY_ANNOTATIONS,
    Symbol("amqp:message-annotations:map"): MESSAGE_ANNOTATIONS,
    Symbol("amqp:properties:list"): PROPERTIES,
    Symbol("amqp:application-properties:map"): APPLICATION_PROPERTIES,
    Symbol("amqp:data:binary"): DATA,
    Symbol("amqp:amqp-sequence:list"): SEQUENCE,
    Symbol("amqp:amqp-value:*"): VALUE,
    Symbol("amqp:footer:map"): FOOTER,
}


@dataclass(frozen=True, slots=True)
class Sections:
    """The encoded sections of one message. Each section starts with its descriptor.

    If the message does not have a section, the attribute for this section is empty.
    """

    header: bytes = b""
    delivery_annotations: bytes = b""
    message_annotations: bytes = b""
    properties: bytes = b""
    application_properties: bytes = b""
    body: tuple[bytes, ...] = ()
    footer: bytes = b""

    @property
    def bare(self) -> bytes:
        """All sections except the header and the annotations, as one bytes object."""
        return b"".join((self.properties, self.application_properties, *self.body, self.footer))


_FIELDS = {
    HEADER: "header",
    DELIVERY_ANNOTATIONS: "delivery_annotations",
    MESSAGE_ANNOTATIONS: "message_annotations",
    PROPERTIES: "properties",
    APPLICATION_PROPERTIES: "application_properties",
    FOOTER: "footer",
}


def split(payload: bytes) -> Sections:
    """Split a message into sections in any order, as azure-servicebus sends. Raises DecodeError."""
    found: dict[str, bytes] = {}
    body: list[bytes] = []
    body_code = offset = 0
    while offset < len(payload):
        code, value_at = _descriptor(payload, offset)
        offset = skip(payload, value_at)
        _check_kind(code, payload[value_at])
        section = b"\x00\x53" + bytes((code,)) + payload[value_at:offset]
        if code in _FIELDS:
            if _FIELDS[code] in found:
                raise DecodeError(f"the message has more than one {_FIELDS[code]} section")
            found[_FIELDS[code]] = section
        elif body and (code != body_code or code == VALUE):
            raise DecodeError(
                "the body of a message must have sections of one kind, and at most one amqp-value "
                "section"
            )
        else:
            body_code = code
            body.append(section)
    return replace(Sections(body=tuple(body)), **found)  # type: ignore[arg-type] # by name


def _descriptor(payload: bytes, offset: int) -> tuple[int, int]:
    """Return the descriptor of the section at `offset`, and the offset of the section's value."""
    if payload[offset]:
        raise DecodeError("a section of a message has no descriptor")
    if payload[offset + 1 : offset + 2] == b"\x53" and len(payload) > offset + 3:
        code: Any = payload[offset + 2]
        value_at = offset + _DESCRIPTOR_BYTES
    else:
        decoder = Decoder(payload, offset + 1)
        code = decoder.value()
        value_at = decoder.offset
        if isinstance(code, Symbol):
            code = _BY_NAME.get(code)
    if not isinstance(code, int) or not HEADER <= code <= FOOTER or value_at >= len(payload):
        raise DecodeError("a section of a message has an unknown descriptor or no value")
    return code, value_at


def _check_kind(code: int, format_code: int) -> None:
    if code in _LISTS and format_code not in _LIST_CODES:
        raise DecodeError("the header and the properties of a message must be lists")
    if code in _MAPS and format_code not in _MAP_CODES:
        raise DecodeError(
            "the annotations, application properties and footer of a message must be maps"
        )


def list_items(section: bytes) -> list[bytes]:
    """Return a list section's encoded items. Raises DecodeError if it is malformed."""
    return _items(section)


def map_items(section: bytes) -> dict[str, tuple[bytes, bytes]]:
    """Return a map section's encoded (key, value) pairs by their decoded keys.

    Raises DecodeError if it is malformed or a key is neither a string nor a symbol.
    """
    if not section:
        return {}
    items = _items(section)
    if len(items) % 2:
        raise DecodeError("a map has a key without a value")
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for at in range(0, len(items), 2):
        key = decode(items[at])
        if not isinstance(key, str):
            raise DecodeError(
                "a key of a message's annotations or properties is neither a string nor a symbol"
            )
        pairs[key] = items[at], items[at + 1]
    return pairs


def replace_pairs(
    code: int, section: bytes, ours: bytes, count: int, reserved: frozenset[str]
) -> bytes:
    """Return a map section without the keys in `reserved`, and with `count` pairs in `ours`."""
    if section:
        sender_section = [
            each for key, pair in map_items(section).items() if key not in reserved for each in pair
        ]
        ours = b"".join(sender_section) + ours
        count += len(sender_section) // 2
    return b"\x00\x53" + bytes((code,)) + wrap_compound(0xC1, ours, 2 * count)


def encode_section(code: int, value: Any) -> bytes:
    """Encode a value as a message section that has this descriptor code."""
    return b"\x00\x53" + bytes((code,)) + encode(value)


def section_value(section: bytes) -> Any:
    """Decode the value of a section. Raises DecodeError if the value is malformed."""
    return decode(section[_DESCRIPTOR_BYTES:])


def _items(section: bytes) -> list[bytes]:
    if not section:
        return []
    count, offset, end = compound_items(section, _DESCRIPTOR_BYTES)
    if count > end - offset:
        raise DecodeError("the item count of a list or map exceeds the number of its bytes")
    items = []
    for _ in range(count):
        item_end = skip(section, offset)
        items.append(section[offset:item_end])
        offset = item_end
    if offset != end:
        raise DecodeError(
            "the encoded size of a list or map differs from the total size of its items"
        )
    return items
