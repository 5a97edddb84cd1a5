"""Test how the sections of a message are read, stored and encoded for a delivery."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from azure.servicebus._pyamqp._decode import decode_payload
from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.amqp.codec import encode, encode_composite
from emulator.servicebus.amqp.errors import DecodeError, MessageFault
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    DELIVERY_ANNOTATIONS,
    HEADER,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    VALUE,
    encode_section,
    list_items,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import Described, Symbol, Timestamp, UByte, UInt, ULong
from emulator.servicebus.broker.message import IncomingMessage, MessageState, StoredMessage
from emulator.servicebus.messages import (
    BATCH_FORMAT,
    read_message,
    read_messages,
    write_message,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
BODY = encode_section(DATA, b"body")
TOKEN = UUID("00112233-4455-6677-8899-aabbccddeeff")


def stored(message: IncomingMessage, **changes: Any) -> StoredMessage:
    facts: dict[str, Any] = {
        "header": message.header,
        "annotations": message.annotations,
        "bare": message.bare,
        "sequence_number": 7,
        "enqueue_sequence_number": 5,
        "enqueued_at": NOW,
        "state": MessageState.ACTIVE,
        "delivery_count": 3,
        "time_to_live": None,
        "scheduled_at": None,
        "expires_at": None,
        "dead_letter_reason": None,
        "dead_letter_description": None,
        "dead_letter_source": None,
    }
    return StoredMessage(**facts | changes)


def delivered(payload: bytes, **changes: Any) -> Any:
    """Return the message object that Microsoft's client creates if `payload` is delivered."""
    message = stored(read_message(payload), **changes)
    return decode_payload(memoryview(write_message(message, TOKEN, NOW)))


def test_delivery_has_lock_token_and_annotations() -> None:
    message = delivered(BODY)
    assert message.data == [b"body"]
    assert message.header.delivery_count == 3
    assert message.header.ttl is None
    assert message.delivery_annotations == {b"x-opt-lock-token": TOKEN}
    assert message.message_annotations == {
        b"x-opt-sequence-number": 7,
        b"x-opt-enqueue-sequence-number": 5,
        b"x-opt-enqueued-time": Timestamp.of(NOW),
        b"x-opt-locked-until": Timestamp.of(NOW),
        b"x-opt-message-state": 0,
    }


def test_delivery_keeps_the_senders_fields() -> None:
    payload = (
        encode_composite(HEADER, [True, UByte(9), UInt(60_000), True, UInt(99)])
        + encode_section(DELIVERY_ANNOTATIONS, {Symbol("mine"): "one"})
        + encode_section(
            MESSAGE_ANNOTATIONS, {Symbol("mine"): "two", Symbol("x-opt-sequence-number"): 1}
        )
        + BODY
    )
    written = write_message(stored(read_message(payload)), TOKEN, NOW)
    assert len(list_items(split(written).message_annotations)) == 2 * 6  # each key occurs only once
    message = delivered(payload)
    assert tuple(message.header) == (True, 9, 60_000, None, 3)
    assert message.delivery_annotations == {b"mine": b"one", b"x-opt-lock-token": TOKEN}
    assert message.message_annotations[b"mine"] == b"two"
    assert message.message_annotations[b"x-opt-sequence-number"] == 7


def test_dead_letter_has_its_reason() -> None:
    payload = (
        encode_composite(PROPERTIES, ["id"])
        + encode_section(APPLICATION_PROPERTIES, {"mine": 1, "DeadLetterReason": "old"})
        + BODY
    )
    message = delivered(
        payload,
        dead_letter_reason="new",
        dead_letter_description="more",
        dead_letter_source="queue",
    )
    assert message.application_properties == {
        b"mine": 1,
        b"DeadLetterReason": b"new",
        b"DeadLetterErrorDescription": b"more",
    }
    assert message.properties.message_id == b"id"
    assert message.data == [b"body"]
    assert message.message_annotations[b"x-opt-deadletter-source"] == b"queue"


def test_peeked_message_has_no_lock() -> None:
    message: Any = decode_payload(memoryview(write_message(stored(read_message(BODY)), None, None)))
    assert message.delivery_annotations is None
    assert b"x-opt-locked-until" not in message.message_annotations


def test_id_lifetime_and_schedule_are_read() -> None:
    payload = (
        encode_composite(HEADER, [None, None, UInt(1500)])
        + encode_section(
            MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp.of(NOW)}
        )
        + encode_composite(PROPERTIES, [UUID(int=1)])
        + BODY
    )
    message = read_message(payload)
    assert message.time_to_live == timedelta(milliseconds=1500)
    assert message.scheduled_at == NOW
    assert message.message_id == str(UUID(int=1))
    assert message.size_bytes == len(payload)


@pytest.mark.parametrize(
    ("message_id", "text"), [("a", "a"), (ULong(7), "7"), (b"\x01\xff", "01ff"), (None, None)]
)
def test_id_of_any_type_becomes_text(message_id: Any, text: str | None) -> None:
    assert read_message(encode_composite(PROPERTIES, [message_id]) + BODY).message_id == text


@pytest.mark.parametrize("properties", [b"", encode_composite(PROPERTIES, [None, None, "to"])])
def test_missing_id_becomes_32_hexadecimal_digits(properties: bytes) -> None:
    messages = read_message(properties + BODY), read_message(properties + BODY)
    first, second = (section_value(split(each.bare).properties) for each in messages)
    assert re.fullmatch("[0-9a-f]{32}", first[0])
    assert first[0] != second[0]
    assert first[1:] == ([None, "to"] if properties else [])
    assert split(messages[0].bare).body == (BODY,)
    # Duplicate detection does not use the generated id.
    assert messages[0].message_id is None


def test_batch_with_other_data_raises_decode_error() -> None:
    batch = encode_section(DATA, BODY) + encode_section(DATA, uuid4())
    with pytest.raises(DecodeError, match="must contain a binary value"):
        read_messages(batch, BATCH_FORMAT)


def test_batch_is_read_as_separate_messages() -> None:
    one = encode_composite(PROPERTIES, ["one"]) + BODY
    two = encode_composite(PROPERTIES, ["two"]) + BODY
    batch = encode_section(DATA, one) + encode_section(DATA, two)
    messages = read_messages(batch, BATCH_FORMAT)
    assert [each.message_id for each in messages] == ["one", "two"]
    assert messages[0].bare == one
    with pytest.raises(MessageFault, match="at least one message"):
        read_messages(encode_section(VALUE, "x"), BATCH_FORMAT)
    with pytest.raises(MessageFault, match="not supported"):
        read_messages(BODY, 1)


def test_sections_are_stored_in_standard_order() -> None:
    properties = encode_composite(PROPERTIES, ["id"])
    annotations = encode_section(DELIVERY_ANNOTATIONS, {Symbol("mine"): 1})
    message = read_message(BODY + annotations + properties)
    assert message.bare == properties + BODY
    assert message.annotations == annotations


def test_long_descriptors_become_short() -> None:
    named = encode(Described(Symbol("amqp:data:binary"), b"body"))
    long = b"\x00\x80" + (DATA).to_bytes(8, "big") + encode(b"body")
    assert split(named).bare == split(long).bare == BODY


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"\x40", "no descriptor"),
        (b"\x00", "bytes end before"),
        (b"\x00\x53\x75", "unknown descriptor or no value"),
        (b"\x00\x53\x75\xa0\x05ab", "bytes end before"),
        (encode_section(0x79, 1), "unknown descriptor"),
        (encode_section(VALUE, 1) * 2, "sections of one kind"),
        (BODY + encode_section(VALUE, 1), "sections of one kind"),
        (encode_composite(PROPERTIES, []) * 2, "more than one properties section"),
        (encode_section(PROPERTIES, "text"), "must be lists"),
        (encode_section(MESSAGE_ANNOTATIONS, []), "must be maps"),
        (encode_section(MESSAGE_ANNOTATIONS, {1: 2}), "neither a string nor a symbol"),
        (b"\x00\x53\x72\xc1\x02\x01\x40", "without a value"),
        (
            b"\x00\x53\x72\xd1\x00\x00\x00\x04\xff\xff\xff\xff",
            "item count of a list or map exceeds",
        ),
        (encode_composite(HEADER, [None, None, "soon"]), "ttl"),
        (
            encode_section(MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): "now"}),
            "timestamp",
        ),
        (
            encode_section(
                MESSAGE_ANNOTATIONS, {Symbol("x-opt-scheduled-enqueue-time"): Timestamp(1 << 62)}
            ),
            "in the years 1 to 9999",
        ),
    ],
)
def test_malformed_message_raises_decode_error(payload: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read_message(payload)


EXAMPLE = (
    encode_composite(HEADER, [True])
    + encode_section(MESSAGE_ANNOTATIONS, {Symbol("a"): 1})
    + encode_composite(PROPERTIES, ["id"])
    + encode_section(APPLICATION_PROPERTIES, {"b": [1, 2]})
    + BODY * 2
)


@given(st.data())
def test_body_of_every_accepted_message_is_unchanged(
    data: st.DataObject,
) -> None:
    payload = bytearray(EXAMPLE)
    for _ in range(data.draw(st.integers(0, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = read_message(bytes(payload))
    except DecodeError:
        return
    told = stored(message, dead_letter_reason="why", dead_letter_source="queue")
    assert split(write_message(told, TOKEN, NOW)).body == split(bytes(payload)).body


def test_section_value_is_decoded() -> None:
    assert section_value(BODY) == b"body"
